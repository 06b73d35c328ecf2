"""``VideoIndex``: where each frame is in a video file, by its packets; ``IndexCache`` keeps indices on disk.

A file stores packets in the order of decoding, which is not that of showing::

    packet       0    1    2    3    4    5       position
    kind         I    P    B    B    P    B
    pts          0    3    1    2    5    4
    frame        0    3    1    2    5    4       rank of the pts among the packets that are shown
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import av
import numpy as np

from nlvideo.data.video.exact.decode_in_order import DTS_CONTAINERS, average_fps, has_new_parameters, time_base_of
from nlvideo.data.video.paths import member_path, split_member_path
from nlvideo.data.video.pixels import Geometry
from nlvideo.errors import VideoDecodeError
from nlvideo.utils.files.file_io import atomic_write

# Stands for a timestamp that the file does not give.
NO_STAMP = np.iinfo(np.int64).min
_FORMAT = 3
# What the header of a file of the cache holds as it is, and the arrays after it, in this order.
_FIELDS = ("stamp_kind", "fps", "counted", "checked", "geometry")
_ARRAYS = {"stamps": "<i8", "sizes": "<i4", "keys": "?", "position": "<i8", "times": "<i8"}
_OF_FRAMES = ("position", "times")
# The bit in the first byte of a VP8 packet that says that its frame is shown (RFC 6386, section 9.1).
_VP8_SHOWN = 0x10
# Bytes of a packet of MPEG-4 without a picture.
_PLACEHOLDER_SIZE = 8
# Frames by which the order of showing may differ from that of the packets: what H.264 and HEVC allow.
_MAX_REORDERED = 16


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The packets of the video stream of one file, in the order of the file, and the frames they hold."""

    stamps: np.ndarray  #: int64 (P,), tells packets apart, in units of ``time_base``; ``NO_STAMP`` where there is none
    stamp_kind: str  #: "pts", presentation timestamps, or "dts", decoding ones, in AVI, which has no others
    sizes: np.ndarray  #: int32 (P,), bytes
    keys: np.ndarray  #: bool (P,), where decoding can start
    position: np.ndarray  #: int64 (num_frames,), the packet of each frame that is shown, in the order of showing
    times: np.ndarray  #: int64 (num_frames,), when each frame is shown, counted from the first one, see ``ShowTimes``
    time_base: Fraction  #: of ``stamps`` and ``times``, seconds
    fps: float  #: average frames per second, see ``average_fps``
    counted: bool = False  #: frames cannot be found by packets; frame k is the k-th that decoding from the start gives
    checked: bool = False  #: it is what a decode in order gave, and frames by random access were compared with that
    geometry: Geometry | None = None  #: of the frames; None: not looked at

    @property
    def num_frames(self) -> int:
        """Frames that are shown."""
        return len(self.position)

    @cached_property
    def can_seek(self) -> bool:
        """Whether packets can be found by their stamps, and frames by packets."""
        return not self.counted and _are_unique(self._sorted_stamps)

    @cached_property
    def frame_at(self) -> np.ndarray:
        """The frame of each packet, -1 for one that is not shown: int64 (P,)."""
        frames = np.full(len(self.stamps), -1)
        if not self.counted:
            frames[self.position] = np.arange(self.num_frames)
        return frames

    def start_of(self, frame: int) -> int:
        """Return the position of the last key packet from which a frame can be decoded; 0 where seeking is no use.

        That packet is stored before the frame and shown no later. In an open GOP, frames that follow the key packet
        but are shown before it need the GOP before.
        """
        keys, first_shown = self._keys
        for place in range(np.searchsorted(keys, self.position[frame], side="right") - 1, -1, -1):
            if first_shown[place] <= frame:
                return int(keys[place])
        return 0

    def stamp_of(self, packet: int | None) -> int | None:
        """Return the timestamp of a packet, or None where there is no such packet, or it has none."""
        known = packet is not None and packet < len(self.stamps) and self.stamps[packet] != NO_STAMP
        return int(self.stamps[packet]) if known else None

    def find(self, stamp: int | None) -> int:
        """Return the position of the packet with a stamp, or -1."""
        if stamp is None:
            return -1
        place = np.searchsorted(self._sorted_stamps, stamp)
        found = place < len(self._sorted_stamps) and self._sorted_stamps[place] == stamp
        return int(self._by_stamp[place]) if found else -1

    @cached_property
    def _keys(self) -> tuple[np.ndarray, np.ndarray]:
        """The positions of the key packets, and for each the first frame that is shown no earlier."""
        keys = np.flatnonzero(self.keys) if self.can_seek else np.zeros(0, int)
        frames = self.frame_at[keys]
        shown = np.searchsorted(np.sort(self.stamps[self.position]), self.stamps[keys])
        return keys, np.where(frames < 0, shown, frames)

    @cached_property
    def _by_stamp(self) -> np.ndarray:
        return np.argsort(self.stamps, kind="stable")

    @cached_property
    def _sorted_stamps(self) -> np.ndarray:
        return self.stamps[self._by_stamp]


def scan_packets(
    path: str, container: av.container.InputContainer, stream: av.VideoStream, check: Callable[[], None]
) -> tuple[VideoIndex, bool]:
    """Read all packets of a file that ``open_stream`` has just opened; ``check`` is called for each, and may raise.

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


class IndexCache:
    """Indices on disk: one small file for each video, found by the video's path.

    An index is used as long as size and time of the video stay the same. Several processes may use one folder at once.
    The folder is made when first needed.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = os.fspath(folder)

    def load(self, path: str) -> VideoIndex | None:
        """Return the index of a video, or None where there is none, or the file has changed since."""
        try:
            with open(self.file_of(path), "rb") as file:
                header = json.loads(file.readline())
                is_current = header["format"] == _FORMAT and header["key"] == self.key_of(path)
                return _unpack(header, file.read()) if is_current else None
        except (OSError, ValueError, KeyError, TypeError):  # missing or damaged: made again
            return None

    def key_of(self, path: str) -> list | None:
        """Return what tells this file from an earlier or later one of its name; None where it cannot be seen."""
        member = split_member_path(path)
        try:
            status = os.stat(member[0] if member else path)
        except OSError:
            return None
        return [_full(path), status.st_size, status.st_mtime_ns]

    def save(self, path: str, index: VideoIndex, key: list) -> None:
        """Write the index of a video, whole or not at all; ``key`` is from ``key_of``, before the video was read.

        Raises:
            OSError: it cannot be written.
        """
        target = self.file_of(path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        header = {"format": _FORMAT, "key": key, "packets": len(index.stamps), "frames": index.num_frames}
        header |= {"time_base": str(index.time_base)} | {name: getattr(index, name) for name in _FIELDS}
        arrays = [getattr(index, name).astype(dtype).tobytes() for name, dtype in _ARRAYS.items()]
        atomic_write(target, lambda file: file.write(b"".join([json.dumps(header).encode(), b"\n", *arrays])))

    def file_of(self, path: str) -> str:
        """Return the path of the file that holds, or would hold, the index of a video."""
        name = hashlib.sha256(_full(path).encode("utf8", "surrogateescape")).hexdigest()[:32]
        return os.path.join(self.folder, name[:2], name + ".index")


def to_stamps(timestamps: Sequence[int | None]) -> np.ndarray:
    """Return timestamps as int64, ``NO_STAMP`` where there is none."""
    return np.array([NO_STAMP if stamp is None else stamp for stamp in timestamps], np.int64)


def shown_order(pts: np.ndarray, hidden: Sequence[bool]) -> np.ndarray | None:
    """Return the packets that are shown, ordered by presentation timestamp; None where those do not order them."""
    if not _are_unique(np.sort(pts)):
        return None
    shown = np.flatnonzero(~np.array(hidden, bool))
    return shown[np.argsort(pts[shown])]


def _are_unique(ordered: np.ndarray) -> bool:
    """Whether sorted stamps are all known and all different."""
    return len(ordered) > 0 and ordered[0] != NO_STAMP and bool((np.diff(ordered) > 0).all())


def _full(path: str) -> str:
    """The absolute path of a file, also where it is a member of a shard."""
    member = split_member_path(path)
    return member_path(os.path.abspath(member[0]), *member[1:]) if member else os.path.abspath(path)


def _unpack(header: dict[str, Any], data: bytes) -> VideoIndex:
    arrays: dict[str, Any] = {}
    start = 0
    for name, dtype in _ARRAYS.items():
        count = header["frames" if name in _OF_FRAMES else "packets"]
        arrays[name] = np.frombuffer(data, dtype, count, start)
        start += arrays[name].nbytes
    if start != len(data):
        raise ValueError(f"{len(data)} bytes, expected: {start}")
    position, num_packets = arrays["position"], header["packets"]
    # Frames that were counted are not those of single packets.
    if not header["counted"] and not ((0 <= position) & (position < num_packets)).all():
        raise ValueError(f"frames outside of the {num_packets} packets")
    if (np.diff(arrays["times"]) < 0).any():
        raise ValueError("times that go back")
    fields = {name: header[name] for name in _FIELDS}
    fields["geometry"] = Geometry(*fields["geometry"]) if fields["geometry"] else None
    return VideoIndex(**arrays, **fields, time_base=Fraction(header["time_base"]))
