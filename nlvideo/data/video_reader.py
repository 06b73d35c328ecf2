"""``VideoReader``: frames of a video file by their exact index."""

import bisect
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import VideoReformatter


class VideoDecodeError(RuntimeError):
    """A video that cannot be read; ``path`` says which one and ``reason`` why. It pickles across workers."""

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class _TimestampMismatch(Exception):
    """The decoder's timestamps are not those of the packets, so frames must be found by counting."""


class VideoReader:
    """Random access to the frames of one video, exact to the frame; a context manager that always closes the file.

    Opening reads the packets without decoding them: their sorted timestamps number the frames, and the key-frames
    among them are the places where decoding can start. ``get_frames`` starts from the last key-frame at or before a
    wanted frame, decodes on one thread (the loader's workers are the parallelism), and converts to RGB only what is
    wanted. A file whose decoded timestamps disagree with its packets, as in some AVI files, is decoded from its
    beginning and counted instead. A frame that the decoder had to conceal because its data is damaged is returned as
    the decoder made it.

    Attributes:
        num_frames: frames in the video stream (FFmpeg's "best" one where there are several).
        fps: average frames per second, for display; time intervals are looked up in the timestamps.
        height, width: size of the returned frames, pixels.
        rotation: counter-clockwise degrees by which the file's metadata turns the stored frames: 0, 90, 180 or 270.

    Raises:
        VideoDecodeError: the file is missing, empty, truncated, not a video or damaged.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        # One scaler for all frames: a frame's own conversion sets up a scaler, and its threads, every time.
        self._reformatter = VideoReformatter()
        self._count_frames = False
        self._geometry: tuple[int, int, int] | None = None
        self._container = None
        with self._errors():
            try:
                self._open()
                self._read_packets()
            except BaseException:
                self.close()
                raise

    def get_frames(self, indices: Sequence[int]) -> np.ndarray:
        """Return frames by index, in the order given; an index may occur several times.

        Returns:
            uint8 (T, H, W, 3), RGB, with the file's rotation applied.

        Raises:
            IndexError: an index is outside ``[0, num_frames)``.
            VideoDecodeError: a wanted frame cannot be decoded.
        """
        rows = rows_by_index(self.path, indices, self.num_frames)
        frames = None
        with self._errors():
            for index, frame in self._decode(sorted(rows)):
                image = self._to_rgb(frame)
                if frames is None:
                    frames = np.empty((len(indices), *image.shape), np.uint8)
                if image.shape != frames.shape[1:]:
                    sizes = f"from {frames.shape[1:3]} to {image.shape[:2]}"
                    raise VideoDecodeError(self.path, f"the frame size changes {sizes}")
                frames[rows[index]] = image
        return frames

    def index_at(self, seconds: float) -> int:
        """Return the index of the first frame shown at or after ``seconds`` from the start of the video.

        Past the end it is ``num_frames``.
        """
        if not self._pts:
            return min(self.num_frames, max(0, int(np.ceil(seconds * self.fps - 1e-6))))
        # Timestamps are rounded to the time base: half a tick decides no frame.
        ticks = self._pts[0] + Fraction(seconds).limit_denominator(10**6) / self._stream.time_base - Fraction(1, 2)
        return bisect.bisect_left(self._pts, ticks)

    def check(self) -> None:
        """Decode the whole video without converting it.

        Raises:
            VideoDecodeError: some frame cannot be decoded.
        """
        with self._errors():
            for _ in self._decode(range(self.num_frames)):
                pass

    @property
    def height(self) -> int:
        """Height of the returned frames, pixels."""
        return self._get_geometry()[0]

    @property
    def width(self) -> int:
        """Width of the returned frames, pixels."""
        return self._get_geometry()[1]

    @property
    def rotation(self) -> int:
        """Counter-clockwise degrees by which the file's metadata turns the stored frames."""
        return self._get_geometry()[2]

    def close(self) -> None:
        """Close the file; may be called more than once."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _open(self) -> None:
        self.close()
        self._container = av.open(self.path)
        self._stream = self._container.streams.best("video")
        if self._stream is None:
            raise VideoDecodeError(self.path, "no video stream")
        self._stream.codec_context.thread_count = 1
        self._stream.codec_context.thread_type = "NONE"

    def _read_packets(self) -> None:
        """Number the frames by the timestamps of their packets and find the key-frames."""
        pts, key_pts, num_packets = [], [], 0
        for packet in self._container.demux(self._stream):
            if packet.size == 0:  # the demuxer's way to say that this is the end
                continue
            num_packets += 1
            if packet.is_discard:  # cut off by an edit list
                continue
            pts.append(packet.pts)
            if packet.is_keyframe:
                key_pts.append(packet.pts)
        if not pts:
            raise VideoDecodeError(self.path, "no frames in the video stream")
        # Only this family of containers counts its frames reliably in the header.
        if "mp4" in self._container.format.name and num_packets < self._stream.frames:
            raise VideoDecodeError(self.path, f"truncated: {num_packets} of {self._stream.frames} frames")
        self.num_frames = len(pts)
        self.fps = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        self._count_frames = None in pts or len(set(pts)) < len(pts)
        self._pts = [] if self._count_frames else sorted(pts)
        self._keys = [] if self._count_frames else sorted({0, *(bisect.bisect_left(self._pts, p) for p in key_pts)})

    def _decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (index, decoded frame) for increasing indices; again from the start if it must count frames instead."""
        if not self._count_frames:
            try:
                yield from self._pick(wanted, self._key_before, self._run_from)
                return
            except _TimestampMismatch:
                self._count_frames = True
        self._open()
        yield from self._pick(wanted, lambda index: 0, lambda first: enumerate(self._container.decode(self._stream)))

    def _pick(
        self,
        wanted: Sequence[int],
        start_of: Callable[[int], int],
        run_from: Callable[[int], Iterator[tuple[int, av.VideoFrame]]],
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield the wanted frames out of runs of decoded ones, with a new run wherever that skips frames."""
        run, position = iter(()), -1
        for target in wanted:
            first = start_of(target)
            if first > position:
                run, position = run_from(first), first
            for index, frame in run:
                position = index + 1
                if index == target:
                    yield index, frame
                    break
            else:
                raise VideoDecodeError(self.path, f"frame {target} of {self.num_frames} could not be decoded")

    def _key_before(self, index: int) -> int:
        return self._keys[bisect.bisect_right(self._keys, index) - 1]

    def _run_from(self, first: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (index, frame) from key-frame ``first`` on, checking that the timestamps are the expected ones."""
        self._container.seek(self._pts[first], stream=self._stream)
        index = first
        for frame in self._container.decode(self._stream):
            # Behind an open-GOP key-frame come frames that are shown before it and lack their references.
            if index == first and frame.pts is not None and frame.pts < self._pts[first]:
                continue
            if index >= self.num_frames or frame.pts != self._pts[index]:
                raise _TimestampMismatch
            yield index, frame
            index += 1
        if index < self.num_frames:  # a seek that lands too late, as in MPEG transport streams
            raise _TimestampMismatch

    def _to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        # Not frame.to_ndarray(format=...): it sets up a scaler with threads for every frame, slower than the decoding.
        image = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        turns = round(frame.rotation / 90) % 4
        image = np.rot90(image, turns) if turns else image
        self._geometry = (image.shape[0], image.shape[1], 90 * turns)
        return image

    def _get_geometry(self) -> tuple[int, int, int]:
        if self._geometry is None:
            self.get_frames([0])
        return self._geometry

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn whatever FFmpeg or the file system raises into a ``VideoDecodeError``."""
        try:
            yield
        except VideoDecodeError:
            raise
        except FileNotFoundError:
            raise VideoDecodeError(self.path, "no such file") from None
        except (av.FFmpegError, OSError) as error:
            reason = "the file is empty" if _is_empty(self.path) else getattr(error, "strerror", None) or str(error)
            raise VideoDecodeError(self.path, reason) from error


def rows_by_index(path: str, indices: Sequence[int], num_frames: int) -> dict[int, list[int]]:
    """Return where in ``indices`` each index occurs.

    Raises:
        ValueError: there are no indices.
        IndexError: an index is outside ``[0, num_frames)``; ``path`` is for the message.
    """
    if len(indices) == 0:
        raise ValueError(f"{path}: get_frames needs at least one index")
    for index in (min(indices), max(indices)):
        if not 0 <= index < num_frames:
            raise IndexError(f"{path}: frame {index} was asked for, the video has frames 0 to {num_frames - 1}")
    rows: dict[int, list[int]] = {}
    for row, index in enumerate(indices):
        rows.setdefault(int(index), []).append(row)
    return rows


def _is_empty(path: str) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) == 0
