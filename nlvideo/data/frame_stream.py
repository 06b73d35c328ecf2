"""``FrameStream``: all frames of a video or of a camera, one after the other and decoded once; none is kept."""

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

from nlvideo.data.pixel_limits import PixelLimits
from nlvideo.data.upright import RgbConverter
from nlvideo.data.video_errors import VideoDecodeError, unreadable

# Frames per second of a stream that does not say: the rate of the authors' videos, and of most cameras.
_DEFAULT_FPS = Fraction(30)


class StreamFrame:
    """A decoded frame, not yet converted.

    Attributes:
        seconds: from the first frame of the stream to this one.
    """

    def __init__(self, seconds: Fraction, frame: av.VideoFrame, converter: RgbConverter):
        self.seconds = seconds
        self._frame, self._converter = frame, converter

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as stored, pixels."""
        return self._frame.height, self._frame.width

    def to_rgb(self) -> np.ndarray:
        """Return the pixels, uint8 (H, W, 3), RGB, upright; the same as ``VideoReader`` gives."""
        return self._converter(self._frame)


class FrameStream:
    """The frames of a file or of a camera in the order they are shown; a context manager, to be iterated once.

    Unlike ``VideoReader`` it does not look through the file first, so that a video of any length, and one without end,
    starts at once and takes the memory of a few frames.

    Args:
        path: the file, or the device.
        format: the input format of FFmpeg where the file does not show it, e.g. "v4l2" of a camera.
        pixels: how large frames may be, and all frames of a window together.

    Attributes:
        path: as given.
        pixels: as given.
        fps: average frames per second; 30 where the stream does not say.
        duration_sec: as the file states it, for progress bars; 0.0 where it does not.
        tick: half of the unit of the timestamps, seconds: differences up to it mean nothing.

    Raises:
        VideoDecodeError: the file is missing or not a video; also while it is iterated, where it is damaged.
    """

    def __init__(self, path: str | os.PathLike, format: str | None = None, pixels: PixelLimits = PixelLimits()):
        self.path, self.pixels = os.fspath(path), pixels
        self._container = None
        if os.path.isdir(self.path):
            raise VideoDecodeError(self.path, "a folder of frames has no times; a stream needs a video file")
        with self._errors():
            self._container = av.open(self.path, format=format, metadata_errors="replace")
            self._stream = self._container.streams.best("video")
            if self._stream is None:
                raise VideoDecodeError(self.path, "no video stream")
            pixels.apply(self.path, self._stream.codec_context)
        self._stream.thread_type = "AUTO"
        self._rate = self._stream.average_rate or self._stream.guessed_rate or _DEFAULT_FPS
        self.fps = float(self._rate)
        self.duration_sec = float((self._container.duration or 0) / av.time_base)
        self.tick = self._stream.time_base / 2

    def __iter__(self) -> Iterator[StreamFrame]:
        converter = RgbConverter()
        first, seconds = None, Fraction(0)
        with self._errors(), self.pixels.explained(self.path, self._stream.codec_context):
            for number, frame in enumerate(self._container.decode(self._stream)):
                first = frame.pts if number == 0 else first
                stamped = None if None in (first, frame.pts) else (frame.pts - first) * self._stream.time_base
                # Some containers have no timestamps, and some files two frames at one time.
                is_later = stamped is not None and (number == 0 or stamped > seconds)
                seconds = stamped if is_later else seconds + 1 / self._rate if number else seconds
                yield StreamFrame(seconds, frame, converter)

    def close(self) -> None:
        """Close the file; may be called more than once."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def __enter__(self) -> "FrameStream":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn whatever FFmpeg or the file system raises into a ``VideoDecodeError``."""
        try:
            yield
        except FileNotFoundError:
            raise VideoDecodeError(self.path, "no such file") from None
        except (av.FFmpegError, OSError) as error:
            raise unreadable(self.path, error) from error


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
