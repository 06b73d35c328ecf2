"""``FrameDecoder``: decodes chosen frames of one video file, and as few others as it can."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import av
import numpy as np

from nlvideo.data.pixel_limits import PixelLimits
from nlvideo.data.video_errors import VideoDecodeError
from nlvideo.data.video_index import VideoIndex, shown_order, to_stamps
from nlvideo.utils.time_limit import TimeLimit

# Decoders that leave out, when told to, exactly the frames that no other frame refers to.
_SKIP_UNREFERENCED = ("h264", "mpeg1video", "mpeg2video", "mpeg4")
# The bit in the first byte of a VP8 packet that says that its frame is shown (RFC 6386, section 9.1).
_VP8_SHOWN = 0x10
# Bytes of a packet of MPEG-4 without a picture.
_PLACEHOLDER_SIZE = 8


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
        pixels: how large a frame may be.

    Attributes:
        index: after ``open``.
        frame_bytes: of a frame as RGB, after ``open``, by what the header says; 0 where it does not.
        num_decoded: frames that came out of the decoder so far.
    """

    def __init__(self, path: str, limit: TimeLimit, pixels: PixelLimits):
        self.path, self.num_decoded = path, 0
        self._limit, self._pixels = limit, pixels
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
        if self.index.num_frames == 0:
            raise VideoDecodeError(self.path, "no frames in the video stream")

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (number, frame) for increasing numbers.

        Raises:
            VideoDecodeError: a wanted frame does not come out of the decoder.
        """
        done = 0
        for fall_back in (None, self._read_from_start, self._count):
            try:
                if fall_back:
                    fall_back()
                for number, frame in self._pick(wanted[done:]):
                    done += 1
                    yield number, frame
                return
            except _Mismatch:
                self._end_run()
            except BaseException:
                self._end_run()
                raise
        raise VideoDecodeError(self.path, f"frame {wanted[done]} of {self.index.num_frames} could not be decoded")

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
        for stream in self._container.streams if hasattr(av.stream, "Discard") else ():  # from PyAV 18 on
            if stream is not self._stream:
                stream.discard = av.stream.Discard.all
        self._codec = self._stream.codec_context
        if self._codec is None:
            raise VideoDecodeError(self.path, "FFmpeg has no decoder for the video stream")
        self._pixels.apply(self.path, self._codec)
        # The loader's workers are the parallelism.
        self._codec.thread_count, self._codec.thread_type = 1, "NONE"
        self.frame_bytes = 3 * self._codec.width * self._codec.height
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
        packets = []
        is_vp8 = self._codec.name == "vp8"
        for packet in self._packets:
            self._limit.check()
            if packet.size:  # the demuxer says with an empty packet that this is the end
                hidden = packet.is_discard or (is_vp8 and not memoryview(packet)[0] & _VP8_SHOWN)
                packets.append((packet.pts, packet.dts, packet.size, packet.is_keyframe, hidden))
        self._end_run()
        # This family of containers lists its packets in the header; edit lists are already applied.
        listed = len(self._stream.index_entries) if "mp4" in self._container.format.name else 0
        if len(packets) < listed:
            raise VideoDecodeError(self.path, f"truncated: {len(packets)} of {listed} frames")
        if not packets:
            raise VideoDecodeError(self.path, "no frames in the video stream")
        pts, dts, sizes, keys, hidden = zip(*packets)
        # AVI has no presentation timestamps: where frames are reordered, FFmpeg's are guesses.
        guessed = self._container.format.name == "avi" and pts != dts
        stamps = to_stamps(dts if guessed else pts)
        packed = self._codec.name == "mpeg4" and min(sizes) <= _PLACEHOLDER_SIZE
        order = None if guessed or packed else shown_order(stamps, hidden)
        index = VideoIndex(
            stamps=stamps,
            stamp_kind="dts" if guessed else "pts",
            sizes=np.array(sizes),
            keys=np.array(keys),
            position=np.arange(len(packets)) if order is None else order,
            time_base=self._stream.time_base,
            fps=float(self._stream.average_rate or self._stream.guessed_rate or 0),
        )
        return self._learn_order(index) if order is None else index

    def _learn_order(self, index: VideoIndex) -> VideoIndex:
        """Decode the whole file to learn which packet is which frame."""
        self._open()
        origins = []
        for position, packet in enumerate(self._packets):
            self._limit.check()
            origins.extend(frame.pts for frame in self._decode(packet, position))
        self._end_run()
        # MPEG-4 in AVI may pack two frames into a packet, and a placeholder into the next.
        packed = self._codec.name == "mpeg4" and index.sizes.min() <= _PLACEHOLDER_SIZE
        counted = packed or None in origins or len(set(origins)) < len(origins)
        order = np.arange(len(origins)) if counted else np.array(origins, np.int64)
        return replace(index, position=order, counted=counted)

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

    def _read_from_start(self) -> None:
        """Fall back to decoding the file from its beginning, for good."""
        self._from_start = True

    def _count(self) -> None:
        """Fall back to counting frames from the beginning, for good.

        Raises:
            VideoDecodeError: there are not as many as packets, so that a number may not mean what it should.
        """
        expected, self.index = self.index.num_frames, replace(self._learn_order(self.index), counted=True)
        if self.index.num_frames != expected:
            raise VideoDecodeError(self.path, f"{self.index.num_frames} of {expected} frames could be decoded")

    def _can_reach(self, target: int) -> bool:
        """Whether going on decoding leads to a frame, and a later key-frame would not do so sooner."""
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
        if self._from_start or not self.index.can_seek:
            self._open()
            return
        self._container.seek(int(self.index.stamps[start]), stream=self._stream)
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
            position = self.index.find(getattr(packet, self.index.stamp_kind))
            if position >= start:
                self._packets = itertools.chain([packet], packets)
                return position == start and packet.size == self.index.sizes[start]
        return False

    def _step(self, wanted: set[int], last: int) -> list[av.VideoFrame]:
        """Decode the next packet and return the frames that come out.

        Behind the packet ``last`` nothing is left out, so that the next call can go on from there.
        """
        self._limit.check()
        packet, position, index = next(self._packets, None), self._next, self.index
        if packet is None:
            raise _Mismatch
        if packet.size == 0:
            # The end: it empties the decoder, which can then not go on.
            self._next = -1
            return self._decode(packet, None)
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

    def _decode(self, packet: av.Packet, position: int | None, skip: bool = False) -> list[av.VideoFrame]:
        """Return the frames that come out for a packet; with ``skip`` without it, if no other frame refers to it."""
        if packet.size:
            # Decoders hand timestamps on from packets to frames: so each frame says where it comes from.
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
        if not self.index.counted:
            number = -1 if frame.pts is None else int(self.index.frame_at[frame.pts])
            if 0 <= number <= self._shown:
                raise _Mismatch
        self._shown = max(self._shown, number)
        return number
