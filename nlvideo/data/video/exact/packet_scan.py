"""The index of a video as its packets give it, without decoding."""

from collections.abc import Callable

import av
import numpy as np

from nlvideo.data.video.exact.decode_in_order import DTS_CONTAINERS, average_fps, has_new_parameters, time_base_of
from nlvideo.data.video.video_index import VideoIndex, shown_order, to_stamps
from nlvideo.errors import VideoDecodeError

# The bit in the first byte of a VP8 packet that says that its frame is shown (RFC 6386, section 9.1).
_VP8_SHOWN = 0x10
# Bytes of a packet of MPEG-4 without a picture.
_PLACEHOLDER_SIZE = 8
# Frames by which the order of showing may differ from that of the packets: what H.264 and HEVC allow.
_MAX_REORDERED = 16


def scan_packets(
    path: str, container: av.container.InputContainer, stream: av.VideoStream, check: Callable[[], None]
) -> tuple[VideoIndex, bool]:
    """Read all packets of a freshly opened file.

    Args:
        path: for messages.
        container, stream: from ``open_stream``.
        check: called for each packet; it may raise.

    Returns:
        The index, in which each packet that is shown is a frame, and whether the packets say enough for it. Where they
        do not, the frames are in the order of the packets.

    Raises:
        VideoDecodeError: there are no packets, or fewer than the header lists.
    """
    packets: list[tuple] = []
    num_all, is_vp8 = 0, stream.codec_context.name == "vp8"
    for packet in container.demux(stream):
        check()
        num_all += 1
        if packet.size:
            is_hidden = is_vp8 and not memoryview(packet)[0] & _VP8_SHOWN
            is_odd = packet.is_corrupt or has_new_parameters(packet)
            flags = packet.is_keyframe, packet.is_discard, is_hidden, is_odd
            packets.append((packet.pts, packet.dts, packet.size, *flags))
    # This family of containers lists its packets in the header; edit lists are already applied.
    listed = len(stream.index_entries) if "mp4" in container.format.name else 0
    if num_all - 1 < listed:  # the last one says that this is the end
        raise VideoDecodeError(path, f"truncated: {num_all - 1} of {listed} frames")
    if not packets:
        raise VideoDecodeError(path, "no frames in the video stream")
    pts, dts, *columns = zip(*packets, strict=True)
    # Where decoding can start; cut by an edit list; hidden by the codec; damaged, or with new parameters.
    sizes, keys, cut, hidden, odd = map(np.array, columns)
    by_dts = container.format.name in DTS_CONTAINERS
    stamps = to_stamps(dts if by_dts else pts)
    order = shown_order(stamps, cut | hidden)
    is_sure = not (by_dts and pts != dts) and not is_packed(stream.codec_context, sizes)
    if order is None or len(order) == 0 or not is_sure or odd.any() or not _is_plain(keys, cut, stamps):
        is_sure, order = False, np.arange(len(sizes))
    # What ``ShowTimes`` makes of timestamps that are all known and different.
    times = stamps[order] - stamps[order[0]] if is_sure else np.zeros_like(stamps)
    index = VideoIndex(
        stamps=stamps,
        stamp_kind="dts" if by_dts else "pts",
        sizes=sizes,
        keys=keys,
        position=order,
        times=times,
        time_base=time_base_of(stream),
        fps=average_fps(times, stream),
    )
    return index, is_sure


def is_packed(codec: av.VideoCodecContext, sizes: np.ndarray) -> bool:
    """Whether packets may hold two frames, with placeholders for the second ones, as MPEG-4 in AVI."""
    return codec.name == "mpeg4" and bool(sizes.min() <= _PLACEHOLDER_SIZE)


def _is_plain(keys: np.ndarray, cut: np.ndarray, stamps: np.ndarray) -> bool:
    """Whether the stream begins with a key-frame, shown first, and nothing after it is cut or far out of order."""
    ranks = np.argsort(stamps)
    return bool(
        keys[0]
        and stamps[0] <= stamps[~cut].min()
        and (not cut.any() or stamps[cut].max() < stamps[~cut].min())
        and abs(ranks - np.arange(len(ranks))).max() <= _MAX_REORDERED
    )
