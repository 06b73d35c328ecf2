"""A video stream decoded from its first frame to its last, and when its frames are shown.

Random access has to equal this. Readers, streams and transcoding use the same rule for times.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain

import av
import numpy as np

from nlvideo.data.video.pixels import DEFAULT_LIMITS, PixelLimits
from nlvideo.errors import VideoDecodeError

# Containers whose timestamps are those of decoding. FFmpeg guesses the others, wrongly where frames are reordered.
DTS_CONTAINERS = ("avi",)
# Frames per second of a stream that says nothing: the rate of the authors' videos, and of most cameras.
DEFAULT_FPS = Fraction(30)


def open_stream(
    path: str,
    pixels: PixelLimits = DEFAULT_LIMITS,
    format: str | None = None,
    timeout_sec: float | None = None,
) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Open a file or device, and FFmpeg's "best" video stream in it; no other stream is read.

    Args:
        path: of the file or device.
        pixels: how large a frame may be.
        format: FFmpeg's name of the input format where the file does not show it.
        timeout_sec: for FFmpeg to open it, and for each read.

    Raises:
        VideoDecodeError: there is no video stream, or no decoder for it, or the frames are too large.
        FFmpegError, OSError, ValueError: what PyAV raises.
    """
    # A title in an unexpected encoding is no reason to refuse a video.
    container = av.open(path, format=format, metadata_errors="replace", timeout=timeout_sec)
    try:
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
            raise VideoDecodeError(path, "FFmpeg has no decoder for the video stream" if stream else "no video stream")
        for other in container.streams if hasattr(av.stream, "Discard") else ():  # from PyAV 18 on
            if other is not stream:
                other.discard = av.stream.Discard.all
        pixels.apply(path, stream.codec_context)
    except Exception:
        container.close()
        raise
    return container, stream


def read_packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """Yield the packets that hold data.

    An empty packet means that the last frame is shown for longer; a decoder would take it for the end.
    """
    return (packet for packet in container.demux(stream) if packet.size)


def has_new_parameters(packet: av.Packet) -> bool:
    """Whether this packet changes what the header says to the decoder: a seek beyond it would miss the change."""
    return any(data.data_type == "new_extradata" for data in packet.iter_sidedata())


def decode_in_order(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[tuple[av.VideoFrame, int | None]]:
    """Yield the frames as they are shown, each with its timestamp, None where the file gives none.

    Raises:
        FFmpegError: a packet cannot be decoded.
    """
    by_dts = container.format.name in DTS_CONTAINERS
    stamps: deque[int | None] = deque()
    for packet in chain(read_packets(container, stream), [None]):
        if by_dts and packet is not None:
            stamps.append(packet.dts)
        for frame in stream.codec_context.decode(packet):
            yield frame, (stamps.popleft() if stamps else None) if by_dts else frame.pts


def time_base_of(stream: av.VideoStream) -> Fraction:
    """Return the unit of the timestamps of a stream, seconds."""
    assert stream.time_base is not None  # only a stream that is being written may have none
    return stream.time_base


def stated_rates(stream: av.VideoStream) -> list[Fraction]:
    """Return the frames per second that the headers of a stream state, best first; ``DEFAULT_FPS`` where none does."""
    return [rate for rate in (stream.average_rate, stream.guessed_rate) if rate] or [DEFAULT_FPS]


class ShowTimes:
    """Gives frames, in the order in which a decoder returns them, the times when they are shown.

    A timestamp holds unless it is before that of the last frame. Two frames may have the same one, not three. A frame
    without a timestamp is shown after the last one at the stated rate. So is a frame whose timestamp is more than a
    second before the last: a joined recording begins there, and later timestamps count from there.
    """

    def __init__(self, stream: av.VideoStream):
        self.time_base = time_base_of(stream)  #: of the times, seconds
        self._step = 1 / (stated_rates(stream)[0] * self.time_base)
        self._origin: int | None = None
        self._last: Fraction | None = None
        self._is_second = False  # the last frame had the time of the one before

    def next(self, stamp: int | None) -> int:
        """Return when the next frame, with this timestamp, is shown: in units of the time base from the first frame."""
        last = self._last
        time = Fraction(0) if last is None else last + self._step
        if stamp is not None:
            starts_again = last is not None and stamp - (self._origin or 0) < last - 1 / self.time_base
            if self._origin is None or starts_again:
                self._origin = stamp - round(time)
            stamped = Fraction(stamp - self._origin)
            if last is None or stamped > last or (stamped == last and not self._is_second):
                time = stamped
        self._is_second, self._last = time == last, time
        return round(time)

    def of_all(self, stamps: Iterable[int | None]) -> np.ndarray:
        """Return the times of all frames, int64."""
        return np.array([self.next(stamp) for stamp in stamps], np.int64)


def average_fps(times: np.ndarray, stream: av.VideoStream) -> float:
    """Return the frames per second of frames that are shown at ``times``, in units of the stream's time base.

    A stated rate counts where the times, which are rounded, do not contradict it.
    """
    rates, time_base = stated_rates(stream), time_base_of(stream)
    seconds = int(times[-1] - times[0]) * time_base if len(times) else Fraction(0)
    if seconds:
        agreeing = (rate for rate in rates if abs((len(times) - 1) / rate - seconds) <= time_base / 2)
        return float(next(agreeing, (len(times) - 1) / seconds))
    return float(rates[0])
