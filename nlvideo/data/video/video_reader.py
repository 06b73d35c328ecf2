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

from nlvideo.data.video.frame_decoder import FrameDecoder
from nlvideo.data.video.pixel_limits import PixelLimits
from nlvideo.data.video.read_errors import READ_ERRORS, unreadable
from nlvideo.data.video.upright import RgbConverter, orientation_of
from nlvideo.data.video.video_index import IndexCache, VideoIndex
from nlvideo.errors import TimeLimitExceeded, VideoDecodeError
from nlvideo.utils.closing import Closing
from nlvideo.utils.console import log_once
from nlvideo.utils.system.time_limit import TimeLimit

__all__ = ["DEFAULT_TIMEOUT_SEC", "VideoDecodeError", "VideoReader", "rows_by_index"]

# A sound file of any size opens, and any frame decodes, in less, also from a slow network disk.
DEFAULT_TIMEOUT_SEC = 60.0

Result = TypeVar("Result")


class VideoReader(Closing):
    """Random access to the frames of one video, exact to the frame; a context manager that always closes the file.

    Frame k is frame k of a decode from the start, to the byte. Opening reads the packets without decoding them, or their
    index from a cache: their sorted timestamps number the frames, and the key-frames among them are the places where
    decoding can start. ``get_frames`` decodes, on one thread, what the wanted frames need (``FrameDecoder``) and converts
    to RGB only what is wanted. Where packets are not proven to tell all that, opening decodes the file once; what comes
    out is then counted, numbered and timed. A frame that the decoder had to conceal because its data is damaged is
    returned as the decoder made it.

    A reader may be used again after a fork: it then opens the file again.

    Args:
        path: the file.
        timeout_sec: a file that takes longer to open, or to give its next frame, is given up, even where it hangs
            inside FFmpeg, and in this process not tried again; 0: never. Default: see ``DEFAULT_TIMEOUT_SEC``.
        index_dir: folder where indices are kept, so that later openings need not read all packets; None: nowhere.
        check: decode the file to make its index whatever its kind is, and use no index that was made otherwise.
        pixels: how large frames may be, and all frames of one call together.

    Attributes:
        num_frames: frames in the video stream (FFmpeg's "best" one where there are several).
        fps: average frames per second, for display; time intervals are looked up in the times of the frames.
        height, width: size of the returned frames, pixels.
        rotation: counter-clockwise degrees by which the file's metadata turns the stored frames: 0, 90, 180 or 270.
        mirrored: whether it has left and right change places after that.
        num_decoded: frames decoded so far.
        frame_bytes: of a returned frame, for planning: by what the header says, which need not be true; 0 where it does
            not.

    Raises:
        VideoDecodeError: the file is missing, empty, truncated, not a video or damaged, or it takes too long.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        timeout_sec: float = DEFAULT_TIMEOUT_SEC,
        index_dir: str | os.PathLike | None = None,
        pixels: PixelLimits = PixelLimits(),
        check: bool = False,
    ):
        self.path = os.fspath(path)
        self._timeout_sec = timeout_sec
        self._pixels = pixels
        self._converter = RgbConverter()
        cache = IndexCache(index_dir) if index_dir else None
        index = cache.load(self.path) if cache else None
        index = index if index and (index.checked or not check) else None
        # Before the file is read: one that is replaced meanwhile is another file.
        key = cache.key_of(self.path) if cache and index is None else None
        self._geometry = index.geometry if index else None
        self._open(index, check)
        if key is not None:
            self._keep_index(cache, key)
        elif self._index.checked and index is None:
            advice = "DATALOADER.INDEX_DIR keeps what was found, so that it is done once"
            log_once(f"such videos are decoded when they are opened: {self._decoder.kind}; {advice}", logging.INFO)

    def get_frames(self, indices: Sequence[int]) -> np.ndarray:
        """Return frames by index, in the order given; an index may occur several times.

        Args:
            indices: of the frames.

        Returns:
            uint8 (T, H, W, 3), RGB, upright.

        Raises:
            IndexError: an index is outside ``[0, num_frames)``.
            VideoDecodeError: a wanted frame cannot be decoded.
        """
        rows = rows_by_index(self.path, indices, self.num_frames)

        def _read() -> np.ndarray:
            frames = None
            for index, frame in self._decoder.frames(sorted(rows)):
                image = self._to_rgb(frame)
                if frames is None:
                    self._pixels.check_clip(self.path, len(indices), *image.shape[:2])
                    frames = np.empty((len(indices), *image.shape), np.uint8)
                if image.shape != frames.shape[1:]:
                    sizes = f"from {frames.shape[1:3]} to {image.shape[:2]}"
                    raise VideoDecodeError(self.path, f"the frame size changes {sizes}")
                frames[rows[index]] = image
            return frames

        return self._run(_read)

    def index_at(self, seconds: float) -> int:
        """Return the index of the first frame shown at or after ``seconds`` from the start of the video.

        Past the end it is ``num_frames``.
        """
        # Timestamps are rounded to the time base: half a tick decides no frame.
        ticks = Fraction(seconds).limit_denominator(10**6) / self._index.time_base - Fraction(1, 2)
        return int(np.searchsorted(self._index.times, math.ceil(ticks)))

    def check(self) -> None:
        """Decode the whole video, and compare a few frames by random access with what comes out.

        Raises:
            VideoDecodeError: some frame cannot be decoded, is of another size than those before, or differs.
        """
        self._run(self._decoder.check)

    @property
    def num_frames(self) -> int:
        """Frames in the video stream."""
        return self._index.num_frames

    @property
    def frame_seconds(self) -> np.ndarray:
        """When each frame is shown, from the start of the video: float64 (num_frames,), seconds; see ``ShowTimes``."""
        return self._index.times * float(self._index.time_base)

    @property
    def show_times(self) -> tuple[np.ndarray, Fraction]:
        """``frame_seconds`` without rounding: int64 (num_frames,), and of how many seconds they are multiples."""
        return self._index.times, self._index.time_base

    @property
    def duration_sec(self) -> float:
        """How long all frames are shown, seconds, the last one for as long as most."""
        seconds = self.frame_seconds
        return float(seconds[-1] + np.median(np.diff(seconds))) if self.num_frames > 1 else 1 / self.fps

    @property
    def fps(self) -> float:
        """Average frames per second, by the times of the frames; by the header where those say nothing."""
        return self._index.fps

    @property
    def height(self) -> int:
        """Height of the returned frames, pixels."""
        return self._get_geometry()[0]

    @property
    def width(self) -> int:
        """Width of the returned frames, pixels."""
        return self._get_geometry()[1]

    @property
    def rotation(self) -> int:
        """Counter-clockwise degrees by which the file's metadata turns the stored frames."""
        return self._get_geometry()[2]

    @property
    def mirrored(self) -> bool:
        """Whether the file's metadata has left and right change places, after the rotation."""
        return self._get_geometry()[3]

    @property
    def num_decoded(self) -> int:
        """Frames that came out of the decoder so far."""
        return self._decoder.num_decoded

    @property
    def frame_bytes(self) -> int:
        """Bytes of a returned frame by what the header says; 0 where it does not."""
        return self._decoder.frame_bytes

    def close(self) -> None:
        """Close the file; may be called more than once."""
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

    def _run(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns, within the time limit and with one kind of error."""
        if self._limit.abandoned:
            raise VideoDecodeError(self.path, "given up before")
        if self._pid != os.getpid():
            # The parent's file shares its position with ours.
            self._open(self._index)
        with self._errors():
            return self._limit.run(work, cleanup=self._decoder.close)

    def _keep_index(self, cache: IndexCache, key: list) -> None:
        # A first frame that is damaged may be one that is never asked for.
        with contextlib.suppress(VideoDecodeError):
            self._get_geometry()
        # A full or read-only disk costs time, not the video.
        with contextlib.suppress(OSError):
            cache.save(self.path, replace(self._index, geometry=self._geometry), key)

    def _to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        self._pixels.check_frame(self.path, frame.height, frame.width)
        image = self._converter(frame)
        self._geometry = (*image.shape[:2], *orientation_of(frame))
        return image

    def _get_geometry(self) -> tuple[int, int, int, bool]:
        if self._geometry is None:
            self.get_frames([0])
        return self._geometry

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn whatever FFmpeg or the file system raises into a ``VideoDecodeError``."""
        try:
            yield
        except VideoDecodeError:
            raise
        except FileNotFoundError:
            raise VideoDecodeError(self.path, "no such file") from None
        except (TimeLimitExceeded, av.error.ExitError):
            self._limit.give_up()
            raise VideoDecodeError(self.path, f"no progress in {self._timeout_sec:g} s, given up") from None
        except READ_ERRORS as error:
            raise unreadable(self.path, error) from error


def rows_by_index(path: str, indices: Sequence[int], num_frames: int) -> dict[int, list[int]]:
    """Return where in ``indices`` each index occurs.

    Raises:
        ValueError: there are no indices.
        IndexError: an index is outside ``[0, num_frames)``; ``path`` is for the message.
    """
    if len(indices) == 0:
        raise ValueError(f"{path}: get_frames needs at least one index")
    for index in (min(indices), max(indices)):
        if not 0 <= index < num_frames:
            raise IndexError(f"{path}: frame {index} was asked for, the video has frames 0 to {num_frames - 1}")
    rows: dict[int, list[int]] = {}
    for row, index in enumerate(indices):
        rows.setdefault(int(index), []).append(row)
    return rows
