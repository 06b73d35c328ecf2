"""``VideoIndex``: where in a video file which frame is, read from its packets, and kept on disk if wanted.

A file stores packets in the order of decoding, which is not that of showing::

    packet       0    1    2    3    4    5       position
    kind         I    P    B    B    P    B
    pts          0    3    1    2    5    4
    frame        0    3    1    2    5    4       rank of the pts among the packets that are shown
"""

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np

# Stands for a timestamp that the file does not give.
NO_PTS = np.iinfo(np.int64).min
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The packets of the video stream of one file, in the order of the file, and what follows from them.

    Attributes:
        pts: int64 (P,), timestamps, in units of ``time_base``. With ``counted``: (num_frames,), of the decoded frames.
        sizes: int32 (P,), bytes.
        keys: bool (P,), where decoding can start.
        hidden: bool (P,), packets that are decoded and not shown: cut off by an edit list, or VP8's hidden references.
        time_base: seconds.
        fps: average frames per second; 0.0 where the file does not say.
        counted: packets and frames do not correspond; frame k is the k-th that decoding from the start gives.
        geometry: height and width of the upright frames, pixels, and rotation, degrees; None: not looked at.
    """

    pts: np.ndarray
    sizes: np.ndarray
    keys: np.ndarray
    hidden: np.ndarray
    time_base: Fraction
    fps: float
    counted: bool = False
    geometry: tuple[int, int, int] | None = None

    @property
    def num_frames(self) -> int:
        """Frames that are shown."""
        return len(self.position)

    @cached_property
    def position(self) -> np.ndarray:
        """The packet of each frame: int64 (num_frames,)."""
        if self.counted:
            return np.arange(len(self.pts))
        shown = np.flatnonzero(~self.hidden)
        return shown[np.argsort(self.pts[shown], kind="stable")]

    @cached_property
    def frame_pts(self) -> np.ndarray:
        """The timestamp of each frame, increasing: int64 (num_frames,); empty where timestamps are missing."""
        pts = self.pts[self.position]
        return pts if len(pts) and (np.diff(pts) > 0).all() and pts[0] != NO_PTS else pts[:0]

    @cached_property
    def frame_at(self) -> np.ndarray:
        """The frame of each packet, -1 for a hidden one: int64 (P,)."""
        frames = np.full(len(self.pts), -1)
        frames[self.position] = np.arange(self.num_frames)
        return frames

    def start_of(self, frame: int) -> int:
        """Return the position of the last key packet from which a frame can be decoded.

        It is stored before the frame and shown no later: what an open GOP's key packet is followed by, and shown
        before it, needs the GOP before.
        """
        keys = self._key_positions
        for key in keys[: np.searchsorted(keys, self.position[frame], side="right")][::-1]:
            if self.pts[key] <= self.frame_pts[frame]:
                return int(key)
        return 0

    def find(self, pts: int | None) -> int:
        """Return the position of the packet with a timestamp, or -1."""
        if pts is None:
            return -1
        place = np.searchsorted(self._sorted_pts, pts)
        found = place < len(self._sorted_pts) and self._sorted_pts[place] == pts
        return int(self._by_pts[place]) if found else -1

    @cached_property
    def _key_positions(self) -> np.ndarray:
        return np.flatnonzero(self.keys)

    @cached_property
    def _by_pts(self) -> np.ndarray:
        return np.argsort(self.pts, kind="stable")

    @cached_property
    def _sorted_pts(self) -> np.ndarray:
        return self.pts[self._by_pts]


class IndexCache:
    """Indices on disk: one small file per video, found by its path and used while its size and time stay the same.

    Several processes may use one folder at once.

    Args:
        folder: made when first needed.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = os.fspath(folder)

    def load(self, path: str) -> VideoIndex | None:
        """Return the index of a video, or None where there is none, or none of the file as it is now."""
        try:
            with open(self.file_of(path), "rb") as file:
                header = json.loads(file.readline())
                data = file.read()
            if header["format"] != _FORMAT or header["key"] != _key(path):
                return None
            return _unpack(header, data)
        except (OSError, ValueError, KeyError, TypeError):  # missing or damaged: made anew
            return None

    def save(self, path: str, index: VideoIndex) -> None:
        """Write the index of a video, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        target = self.file_of(path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        header = {"format": _FORMAT, "key": _key(path), "packets": len(index.pts), "counted": index.counted}
        header |= {"time_base": str(index.time_base), "fps": index.fps, "geometry": index.geometry}
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(target))
        try:
            with open(handle, "wb") as file:
                file.write(json.dumps(header).encode() + b"\n")
                for array, dtype in ((index.pts, "<i8"), (index.sizes, "<i4"), (_flags(index), "u1")):
                    file.write(array.astype(dtype).tobytes())
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise

    def file_of(self, path: str) -> str:
        """Return the path of the file that holds, or would hold, the index of a video."""
        name = hashlib.sha256(os.path.abspath(path).encode("utf8", "surrogateescape")).hexdigest()[:32]
        return os.path.join(self.folder, name[:2], name + ".index")


def make_index(
    pts: list[int | None], sizes: list[int], keys: list[bool], hidden: list[bool], time_base: Fraction, fps: float
) -> VideoIndex:
    """Return the index of packets; ``counted`` is set where they lack timestamps, or several have the same."""
    counted = None in pts or len(set(pts)) < len(pts)
    times = np.array([NO_PTS if time is None else time for time in pts], np.int64)
    arrays = np.array(sizes, np.int32), np.array(keys, bool), np.array(hidden, bool)
    return VideoIndex(times, *arrays, time_base=time_base, fps=fps, counted=counted)


def counted_index(index: VideoIndex, pts: list[int | None]) -> VideoIndex:
    """Return the index of a video by the timestamps of the frames that decoding it gave."""
    times = np.array([NO_PTS if time is None else time for time in pts], np.int64)
    none = np.zeros(len(times), bool)
    return replace(index, pts=times, sizes=np.zeros(len(times), np.int32), keys=none, hidden=none, counted=True)


def _flags(index: VideoIndex) -> np.ndarray:
    return index.keys + 2 * index.hidden.astype(np.uint8)


def _key(path: str) -> list:
    """What tells whether an index is that of a file as it is now."""
    status = os.stat(path)
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns]


def _unpack(header: dict, data: bytes) -> VideoIndex:
    count = header["packets"]
    if len(data) != 13 * count:
        raise ValueError(f"{len(data)} bytes for {count} packets")
    flags = np.frombuffer(data, "u1", count, 12 * count)
    return VideoIndex(
        pts=np.frombuffer(data, "<i8", count),
        sizes=np.frombuffer(data, "<i4", count, 8 * count),
        keys=(flags & 1).astype(bool),
        hidden=(flags & 2).astype(bool),
        time_base=Fraction(header["time_base"]),
        fps=header["fps"],
        counted=header["counted"],
        geometry=tuple(header["geometry"]) if header["geometry"] else None,
    )
