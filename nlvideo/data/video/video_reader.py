"""``open_video``: one call for every kind of video; ``VideoReader`` and ``TorchCodecReader``: exact frames of files."""

import contextlib
import errno
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, TypeVar

import av
import numpy as np

from nlvideo.config.validate import ALLOWED
from nlvideo.data.video.base import Video, read_errors
from nlvideo.data.video.frame_decoder import FrameDecoder
from nlvideo.data.video.frames import FrameArray, FrameFolder
from nlvideo.data.video.paths import is_frame_folder, local_video_path
from nlvideo.data.video.pixels import DEFAULT_LIMITS, Geometry, PixelLimits, RgbConverter, geometry_of
from nlvideo.data.video.video_index import IndexCache, VideoIndex
from nlvideo.errors import TimeLimitExceeded, VideoDecodeError
from nlvideo.utils.console import log_once
from nlvideo.utils.messages import one_of
from nlvideo.utils.system.time_limit import TimeLimit

# A sound file of any size opens, and any frame decodes, in less, also from a slow network disk.
DEFAULT_TIMEOUT_SEC = 60.0
# Frames that TorchCodecReader holds at once when a whole video is checked.
_CHUNK = 64

Result = TypeVar("Result")


class VideoReader(Video):
    """Random access to the frames of one video file, exact to the frame; see ``Video``.

    Frame k is frame k of a decode from the start, to the byte; ``FrameDecoder`` says how. Only wanted frames become
    RGB. A frame whose data is damaged is returned as the decoder repaired it. The frames are those of the video stream
    that FFmpeg calls the best one. A reader may be used again after a fork: it then opens the file again.

    Args:
        path: the file.
        timeout_sec: a file that takes longer to open, or to give its next frame, is given up, even where it hangs
            inside FFmpeg. This process does not try it again. 0: never. Default: see ``DEFAULT_TIMEOUT_SEC``.
        index_dir: folder where indices are kept, so that later openings need not read all packets; None: nowhere.
        pixels: how large frames may be, and all frames of one call together.
        check: decode the file to make its index whatever its kind is, and use no index that was made otherwise.

    Raises:
        VideoDecodeError: the file is missing, empty, truncated, not a video or damaged, or it takes too long.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        timeout_sec: float = DEFAULT_TIMEOUT_SEC,
        index_dir: str | os.PathLike | None = None,
        pixels: PixelLimits = DEFAULT_LIMITS,
        check: bool = False,
    ):
        super().__init__(path, pixels)
        self._timeout_sec = timeout_sec
        self._converter = RgbConverter()
        cache = IndexCache(index_dir) if index_dir else None
        index = cache.load(self.path) if cache else None
        if index and check and not index.checked:
            index = None
        # Before the file is read: one that is replaced meanwhile is another file.
        key = cache.key_of(self.path) if cache and index is None else None
        self._geometry = index.geometry if index else None
        self._open(index, check)
        if cache and key:
            # A first frame that is damaged may be one that is never asked for.
            with contextlib.suppress(VideoDecodeError):
                self.geometry  # noqa: B018
            # A full or read-only disk costs time, not the video.
            with contextlib.suppress(OSError):
                cache.save(self.path, replace(self._index, geometry=self._geometry), key)
        elif self._index.checked and index is None:
            kind = f"Videos of the kind {self._decoder.kind} are decoded whole when they are opened"
            log_once(f"{kind}. DATALOADER.INDEX_DIR keeps the result for later", logging.INFO)

    def _read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index, frame in self._decoder.frames(indices):
            self._pixels.check_frame(self.path, frame.height, frame.width)
            self._geometry = geometry_of(frame)
            yield index, self._converter(frame)

    def _get_frames(self, indices: Sequence[int]) -> np.ndarray:
        read = super()._get_frames
        return self._run(lambda: read(indices))

    def index_at(self, seconds: float) -> int:
        """Return the index of the first frame that is shown at or after ``seconds``; see ``Video``."""
        # Timestamps are rounded to the time base: half a tick decides no frame.
        ticks = Fraction(seconds).limit_denominator(10**6) / self._index.time_base - Fraction(1, 2)
        return int(np.searchsorted(self._index.times, math.ceil(ticks)))

    def check(self) -> None:
        """Decode the whole video, and compare a few frames by random access with what comes out; see ``Video``."""
        self._run(self._decoder.check)

    @property
    def geometry(self) -> Geometry:
        """Size and turn of the frames, see ``Video``; the first frame is decoded where nothing else was."""
        if self._geometry is None:
            self.get_frames([0])
            assert self._geometry is not None  # reading a frame sets it
        return self._geometry

    @property
    def frame_seconds(self) -> np.ndarray:
        """When each frame is shown: float64 (num_frames,), seconds; see ``ShowTimes``."""
        return self._index.times * float(self._index.time_base)

    @property
    def show_times(self) -> tuple[np.ndarray, Fraction]:
        """``frame_seconds`` without rounding: int64 (num_frames,), and of how many seconds they are multiples."""
        return self._index.times, self._index.time_base

    @property
    def num_decoded(self) -> int:
        """Frames that came out of the decoder so far."""
        return self._decoder.num_decoded

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame by what the header says, which need not be true; 0 where it does not say it."""
        return self._decoder.frame_bytes

    def close(self) -> None:
        """Close the file. It may be called more than once."""
        # The thread of work that was abandoned closes what it uses.
        if not self._limit.abandoned:
            self._decoder.close()

    def _open(self, index: VideoIndex | None, check: bool = False) -> None:
        self._pid = os.getpid()
        self._limit = TimeLimit(self._timeout_sec, self.path)
        self._decoder = FrameDecoder(self.path, self._limit, self._pixels)
        try:
            self._run(lambda: self._decoder.open(index, check))
        except BaseException:
            self.close()
            raise
        self._index = self._decoder.index
        self.num_frames, self.fps = self._index.num_frames, self._index.fps

    def _run(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns, within the time limit and with one kind of error."""
        if self._limit.abandoned:
            raise VideoDecodeError(self.path, "given up before")
        if self._pid != os.getpid():
            # The parent's file shares its position with ours.
            self._open(self._index)
        with read_errors(self.path):
            try:
                return self._limit.run(work, cleanup=self._decoder.close)
            except (TimeLimitExceeded, av.error.ExitError):
                self._limit.give_up()
                raise VideoDecodeError(self.path, f"no progress in {self._timeout_sec:g} s, given up") from None


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


#: What can read files, by the names that DATALOADER.READER may have.
READERS = dict(zip(ALLOWED["DATALOADER.READER"], (VideoReader, TorchCodecReader), strict=True))


def is_outage(error: Exception) -> bool:
    """Return whether an error says nothing about the video: its store or the disk failed."""
    return isinstance(error, (ConnectionError, PermissionError)) or getattr(error, "errno", None) == errno.ENOSPC


def open_video(
    path: str | os.PathLike | np.ndarray | Video,
    fps: float | None = None,
    *,
    reader: str = "pyav",
    timeout_sec: float = DEFAULT_TIMEOUT_SEC,
    index_dir: str | os.PathLike | None = None,
    pixels: PixelLimits = DEFAULT_LIMITS,
) -> Video:
    """Open a video file, a folder of frames, or frames in memory; all are read alike.

    Args:
        path: a file or a folder (a remote one is fetched, of a folder the frames that are read); uint8 (T, H, W, 3),
            RGB; or a video that is open already, such as a window of a stream, which is returned.
        fps: frames per second of a folder or an array; the others know their own.
        reader: of files, a name in ``READERS``.
        timeout_sec, index_dir: of files, see ``VideoReader``.
        pixels: how large frames may be, of files and folders.

    Raises:
        ValueError: an unknown reader, or an array that is not frames.
        ImportError: torchcodec is asked for and missing.
        VideoDecodeError: the video cannot be read, see ``Video``.
        ConnectionError, PermissionError: its store does not answer, or refuses access.
    """
    if isinstance(path, np.ndarray):
        return FrameArray(path, fps)
    if isinstance(path, Video):
        return path
    if reader not in READERS:
        raise one_of("reader", reader, READERS)
    path = os.fspath(path)
    try:
        local = local_video_path(path)
    except OSError as error:
        # Another video must not take the place of one that is there: the stream of clips would change.
        if is_outage(error):
            raise
        raise VideoDecodeError(path, f"not fetched: {error}") from None
    if is_frame_folder(local):
        return FrameFolder(local, fps, pixels)
    return READERS[reader](local, timeout_sec, index_dir, pixels)
