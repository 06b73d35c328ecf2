"""``FrameDecoder``: decodes chosen frames of one video file, and as few others as it can."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain

import av
import numpy as np
from av.video.frame import PictureType

from nlvideo.data.video.exact.decode_in_order import (
    ShowTimes,
    average_fps,
    has_new_parameters,
    open_stream,
    read_packets,
)
from nlvideo.data.video.exact.proven_kinds import PROVEN, kind_of
from nlvideo.data.video.pixels import PixelLimits, RgbConverter
from nlvideo.data.video.video_index import VideoIndex, is_packed, scan_packets
from nlvideo.errors import VideoDecodeError
from nlvideo.utils.console import log_once
from nlvideo.utils.system.time_limit import TimeLimit

# Decoders that leave out, when told to, exactly the frames that no other frame refers to.
_SKIP_UNREFERENCED = ("h264", "mpeg1video", "mpeg2video", "mpeg4")
_DIFFERS = "random access gives other frames than decoding in order"
# Places in a file where random access is compared with a decode in order.
_NUM_PROBES = 5


class _Mismatch(Exception):
    """The file does not behave as its index says."""


class FrameDecoder:
    """Decodes frames by number, each from the last key-frame before it, or on from where the last call stopped.

    The index says which packet holds which frame. So packets that no wanted frame needs are left out before they are
    decoded: all before the key-frame, and after it the frames that no other frame refers to (most B-frames). Where a
    seek misses, or other frames come out than the index says, the file is read from its beginning.

    The packets are trusted as far as tests have proven it (``PROVEN``). A file of any other kind, or one whose packets
    say too little, is decoded once when its index is made. Frames, their order and their times are then those that come
    out, and a few frames by random access are compared with them. If one differs, the file is always read from its
    beginning.

    Args:
        path: the file.
        limit: the time that opening, and then each frame, may take.
        pixels: how large a frame may be.

    Attributes:
        num_decoded: frames that came out of the decoder so far.
        index: after ``open``, as the others.
        kind: of the file; ``is_proven``: whether it is one of ``PROVEN``.
        frame_bytes: of a frame as RGB, by what the header says; 0 where it does not.
    """

    def __init__(self, path: str, limit: TimeLimit, pixels: PixelLimits):
        self.path, self.num_decoded = path, 0
        self._limit, self._pixels = limit, pixels
        self._opened, self._is_open = ExitStack(), False
        self._container: av.container.InputContainer
        self._packets: Iterator[av.Packet]
        self._from_start = False  # a seek gives wrong frames in this file
        self._end_run()

    def open(self, index: VideoIndex | None = None, check: bool = False) -> None:
        """Open the file; without an index, make it. ``check``: decode the file for that, whatever its kind is.

        Raises:
            VideoDecodeError: there are no frames, or fewer than there should be.
            FFmpegError, OSError, ValueError: what PyAV raises; so in the other methods.
        """
        self._open()
        if index is None:
            index, is_sure = scan_packets(self.path, self._container, self._stream, self._limit.check)
            self._end_run()
            if check or not is_sure or not self.is_proven:
                index, differs, _ = self._learn(index)
                if differs:
                    what = f"it is read from its start, which is right and slow ({self.kind})"
                    log_once(f"{self.path}: {_DIFFERS}; {what}")
        self.index = index
        if index.num_frames == 0:
            raise VideoDecodeError(self.path, "no frames in the video stream")

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (number, frame) for increasing numbers, or raise ``VideoDecodeError`` where one does not come out."""
        done = 0
        while True:
            try:
                for number, frame in self._pick(wanted[done:]):
                    done += 1
                    yield number, frame
                return
            except (_Mismatch, av.FFmpegError) as error:
                self._end_run()
                can_fall_back = self.index.can_seek and not self._from_start
                if not can_fall_back or isinstance(error, av.error.ExitError):
                    self._from_start = False  # damage, which other frames need not have
                    if isinstance(error, av.FFmpegError):
                        raise
                    reason = f"frame {wanted[done]} of {self.index.num_frames} could not be decoded"
                    raise VideoDecodeError(self.path, reason) from None
                self._from_start = True
            except BaseException:
                self._end_run()
                raise

    def check(self) -> None:
        """Decode the whole file; raise ``VideoDecodeError`` where its index or random access gives something else."""
        index = self.index
        found, differs, sizes = self._learn(index)
        self.index = index
        if len(sizes) > 1:
            raise VideoDecodeError(self.path, f"the frame size changes between {' and '.join(sorted(sizes))}")
        if found.num_frames != index.num_frames:
            raise VideoDecodeError(self.path, f"{found.num_frames} of {index.num_frames} frames could be decoded")
        if not index.counted and (differs or not np.array_equal(found.position, index.position)):
            raise VideoDecodeError(self.path, f"{_DIFFERS}: index the data set with tools/index_dataset.py")

    def close(self) -> None:
        """Close the file. It may be called more than once; the next frame opens the file again."""
        self._end_run()
        self._opened.close()
        self._is_open = False

    def _open(self) -> None:
        """Open the file, also where it is open, to read it from its first packet."""
        self.close()
        timeout_sec = self._limit.seconds or None
        self._container, self._stream = open_stream(self.path, self._pixels, timeout_sec=timeout_sec)
        self._opened.enter_context(self._container)
        self._is_open = True
        self._codec = self._stream.codec_context
        # The loader's workers are the parallelism.
        self._codec.thread_count, self._codec.thread_type = 1, "NONE"
        self.frame_bytes = 3 * self._codec.width * self._codec.height
        self.kind = kind_of(self._container, self._codec)
        self.is_proven = self._is_prepared = self.kind in PROVEN  # whose decoders need nothing but a key-frame
        self._skips = self.is_proven and self._codec.name in _SKIP_UNREFERENCED
        self._packets = read_packets(self._container, self._stream)
        self._next = self._run_start = 0

    def _end_run(self) -> None:
        """Forget the decoder's state: the next frame needs a seek."""
        self._packets = iter(())
        self._next = self._run_start = -1  # the packet to be read next, and the first one decoded
        self._shown = -1  # the last frame that came out
        self._left_out: set[int] = set()

    def _learn(self, packets: VideoIndex) -> tuple[VideoIndex, bool, set[str]]:
        """Decode the whole file; return its true index, whether random access fails, and the sizes of the frames."""
        self._open()
        keys = np.flatnonzero(packets.keys)
        some = keys[np.linspace(0, len(keys) - 1, _NUM_PROBES).astype(int)] if len(keys) else keys
        probes = {len(packets.keys) - 1, *(some[:, None] + range(3)).flat}
        origins: list[int | None] = []  # the packet of each frame
        images: dict[int, tuple] = {}
        sizes: set[str] = set()
        has_changes = False
        for position, packet in enumerate(chain(self._packets, [None])):
            self._limit.check()
            has_changes |= packet is not None and has_new_parameters(packet)
            for frame in self._decode(packet, position):
                sizes.add(f"{frame.height}x{frame.width}")
                if frame.pts in probes:
                    images[len(origins)] = _fingerprint(frame)
                origins.append(frame.pts)
        stream = self._stream
        self._end_run()
        is_one_each = None not in origins and len(set(origins)) == len(origins)
        counted = has_changes or not is_one_each or is_packed(self._codec, packets.sizes)
        # Decoding timestamps belong to the order in which frames come out.
        stamped: Sequence[int | None] = range(len(origins)) if packets.stamp_kind == "dts" else origins
        times = ShowTimes(stream).of_all(packets.stamp_of(place) for place in stamped)
        in_order = np.arange(len(origins))
        index = replace(
            packets,
            position=in_order if counted else np.array(origins, np.int64),
            times=times,
            fps=average_fps(times, stream),
            counted=counted,
            checked=True,
        )
        differs = index.can_seek and not self._gives(index, images)
        return replace(index, position=in_order, counted=True) if differs else index, differs, sizes

    def _gives(self, index: VideoIndex, images: dict[int, tuple]) -> bool:
        """Whether random access by an index gives frames with these fingerprints."""
        self.index = index
        # Begin as ``scan_packets`` leaves a file: all packets are read, and none is decoded.
        self._open()
        for _ in self._packets:
            self._limit.check()
        try:
            for number in sorted(images, reverse=True):
                self._end_run()
                _, frame = next(self._pick([number]))
                if _fingerprint(frame) != images[number]:
                    return False
        except (_Mismatch, av.FFmpegError):
            return False
        finally:
            self._end_run()
        return True

    def _pick(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield the wanted frames out of runs of decoded ones; a new run begins where that leaves frames out."""
        missing = set(wanted)
        last = int(self.index.position[list(wanted)].max()) if missing else -1
        for target in wanted:
            if target in missing and not self._can_reach(target):
                self._start_run(target)
            while target in missing:
                for frame in self._step(missing, last):
                    number = self._number(frame)
                    if number > target and target in missing:
                        raise _Mismatch
                    if number in missing:
                        missing.remove(number)
                        yield number, frame

    def _can_reach(self, target: int) -> bool:
        """Whether more decoding leads to a frame, and no later key-frame leads there sooner."""
        if self._next < 0 or target <= self._shown or target in self._left_out:
            return False
        start = self._start_of(target)
        return self._run_start <= start <= self._next

    def _start_of(self, frame: int) -> int:
        return 0 if self._from_start else self.index.start_of(frame)

    def _start_run(self, target: int) -> None:
        """Go to the key-frame of a frame."""
        start = self._start_of(target)
        self._end_run()
        if self._from_start or not self.index.can_seek or (start == 0 and not self.is_proven):
            self._open()
            return
        if not self._seek(start):
            # A seek that is refused, or that lands too late, as in MPEG transport streams.
            self._open()
            self._prepare()
            if not self._skip_to(start):
                raise _Mismatch
        self._next = self._run_start = start

    def _seek(self, start: int) -> bool:
        if not (self._is_open and self._is_prepared):
            self._open()
            self._prepare()
        try:
            self._container.seek(int(self.index.stamps[start]), stream=self._stream)
        except av.error.ExitError:
            raise
        except av.FFmpegError:
            return False
        return self._skip_to(start)

    def _prepare(self) -> None:
        """Show the decoder the first packet, which may hold what the others need, such as a palette."""
        if not self._is_prepared:
            self._is_prepared = True
            self._decode(next(self._packets, None), 0)
            self._codec.flush_buffers()

    def _skip_to(self, start: int) -> bool:
        """Read packets, without decoding them, until the next is the one at ``start``; False where there is none."""
        packets = read_packets(self._container, self._stream)
        for packet in packets:
            self._limit.check()
            position = self.index.find(getattr(packet, self.index.stamp_kind))
            if position >= start:
                self._packets = chain([packet], packets)
                return position == start and packet.size == self.index.sizes[start]
        return False

    def _step(self, wanted: set[int], last: int) -> list[av.VideoFrame]:
        """Return the frames that come out of the next packet; after the packet ``last`` nothing is left out."""
        self._limit.check()
        packet, position, index = next(self._packets, None), self._next, self.index
        if packet is None:
            # At the end the decoder gives what it still holds. It cannot go on after that.
            if position < 0:
                raise _Mismatch
            self._next = -1
            return self._decode(None, None)
        self._next += 1
        if index.counted:
            return self._decode(packet, position)
        if position >= len(index.sizes) or packet.size != index.sizes[position]:
            raise _Mismatch
        number = int(index.frame_at[position])
        skip = self._skips and position < last and number >= 0 and number not in wanted
        if skip:
            self._left_out.add(number)
        return self._decode(packet, position, skip)

    def _decode(self, packet: av.Packet | None, position: int | None, skip: bool = False) -> list[av.VideoFrame]:
        """Return the frames that come out for a packet; ``skip`` leaves it out if no other frame refers to it."""
        if packet is not None:
            # Decoders copy timestamps from packets to frames. So each frame says which packet it comes from.
            packet.pts = position
        self._codec.skip_frame = "NONREF" if skip else "DEFAULT"
        with self._pixels.explained(self.path, self._codec):
            frames = self._codec.decode(packet)
        if frames:
            self._limit.progress()
            self.num_decoded += len(frames)
        return frames

    def _number(self, frame: av.VideoFrame) -> int:
        """The number of a frame that came out; -1 for one that is not to be shown."""
        number = self._shown + 1
        is_key = frame.key_frame or frame.pict_type == PictureType.I
        if frame.pts == self._run_start > 0 and not is_key:
            # The file calls it a key-frame, and it is none. Some decoders then give a wrong frame, without an error.
            raise _Mismatch
        if not self.index.counted:
            number = -1 if frame.pts is None else int(self.index.frame_at[frame.pts])
            if 0 <= number <= self._shown:
                raise _Mismatch
        self._shown = max(self._shown, number)
        return number


def _fingerprint(frame: av.VideoFrame) -> tuple:
    """Return what is equal where two frames give the same pixels."""
    image = RgbConverter()(frame)
    return image.shape, zlib.crc32(image.tobytes())
