"""``FrameDecoder``: decodes chosen frames of one video file, and as few others as it can."""

import itertools
from collections.abc import Iterator, Sequence

import av

from nlvideo.data.video_errors import VideoDecodeError
from nlvideo.data.video_index import VideoIndex, counted_index, make_index
from nlvideo.utils.time_limit import TimeLimit

# Decoders that leave out, when told to, exactly the frames that no other frame refers to.
_SKIP_UNREFERENCED = ("h264", "mpeg1video", "mpeg2video", "mpeg4")
# The bit in the first byte of a VP8 packet that says that its frame is shown (RFC 6386, section 9.1).
_VP8_SHOWN = 0x10


class _Mismatch(Exception):
    """The file does not behave as its index says."""


class FrameDecoder:
    """Decodes frames by number, each from the last key-frame before it, or on from where the last call stopped.

    The index says which packet is which frame, so packets are told apart before they are decoded, and those that no
    wanted frame needs are left out: all before the key-frame, and behind it the frames that no other frame refers to
    (most B-frames). Where a seek misses, or where what comes out is not what the index says, the file is read from its
    beginning.

    Args:
        path: the file.
        limit: the time that opening, and then each frame, may take.

    Attributes:
        index: after ``open``.
        num_decoded: frames that came out of the decoder so far.
    """

    def __init__(self, path: str, limit: TimeLimit):
        self.path, self.num_decoded = path, 0
        self._limit = limit
        self._container: av.container.InputContainer | None = None
        self._from_start = False  # no seeking in this file
        self._end_run()

    def open(self, index: VideoIndex | None = None) -> None:
        """Open the file; without an index, read it from the packets.

        Raises:
            VideoDecodeError: there are no frames, or fewer than there should be.
            FFmpegError, OSError, ValueError: what PyAV raises; so in ``frames``.
        """
        self._open()
        self.index = index or self._scan()
        if self.index.counted and index is None:
            self._open()
            self.index = counted_index(self.index, self._decode_all())
        if self.index.num_frames == 0:
            raise VideoDecodeError(self.path, "no frames in the video stream")

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (number, frame) for increasing numbers.

        Raises:
            VideoDecodeError: a wanted frame does not come out of the decoder.
        """
        done = 0
        try:
            for number, frame in self._pick(wanted):
                done += 1
                yield number, frame
            return
        except _Mismatch:
            self._from_start = True
            self._end_run()
        except BaseException:
            self._end_run()
            raise
        yield from self._pick_again(wanted[done:])

    def close(self) -> None:
        """Close the file; may be called more than once."""
        self._end_run()
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open(self) -> None:
        """Open the file, anew if need be, to read it from its first packet."""
        self.close()
        # A title in an unexpected encoding is no reason to refuse a video.
        self._container = av.open(self.path, metadata_errors="replace", timeout=self._limit.seconds or None)
        self._stream = self._container.streams.best("video")
        if self._stream is None:
            raise VideoDecodeError(self.path, "no video stream")
        for stream in self._container.streams:
            if stream is not self._stream:
                stream.discard = av.stream.Discard.all
        self._codec = self._stream.codec_context
        # The loader's workers are the parallelism.
        self._codec.thread_count, self._codec.thread_type = 1, "NONE"
        self._skips = self._codec.name in _SKIP_UNREFERENCED
        self._packets = self._container.demux(self._stream)
        self._next = self._run_start = 0

    def _end_run(self) -> None:
        """Forget the decoder's state: the next frame needs a seek."""
        self._packets: Iterator[av.Packet] = iter(())
        self._next = self._run_start = -1  # the packet to be read next, and the first one decoded
        self._shown = -1  # the last frame that came out
        self._left_out: set[int] = set()

    def _scan(self) -> VideoIndex:
        """Read the index from the packets."""
        pts, sizes, keys, hidden = [], [], [], []
        is_vp8 = self._codec.name == "vp8"
        for packet in self._packets:
            self._limit.check()
            if packet.size == 0:  # the demuxer's way to say that this is the end
                continue
            pts.append(packet.pts)
            sizes.append(packet.size)
            keys.append(packet.is_keyframe)
            hidden.append(packet.is_discard or (is_vp8 and not memoryview(packet)[0] & _VP8_SHOWN))
        # This family of containers lists its packets in the header; edit lists are already applied.
        listed = len(self._stream.index_entries) if "mp4" in self._container.format.name else 0
        if len(pts) < listed:
            raise VideoDecodeError(self.path, f"truncated: {len(pts)} of {listed} frames")
        self._end_run()
        fps = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        return make_index(pts, sizes, keys, hidden, self._stream.time_base, fps)

    def _pick(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield the wanted frames out of runs of decoded ones, with a new run wherever that leaves frames out."""
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

    def _pick_again(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield the wanted frames after a mismatch: reading from the start, and then counting."""
        done = 0
        try:
            for number, frame in self._pick(wanted):
                done += 1
                yield number, frame
            return
        except _Mismatch:
            pass
        expected = self.index.num_frames
        self._open()
        pts = self._decode_all()
        if len(pts) != expected:
            lost = f"frame {wanted[done]} of {expected} could not be decoded ({len(pts)} frames come out)"
            raise VideoDecodeError(self.path, lost)
        self.index = counted_index(self.index, pts)
        yield from self._pick(wanted[done:])

    def _can_reach(self, target: int) -> bool:
        """Whether going on decoding leads to a frame, and a later key-frame would not do so sooner."""
        if self._next < 0 or target <= self._shown or target in self._left_out:
            return False
        start = self._start_of(target)
        return self._run_start <= start <= self._next

    def _start_of(self, frame: int) -> int:
        return 0 if self._from_start or self.index.counted else self.index.start_of(frame)

    def _start_run(self, target: int) -> None:
        """Go to the key-frame of a frame."""
        start = self._start_of(target)
        self._end_run()
        if self._from_start or self.index.counted:
            self._open()
            return
        self._container.seek(int(self.index.pts[start]), stream=self._stream)
        if not self._skip_to(start):
            # A seek that lands too late, as in MPEG transport streams.
            self._open()
            if not self._skip_to(start):
                raise _Mismatch
        self._next = self._run_start = start

    def _skip_to(self, start: int) -> bool:
        """Read packets, without decoding them, until the next is the one at ``start``; False where there is none."""
        packets = self._container.demux(self._stream)
        for packet in packets:
            self._limit.check()
            position = self.index.find(packet.pts)
            if position >= start:
                self._packets = itertools.chain([packet], packets)
                return position == start and packet.size == self.index.sizes[start]
        return False

    def _step(self, wanted: set[int], last: int) -> list[av.VideoFrame]:
        """Decode the next packet and return the frames that come out.

        Behind the packet ``last`` nothing is left out, so that the next call can go on from there.
        """
        self._limit.check()
        packet = next(self._packets, None)
        if packet is None:
            raise _Mismatch
        skip = False
        if not self.index.counted and packet.size:
            position, index = self._next, self.index
            known = position < len(index.pts) and packet.pts == index.pts[position]
            if not known or packet.size != index.sizes[position]:
                raise _Mismatch
            number = int(index.frame_at[position])
            if self._skips and position < last and number >= 0 and number not in wanted:
                skip = True
                self._left_out.add(number)
        self._codec.skip_frame = "NONREF" if skip else "DEFAULT"
        # The empty packet at the end empties the decoder, which can then not go on.
        self._next = self._next + 1 if packet.size else -1
        return self._decode(packet)

    def _decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        frames = self._codec.decode(packet)
        if frames:
            self._limit.progress()
            self.num_decoded += len(frames)
        return frames

    def _decode_all(self) -> list[int | None]:
        """Decode what is left of the file and return the frames' timestamps."""
        pts = []
        self._codec.skip_frame = "DEFAULT"
        for packet in self._packets:
            self._limit.check()
            pts.extend(frame.pts for frame in self._decode(packet))
        self._end_run()
        return pts

    def _number(self, frame: av.VideoFrame) -> int:
        """The number of a frame that came out; -1 for one that is not to be shown."""
        number = self._shown + 1
        if not self.index.counted:
            position = self.index.find(frame.pts)
            if position < 0:
                raise _Mismatch
            number = int(self.index.frame_at[position])
            if 0 <= number <= self._shown:
                raise _Mismatch
        self._shown = max(self._shown, number)
        return number
