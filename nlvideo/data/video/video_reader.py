"""``VideoReader``: frames of a video file by their exact index."""

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TypeVar

import av
import numpy as np

from nlvideo.data.video.base import Video, read_errors
from nlvideo.data.video.frame_decoder import FrameDecoder
from nlvideo.data.video.pixels import DEFAULT_LIMITS, Geometry, PixelLimits, RgbConverter, geometry_of
from nlvideo.data.video.video_index import IndexCache, VideoIndex
from nlvideo.errors import TimeLimitExceeded, VideoDecodeError
from nlvideo.utils.console import log_once
from nlvideo.utils.system.time_limit import TimeLimit

# A sound file of any size opens, and any frame decodes, in less, also from a slow network disk.
DEFAULT_TIMEOUT_SEC = 60.0

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
            advice = "an index folder (DATALOADER.INDEX_DIR) keeps what was found, so that it is done once"
            log_once(f"such videos are decoded when they are opened: {self._decoder.kind}; {advice}", logging.INFO)

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
