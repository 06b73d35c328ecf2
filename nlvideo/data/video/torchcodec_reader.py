"""``TorchCodecReader``: the frames of ``VideoReader``, decoded by torchcodec."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nlvideo.data.video.video_index import VideoIndex
from nlvideo.data.video.video_reader import VideoReader
from nlvideo.errors import VideoDecodeError

# Frames held at once when a whole video is checked.
_CHUNK = 64


class TorchCodecReader(VideoReader):
    """A ``VideoReader`` whose frames torchcodec decodes, on the CPU; ``pip install 'nlvideo[torchcodec]'``.

    Numbers, times and errors are those of ``VideoReader``, whose index it uses. Frames are the same to the byte where
    both use the same conversion: 8 bits per channel. Deeper formats differ by rounding and by how chroma is
    interpolated. A file of a kind that is not proven, or a mirrored one, is read by ``VideoReader``. One whose frames
    torchcodec counts otherwise is refused.

    Arguments are those of ``VideoReader``. ``timeout_sec`` is for all frames of one call, and the size of a frame is
    the one that the header says.

    Raises:
        ImportError: torchcodec is missing or finds no FFmpeg.
        VideoDecodeError: see ``VideoReader``.
    """

    _torchcodec: Any
    _is_fit: bool | None

    def _get_frames(self, indices: Sequence[int]) -> np.ndarray:
        if not self._fits():
            return super()._get_frames(indices)
        return self._run(lambda: self._get_from_torchcodec(indices))

    def _get_from_torchcodec(self, indices: Sequence[int]) -> np.ndarray:
        # torchcodec has one kind of error for everything.
        try:
            if self._torchcodec is None:
                options = {"num_ffmpeg_threads": 1, "device": "cpu", "seek_mode": "exact"}
                self._torchcodec = self._video_decoder(self.path, dimension_order="NHWC", **options)
            if (count := len(self._torchcodec)) != self.num_frames:
                counts = f"torchcodec counts {count} frames instead of {self.num_frames}"
                raise VideoDecodeError(self.path, f"{counts}: use reader 'pyav' (DATALOADER.READER)")
            size = self._torchcodec.metadata.height, self._torchcodec.metadata.width
            self._pixels.check_clip(self.path, len(indices), *size)
            return self._torchcodec.get_frames_at([int(index) for index in indices]).data.numpy()
        except VideoDecodeError:
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            raise VideoDecodeError(self.path, _first_line(error)) from error

    def check(self) -> None:
        """Decode the whole video; see ``Video``."""
        if not self._fits():
            super().check()
            return
        for first in range(0, self.num_frames, _CHUNK):
            self.get_frames(range(first, min(first + _CHUNK, self.num_frames)))

    def close(self) -> None:
        """Close the file. It may be called more than once."""
        super().close()
        if not self._limit.abandoned:
            self._torchcodec = None

    def _open(self, index: VideoIndex | None, check: bool = False) -> None:
        self._video_decoder = load_video_decoder()
        self._torchcodec = self._is_fit = None
        super()._open(index, check)

    def _fits(self) -> bool:
        """Whether torchcodec, which seeks by its own rules and knows no mirrors, gives the frames of the index."""
        if self._is_fit is None:
            with contextlib.suppress(VideoDecodeError):
                if self._geometry is None:
                    super()._get_frames([0])
            is_mirrored = self._geometry is not None and self._geometry.mirrored
            self._is_fit = self._decoder.is_proven and self._index.can_seek and not is_mirrored
            if self._is_fit:
                # The index is all that is needed from here.
                self._decoder.close()
        return self._is_fit


def load_video_decoder() -> Callable[..., Any]:
    """Return torchcodec's class, or raise ``ImportError`` with one line that says what is missing."""
    try:
        from torchcodec.decoders import VideoDecoder
    except ImportError as error:
        raise ImportError(f"reader 'torchcodec' needs: pip install 'nlvideo[torchcodec]' ({error})") from None
    # Where its own libraries do not load: the message is long, with a traceback for each version of FFmpeg.
    except (RuntimeError, OSError) as error:
        needs = "torchcodec is installed but does not load: it needs FFmpeg's shared libraries (apt install ffmpeg) and"
        raise ImportError(f"{needs} a release that fits this torch; {_first_line(error)}") from None
    return VideoDecoder


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
