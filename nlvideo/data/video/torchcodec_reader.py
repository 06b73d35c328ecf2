"""``TorchCodecReader``: the frames of ``VideoReader``, decoded by torchcodec."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from nlvideo.data.video.pixel_limits import PixelLimits
from nlvideo.data.video.video_index import VideoIndex
from nlvideo.data.video.video_reader import DEFAULT_TIMEOUT_SEC, VideoReader, rows_by_index
from nlvideo.errors import VideoDecodeError

# Frames held at once when a whole video is checked.
_CHUNK = 64


class TorchCodecReader(VideoReader):
    """A ``VideoReader`` whose frames torchcodec decodes, on the CPU; ``pip install 'nlvideo[torchcodec]'``.

    Numbers, times and errors are those of ``VideoReader``, whose index it uses, and frames are the same to the byte
    where both use the same conversion: 8 bits per channel. Deeper formats differ by rounding and by how chroma is
    interpolated. A file of a kind that is not proven, or a mirrored one, is read by ``VideoReader``. One whose frames
    torchcodec counts otherwise is refused.

    Args:
        path: the file.
        timeout_sec: see ``VideoReader``; here for all frames of one call.
        index_dir: see ``VideoReader``.
        pixels: see ``VideoReader``; the size is the one that the header says.

    Raises:
        ImportError: torchcodec is missing or finds no FFmpeg.
        VideoDecodeError: see ``VideoReader``.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        timeout_sec: float = DEFAULT_TIMEOUT_SEC,
        index_dir: str | os.PathLike | None = None,
        pixels: PixelLimits = PixelLimits(),
    ):
        self._torchcodec: Any = None
        self._video_decoder = load_video_decoder()
        super().__init__(path, timeout_sec, index_dir, pixels)

    def get_frames(self, indices: Sequence[int]) -> np.ndarray:
        """Return frames by index, in the order given; see ``VideoReader``, also for what it raises."""
        if not self._fits():
            return super().get_frames(indices)
        rows_by_index(self.path, indices, self.num_frames)

        def _read() -> np.ndarray:
            if self._torchcodec is None:
                self._torchcodec = self._open_torchcodec()
            size = self._torchcodec.metadata.height, self._torchcodec.metadata.width
            self._pixels.check_clip(self.path, len(indices), *size)
            try:
                return self._torchcodec.get_frames_at([int(index) for index in indices]).data.numpy()
            # torchcodec has one kind of error for everything.
            except (RuntimeError, IndexError) as error:
                raise VideoDecodeError(self.path, _first_line(error)) from error

        return self._run(_read)

    def check(self) -> None:
        """Decode the whole video.

        Raises:
            VideoDecodeError: some frame cannot be decoded.
        """
        if not self._fits():
            super().check()
            return
        for first in range(0, self.num_frames, _CHUNK):
            self.get_frames(range(first, min(first + _CHUNK, self.num_frames)))

    def close(self) -> None:
        """Close the file; may be called more than once."""
        super().close()
        if not self._limit.abandoned:
            self._torchcodec = None

    def _open(self, index: VideoIndex | None, check: bool = False) -> None:
        super()._open(index, check)
        self._torchcodec = None
        self._is_fit: bool | None = None

    def _fits(self) -> bool:
        """Whether torchcodec, which seeks by its own rules and knows no mirrors, gives the frames of the index."""
        if self._is_fit is None:
            with contextlib.suppress(VideoDecodeError):
                if self._geometry is None:
                    super().get_frames([0])
            is_mirrored = self._geometry is not None and self._geometry[3]
            self._is_fit = self._decoder.is_proven and self._index.can_seek and not is_mirrored
            if self._is_fit:
                # The index is all that is needed from here.
                self._decoder.close()
        return self._is_fit

    def _open_torchcodec(self) -> Any:
        try:
            decoder = self._video_decoder(
                self.path, dimension_order="NHWC", num_ffmpeg_threads=1, device="cpu", seek_mode="exact"
            )
        except (RuntimeError, ValueError) as error:
            raise VideoDecodeError(self.path, _first_line(error)) from error
        if len(decoder) != self.num_frames:
            counts = f"torchcodec counts {len(decoder)} frames instead of {self.num_frames}"
            raise VideoDecodeError(self.path, f"{counts}: use DATALOADER.READER 'pyav'")
        return decoder


def load_video_decoder() -> type:
    """Return torchcodec's class.

    Raises:
        ImportError: one line that says what is missing.
    """
    try:
        from torchcodec.decoders import VideoDecoder
    except ImportError as error:
        raise ImportError(
            f"DATALOADER.READER 'torchcodec' needs: pip install 'nlvideo[torchcodec]' ({error})"
        ) from None
    # Where its own libraries do not load: long, with a traceback for each version of FFmpeg.
    except (RuntimeError, OSError) as error:
        needs = "torchcodec is installed but does not load: it needs FFmpeg's shared libraries (apt install ffmpeg) and"
        raise ImportError(f"{needs} a release that fits this torch; {_first_line(error)}") from None
    return VideoDecoder


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
