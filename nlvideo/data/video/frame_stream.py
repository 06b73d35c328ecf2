"""``FrameStream``: all frames of a video or of a camera, one after the other; ``slide`` cuts it into windows."""

import contextlib
import itertools
import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property

import av
import numpy as np

from nlvideo.data.video.base import Video, read_errors
from nlvideo.data.video.exact.decode_in_order import (
    ShowTimes,
    decode_in_order,
    open_stream,
    stated_rates,
    time_base_of,
)
from nlvideo.data.video.pixels import DEFAULT_LIMITS, Geometry, PixelLimits, RgbConverter, geometry_of
from nlvideo.data.video.video_reader import VideoReader
from nlvideo.errors import VideoDecodeError


class StreamFrame:
    """A decoded frame, not yet converted; ``seconds`` are from the first frame of the stream to this one."""

    def __init__(self, seconds: Fraction, frame: av.VideoFrame, converter: RgbConverter):
        self.seconds, self._frame, self._converter = seconds, frame, converter

    @property
    def geometry(self) -> Geometry:
        """Size of the upright frame, and how the stored one becomes it."""
        return geometry_of(self._frame)

    def to_rgb(self) -> np.ndarray:
        """Return the pixels, uint8 (H, W, 3), RGB, upright; the same as ``VideoReader`` gives."""
        return self._converter(self._frame)


class FrameStream(contextlib.AbstractContextManager):
    """The frames of a file or of a camera in the order they are shown; a context manager, to be iterated once.

    A video of any length, also one without end, takes the memory of a few frames. Frames and times are those of
    ``VideoReader``.

    Args:
        path: the file, or the device.
        format: the input format of FFmpeg where the file does not show it, e.g. "v4l2" of a camera.
        pixels: how large frames may be, and all frames of a window together.

    Attributes:
        path, pixels: as given.
        duration_sec: as the file states it, for progress bars; 0.0 where it does not.
        tick: half of the unit of the timestamps, seconds. A smaller difference means nothing.

    Raises:
        VideoDecodeError: the file is missing or not a video; also while it is iterated, where it is damaged or was
            closed.
    """

    def __init__(self, path: str | os.PathLike, format: str | None = None, pixels: PixelLimits = DEFAULT_LIMITS):
        self.path, self.pixels = os.fspath(path), pixels
        if os.path.isdir(self.path):
            raise VideoDecodeError(self.path, "a folder of frames has no times; a stream needs a video file")
        with read_errors(self.path):
            self._container, self._stream = open_stream(self.path, pixels, format)
        self._stream.thread_type = "AUTO"
        self._is_open, self._stated_fps = True, float(stated_rates(self._stream)[0])
        self.duration_sec = float((self._container.duration or 0) / av.time_base)
        self.tick = time_base_of(self._stream) / 2

    def __iter__(self) -> Iterator[StreamFrame]:
        self._check_open()
        converter, times = RgbConverter(), ShowTimes(self._stream)
        with read_errors(self.path), self.pixels.explained(self.path, self._stream.codec_context):
            for frame, stamp in decode_in_order(self._container, self._stream):
                yield StreamFrame(times.next(stamp) * times.time_base, frame, converter)
                self._check_open()

    @cached_property
    def fps(self) -> float:
        """Average frames per second, of a file as ``VideoReader`` finds them, else as the header states them."""
        if os.path.isfile(self.path):
            with contextlib.suppress(VideoDecodeError), VideoReader(self.path, pixels=self.pixels) as video:
                return video.fps
        return self._stated_fps

    def close(self) -> None:
        """Close the file. It may be called more than once."""
        self._container.close()
        self._is_open = False

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_open(self) -> None:
        # FFmpeg would crash.
        if not self._is_open:
            raise VideoDecodeError(self.path, "the stream is closed")


def open_camera(index: int) -> FrameStream:
    """Open a camera of this machine through Video4Linux.

    Args:
        index: N of ``/dev/videoN``.

    Raises:
        ValueError: there is no such camera; the message lists those there are.
        VideoDecodeError: it cannot be read, for instance because another program uses it.
    """
    device = f"/dev/video{index}"
    if not os.path.exists(device):
        found = sorted(name for name in os.listdir("/dev") if name.startswith("video")) if os.path.isdir("/dev") else []
        raise ValueError(f"camera {index}: there is no {device}; cameras of this machine: {', '.join(found) or 'none'}")
    return FrameStream(device, format="v4l2")


class Window(Video):
    """A part of a stream; see ``Video``. Only frames that are asked for are converted to RGB.

    All arguments but the stream are attributes, too.

    Args:
        stream: that it is a part of.
        start_sec: its first moment, in seconds from the first frame of the stream.
        end_sec: the moment after its last; the end of the stream for the last window.
        frames: all its frames.
        own: the frames that count as its own; each frame of the stream belongs to one window.
    """

    def __init__(
        self,
        stream: FrameStream,
        start_sec: float,
        end_sec: float,
        frames: Sequence[StreamFrame],
        own: Sequence[StreamFrame],
    ):
        super().__init__(stream.path)
        self.num_frames, self.fps = len(frames), stream.fps
        self.start_sec, self.end_sec, self.frames, self.own = start_sec, end_sec, frames, own

    @property
    def geometry(self) -> Geometry:
        """Size and turn of the first frame."""
        return self.frames[0].geometry

    @property
    def frame_seconds(self) -> np.ndarray:
        """When each frame is shown: float64 (num_frames,), seconds from ``start_sec``."""
        return np.array([float(frame.seconds - Fraction(self.start_sec)) for frame in self.frames])

    @property
    def duration_sec(self) -> float:
        """Its length, seconds; see ``Video``."""
        return self.end_sec - self.start_sec

    def _read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        return ((index, self.frames[index].to_rgb()) for index in indices)


def slide(stream: FrameStream, window_sec: float, stride_sec: float) -> Iterator[Window]:
    """Cut a stream into windows that begin every ``stride_sec``, until one reaches the end of the video::

        window 2.0, stride 1.5, 4.8 s of video    |---- 0 ----|
                                                           |---- 1 ----|
                                                                  |---- 2 ----|

    A window has the frames from its start to before its end, as a record with ``start_sec`` and ``end_sec`` has. The
    last window is as long as the others, because a rest of few frames says little: it begins earlier, and ends with the
    video. A window without frames, in a gap of the timestamps, is left out.

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
    """Raise ``ValueError`` unless the window is above 0, and the stride above 0 and up to the window."""
    if not window_sec > 0 or not math.isfinite(window_sec):
        raise ValueError(f"window_sec: got {window_sec}, allowed: more than 0")
    if not 0 < stride_sec <= window_sec:
        raise ValueError(f"stride_sec: got {stride_sec}, allowed: more than 0 and up to window_sec = {window_sec}")


def _slide(stream: FrameStream, length: Fraction, stride: Fraction) -> Iterator[Window]:
    # Frames that are not yet a window's own, and earlier frames that the last window may begin with.
    held: deque[StreamFrame] = deque()
    past: deque[StreamFrame] = deque()
    start, period = Fraction(0), Fraction(1 / stream.fps).limit_denominator(10**6)

    def _window(begin: Fraction, end: Fraction, earlier: list[StreamFrame], num_own: int) -> Window:
        own = tuple(itertools.islice(held, num_own))
        return Window(stream, float(begin), float(end), (*earlier, *held), own)

    for frame in stream:
        # As VideoReader.index_at: timestamps are rounded, half a tick decides nothing.
        while held and frame.seconds >= start + length - stream.tick:
            num_own = sum(each.seconds < start + stride - stream.tick for each in held)
            yield _window(start, start + length, [], num_own)
            past.extend(held.popleft() for _ in range(num_own))
            start += stride
            if not held:
                # The first window that has the frame: a gap is one step, however long it is.
                steps = math.floor((frame.seconds + stream.tick - length) / stride) + 1
                start = max(start, stride * steps)
        held.append(frame)
        while past and past[0].seconds < frame.seconds + period - length - stream.tick:
            past.popleft()
        stream.pixels.check_clip(stream.path, len(held) + len(past), *frame.geometry[:2])
    if held:
        end = min(max(start, held[-1].seconds + period), start + length)
        start = max(Fraction(0), end - length)
        yield _window(start, end, [frame for frame in past if frame.seconds >= start - stream.tick], len(held))
