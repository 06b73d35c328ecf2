"""``Video``: what every kind of video can do. A kind reads and times its own frames; the rest is here."""

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import av
import numpy as np
from PIL import Image

from nlvideo.data.video.pixels import DEFAULT_LIMITS, Geometry, PixelLimits
from nlvideo.errors import VideoDecodeError
from nlvideo.utils.files.file_kind import kind_of_file

# PyAV raises ValueError and other errors of Python for values that it does not understand. Pillow's decoders raise
# SyntaxError for some damaged PNG files.
_READ_ERRORS = (
    av.FFmpegError, OSError, ValueError, LookupError, ArithmeticError, MemoryError, SyntaxError,
    Image.DecompressionBombError,
)  # fmt: skip


class Video(contextlib.AbstractContextManager, ABC):
    """Random access to the frames of one video; a context manager that closes the video at its end.

    The kinds are ``VideoReader`` and ``TorchCodecReader`` (files), ``FrameFolder``, ``FrameArray`` (memory) and
    ``Window`` (a part of a stream). ``open_video`` chooses among them. A kind implements ``geometry`` and ``_read``,
    and sets the attributes. One with timestamps implements ``frame_seconds``; frames of others follow at one rate.

    Seconds count from the start of the video: the first frame, or the ``start_sec`` of a window.

    Attributes:
        path: the name of the video in messages.
        num_frames: how many frames there are, at least 1.
        fps: average frames per second, for display; 0.0 where it is not known. Seconds are looked up in the times of
            the frames.

    Raises:
        VideoDecodeError: the video cannot be opened, or has no frames.
    """

    num_frames: int
    fps: float
    _frames_are = "its frames"  # for the message

    def __init__(self, path: str | os.PathLike, pixels: PixelLimits = DEFAULT_LIMITS):
        self.path = os.fspath(path)
        self._pixels = pixels

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """Size of upright frames, and how stored ones become these; ``VideoDecodeError``: the first is not readable."""

    @property
    def frame_seconds(self) -> np.ndarray:
        """When each frame is shown: float64 (num_frames,), seconds; ``VideoDecodeError``: the rate is not known."""
        if self.fps <= 0:
            reason = f"the frame rate is not known, because {self._frames_are} do not hold it; give 'fps'"
            raise VideoDecodeError(self.path, reason)
        return np.arange(self.num_frames) / self.fps

    @abstractmethod
    def _read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (index, uint8 (H, W, 3)) for increasing indices of the video: RGB and upright, maybe a view."""

    def get_frames(self, indices: Sequence[int]) -> np.ndarray:
        """Return frames by index, in the order given; an index may occur several times and is decoded once.

        Args:
            indices: of the frames, at least one.

        Returns:
            uint8 (T, H, W, 3), RGB, upright, contiguous; a copy.

        Raises:
            ValueError: there are no indices.
            IndexError: an index is outside ``[0, num_frames)``.
            VideoDecodeError: a wanted frame cannot be decoded, or its size differs from that of the others, or the
                frames have more pixels than ``pixels`` allows.
        """
        if len(indices) == 0:
            raise ValueError(f"{self.path}: get_frames needs at least one index")
        for index in (min(indices), max(indices)):
            if not 0 <= index < self.num_frames:
                last = self.num_frames - 1
                raise IndexError(f"{self.path}: frame {index} was asked for, the video has frames 0 to {last}")
        return self._get_frames(indices)

    def _get_frames(self, indices: Sequence[int]) -> np.ndarray:
        """Do the work of ``get_frames`` for indices that were checked."""
        rows: dict[int, list[int]] = {}
        for row, index in enumerate(indices):
            rows.setdefault(int(index), []).append(row)
        frames = np.empty((0, 0, 0, 3), np.uint8)
        for index, image in self._read(sorted(rows)):
            if not len(frames):
                self._pixels.check_clip(self.path, len(indices), *image.shape[:2])
                frames = np.empty((len(indices), *image.shape), np.uint8)
            self._check_size(index, image, *frames.shape[1:3])
            frames[rows[index]] = image
        return frames

    def index_at(self, seconds: float) -> int:
        """Return the index of the first frame that is shown at or after ``seconds``; ``num_frames`` past the end."""
        # Seconds are rounded to some decimals. So half a millionth is no difference.
        return int(np.searchsorted(self.frame_seconds, seconds - 5e-7))

    def check(self) -> None:
        """Decode the whole video; ``VideoDecodeError``: a frame cannot be decoded, or the size of frames changes."""
        for index, image in self._read(range(self.num_frames)):
            self._check_size(index, image, self.height, self.width)

    def close(self) -> None:
        """Close what is open. It may be called more than once, and a video that is read again opens again."""

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def height(self) -> int:
        """Height of the frames, pixels."""
        return self.geometry.height

    @property
    def width(self) -> int:
        """Width of the frames, pixels."""
        return self.geometry.width

    @property
    def rotation(self) -> int:
        """Counter-clockwise degrees by which stored frames are turned: 0, 90, 180 or 270; see ``geometry``."""
        return self.geometry.rotation

    @property
    def mirrored(self) -> bool:
        """Whether left and right of stored frames change places after the rotation; see ``geometry``."""
        return self.geometry.mirrored

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame, for planning; 0 where that is not known. Nothing is decoded for it."""
        # A first frame that is damaged may be one that is never asked for.
        with contextlib.suppress(VideoDecodeError):
            return 3 * self.height * self.width
        return 0

    @property
    def duration_sec(self) -> float:
        """How long all frames are shown, seconds, the last for as long as most are; see ``frame_seconds``."""
        seconds = self.frame_seconds
        return float(seconds[-1] + np.median(np.diff(seconds))) if self.num_frames > 1 else 1 / self.fps

    def _check_size(self, index: int, image: np.ndarray, height: int, width: int) -> None:
        if image.shape[:2] != (height, width):
            sizes = f"from {height}x{width} to {image.shape[0]}x{image.shape[1]}"
            raise VideoDecodeError(self.path, f"the frame size changes {sizes} in {self._name_of(index)}")

    def _name_of(self, index: int) -> str:
        return f"frame {index}"


@contextlib.contextmanager
def read_errors(path: str, part: str = "") -> Iterator[None]:
    """Turn what FFmpeg, Pillow or the system raises into a ``VideoDecodeError``, which says what a wrong file holds.

    ``part`` of the video is for example the name of an image in a folder.
    """
    prefix = f"{part}: " if part else ""
    try:
        yield
    except FileNotFoundError:
        raise VideoDecodeError(path, f"{prefix}no such file") from None
    except _READ_ERRORS as error:
        # Pillow repeats the path.
        text = str(error).split(f" '{path}")[0]
        reason = prefix + (getattr(error, "strerror", None) or text or type(error).__name__)
        if os.path.isfile(path) and os.path.getsize(path) == 0:
            reason = "the file is empty"
        elif kind := kind_of_file(path):
            reason += f"; the file holds {kind}"
        raise VideoDecodeError(path, reason) from error
