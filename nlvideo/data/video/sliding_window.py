"""Overlapping windows of a stream of frames, each a small video, with no more than one window in memory."""

import bisect
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from nlvideo.data.video.frame_stream import FrameStream, StreamFrame
from nlvideo.data.video.video_reader import rows_by_index
from nlvideo.errors import VideoDecodeError
from nlvideo.utils.closing import Closing


@dataclass(frozen=True)
class Window(Closing):
    """A part of a stream, with the interface of ``VideoReader``; only frames that are asked for are converted.

    Attributes:
        path: of the stream.
        fps: of the stream.
        start_sec: its first moment, in seconds from the first frame of the stream.
        end_sec: the moment after its last; the end of the stream for the last window.
        frames: all its frames.
        own: those of them that count as its own: each frame of the stream is one window's own.
    """

    path: str
    fps: float
    start_sec: float
    end_sec: float
    frames: Sequence[StreamFrame]
    own: Sequence[StreamFrame]

    @property
    def num_frames(self) -> int:
        """Frames in the window."""
        return len(self.frames)

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame as RGB."""
        return 3 * math.prod(self.frames[0].size)

    def get_frames(self, indices: Sequence[int]) -> np.ndarray:
        """Return frames of the window by index, in the order given: uint8 (T, H, W, 3), RGB.

        Raises:
            IndexError: an index is outside ``[0, num_frames)``.
            VideoDecodeError: the frame size changes.
        """
        rows = rows_by_index(self.path, indices, self.num_frames)
        images = {index: self.frames[index].to_rgb() for index in rows}
        sizes = sorted({image.shape[:2] for image in images.values()})
        if len(sizes) > 1:
            raise VideoDecodeError(self.path, f"the frame size changes from {sizes[0]} to {sizes[1]}")
        return np.stack([images[index] for index in indices])

    def index_at(self, seconds: float) -> int:
        """Return the index of the first frame shown at or after ``seconds`` from the start of the window."""
        # Half a millionth of a second decides no frame.
        moment = self.start_sec + seconds - 5e-7
        return bisect.bisect_left(self.frames, moment, key=lambda frame: float(frame.seconds))


def slide(stream: FrameStream, window_sec: float, stride_sec: float) -> Iterator[Window]:
    """Cut a stream into windows that begin every ``stride_sec``, until one reaches the end of the video::

        window 2.0, stride 1.5, 4.8 s of video    |---- 0 ----|
                                                           |---- 1 ----|
                                                                  |---- 2 ----|

    A window has the frames from its start to before its end, as a record with ``start_sec`` and ``end_sec`` has. The
    last one is as long as the others: it begins earlier where it would go on after the end, since a rest of a few
    frames says little. One without frames, in a gap of the timestamps, is left out.

    Args:
        stream: read once, from where it is.
        window_sec: length of a window.
        stride_sec: from the start of a window to that of the next.

    Raises:
        ValueError: the window is not above 0, or the stride not above 0 and up to the window.
        VideoDecodeError: as ``FrameStream``.
    """
    check_windows(window_sec, stride_sec)
    return _slide(stream, *(Fraction(value).limit_denominator(10**6) for value in (window_sec, stride_sec)))


def check_windows(window_sec: float, stride_sec: float) -> None:
    """Raise ``ValueError`` where ``slide`` cannot use these lengths."""
    if not window_sec > 0 or not math.isfinite(window_sec):
        raise ValueError(f"window_sec: got {window_sec}, allowed: more than 0")
    if not 0 < stride_sec <= window_sec:
        raise ValueError(f"stride_sec: got {stride_sec}, allowed: more than 0 and up to window_sec = {window_sec}")


def _slide(stream: FrameStream, length: Fraction, stride: Fraction) -> Iterator[Window]:
    # Frames that no window had as its own yet, and those before them that the last window may begin with.
    held: deque[StreamFrame] = deque()
    past: deque[StreamFrame] = deque()
    start, period = Fraction(0), Fraction(1 / stream.fps).limit_denominator(10**6)

    def _window(begin: Fraction, end: Fraction, earlier: list[StreamFrame], num_own: int) -> Window:
        own = tuple(itertools.islice(held, num_own))
        return Window(stream.path, stream.fps, float(begin), float(end), (*earlier, *held), own)

    for frame in stream:
        # As VideoReader.index_at: timestamps are rounded, half a tick decides nothing.
        while held and frame.seconds >= start + length - stream.tick:
            num_own = _count_before(held, start + stride - stream.tick)
            yield _window(start, start + length, [], num_own)
            past.extend(held.popleft() for _ in range(num_own))
            start += stride
            if not held:
                start = _start_before(frame, start, length, stride, stream.tick)
        held.append(frame)
        while past and past[0].seconds < frame.seconds + period - length - stream.tick:
            past.popleft()
        stream.pixels.check_clip(stream.path, len(held) + len(past), *frame.size)
    if held:
        end = min(max(start, held[-1].seconds + period), start + length)
        start = max(Fraction(0), end - length)
        yield _window(start, end, [frame for frame in past if frame.seconds >= start - stream.tick], len(held))


def _start_before(frame: StreamFrame, start: Fraction, length: Fraction, stride: Fraction, tick: Fraction) -> Fraction:
    """The start of the first window, from ``start`` on, that has the frame: a gap is one step, however long it is."""
    return max(start, stride * (math.floor((frame.seconds + tick - length) / stride) + 1))


def _count_before(frames: Iterable[StreamFrame], seconds: Fraction) -> int:
    return sum(frame.seconds < seconds for frame in frames)
