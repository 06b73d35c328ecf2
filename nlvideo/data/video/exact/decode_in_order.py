"""A video stream opened, and decoded from its first frame to its last: what random access has to equal."""

from collections import deque
from collections.abc import Iterator
from itertools import chain

import av

from nlvideo.errors import VideoDecodeError

# Whose timestamps are those of decoding: FFmpeg guesses the others, wrongly where frames are reordered.
DTS_CONTAINERS = ("avi",)


def open_stream(
    path: str, format: str | None = None, timeout_sec: float | None = None
) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Open a file and FFmpeg's "best" video stream in it; no other stream is read.

    Args:
        path: the file, or the device.
        format: FFmpeg's name of the input format where the file does not show it.
        timeout_sec: for FFmpeg to open it, and for each read.

    Raises:
        VideoDecodeError: there is no video stream, or no decoder for it.
        FFmpegError, OSError, ValueError: what PyAV raises.
    """
    # A title in an unexpected encoding is no reason to refuse a video.
    container = av.open(path, format=format, metadata_errors="replace", timeout=timeout_sec)
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        container.close()
        raise VideoDecodeError(path, "FFmpeg has no decoder for the video stream" if stream else "no video stream")
    for other in container.streams if hasattr(av.stream, "Discard") else ():  # from PyAV 18 on
        if other is not stream:
            other.discard = av.stream.Discard.all
    return container, stream


def read_packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """Yield the packets that hold data.

    An empty packet means that the last frame is shown for longer; a decoder would take it for the end.
    """
    return (packet for packet in container.demux(stream) if packet.size)


def has_new_parameters(packet: av.Packet) -> bool:
    """Whether what the header says to the decoder changes here: a seek beyond it would miss that."""
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
