"""``FrameStream``: all frames of a video or of a camera, one after the other and decoded once; none is kept."""

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property

import av
import numpy as np

from nlvideo.data.video.base import read_errors
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

    A video of any length, and one without end, takes the memory of a few frames. Frames and times are those of
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
