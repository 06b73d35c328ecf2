"""``FrameFolder``: a video stored as a folder of images, with the interface of ``VideoReader``."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import ExifTags, Image, ImageOps

from nlvideo.data.video.constant_rate import ConstantRate
from nlvideo.data.video.frame_array import FrameArray
from nlvideo.data.video.paths import IMAGE_EXTENSIONS, local_video_path
from nlvideo.data.video.pixel_limits import PixelLimits
from nlvideo.data.video.sliding_window import Window
from nlvideo.data.video.torchcodec_reader import TorchCodecReader
from nlvideo.data.video.video_reader import DEFAULT_TIMEOUT_SEC, VideoReader, rows_by_index
from nlvideo.errors import VideoDecodeError
from nlvideo.utils.closing import Closing
from nlvideo.utils.messages import one_of

# What can read the files: the values of DATALOADER.READER.
READERS = {"pyav": VideoReader, "torchcodec": TorchCodecReader}
# EXIF orientations that swap height and width.
_SIDEWAYS = (5, 6, 7, 8)


class FrameFolder(ConstantRate, Closing):
    """Random access to the frames of a video that was extracted into a folder, one JPEG or PNG for each frame.

    Frame k is the k-th image in natural order (``2.jpg`` before ``10.jpg``): names may count from 0 or 1 and may or may
    not be padded with zeros, and a gap in the numbers closes. Hidden files and files of other kinds are not frames.
    Only the images asked for are opened.

    Args:
        path: the folder.
        fps: frames per second; images carry none. None: seconds cannot be turned into frames.
        pixels: how large frames may be, and all frames of one call together.

    Attributes:
        num_frames, fps: see ``ConstantRate``.
        height, width: size of the frames, pixels.
        rotation: 0; frames are returned upright, as the EXIF orientation of a JPEG says.

    Raises:
        VideoDecodeError: the folder is missing, is not a folder or holds no image.
    """

    rotation = 0

    def __init__(self, path: str | os.PathLike, fps: float | None = None, pixels: PixelLimits = PixelLimits()):
        self.path, self._pixels = os.fspath(path), pixels
        self.fps = float(fps or 0)
        with self._errors("the folder"):
            self._names = sorted(filter(_is_frame, os.listdir(self.path)), key=_natural_key)
        self.num_frames = len(self._names)
        self._size: tuple[int, int] | None = None
        if not self._names:
            raise VideoDecodeError(self.path, f"no frames in the folder ({', '.join(IMAGE_EXTENSIONS)})")

    def get_frames(self, indices: Sequence[int]) -> np.ndarray:
        """Return frames by index, in the order given; an index may occur several times and is decoded once.

        Args:
            indices: of the frames.

        Returns:
            uint8 (T, H, W, 3), RGB.

        Raises:
            IndexError: an index is outside ``[0, num_frames)``.
            VideoDecodeError: a wanted frame cannot be decoded, or its size differs from the first one's.
        """
        frames = None
        for index, rows in rows_by_index(self.path, indices, self.num_frames).items():
            image = self._decode(index)
            if frames is None:
                self._pixels.check_clip(self.path, len(indices), *image.shape[:2])
                frames = np.empty((len(indices), *image.shape), np.uint8)
            if image.shape != frames.shape[1:]:
                sizes = f"from {frames.shape[1:3]} to {image.shape[:2]}"
                raise VideoDecodeError(self.path, f"the frame size changes {sizes} in {self._names[index]}")
            frames[rows] = image
        return frames

    def check(self) -> None:
        """Decode every image.

        Raises:
            VideoDecodeError: some image cannot be decoded, or sizes differ.
        """
        for index in range(self.num_frames):
            if self._decode(index).shape[:2] != (self.height, self.width):
                raise VideoDecodeError(self.path, f"the frame size changes in {self._names[index]}")

    @property
    def height(self) -> int:
        """Height of the frames, pixels."""
        return self._get_size()[0]

    @property
    def width(self) -> int:
        """Width of the frames, pixels."""
        return self._get_size()[1]

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame; 0 where the first one, which may never be asked for, does not open."""
        try:
            return 3 * self.height * self.width
        except VideoDecodeError:
            return 0

    def _decode(self, index: int) -> np.ndarray:
        name = self._names[index]
        with self._errors(name), Image.open(os.path.join(self.path, name)) as image:
            self._pixels.check_frame(self.path, image.height, image.width)
            return np.asarray(_to_rgb(image))

    def _get_size(self) -> tuple[int, int]:
        if self._size is None:
            # Opening reads the header only.
            with self._errors(self._names[0]), Image.open(os.path.join(self.path, self._names[0])) as image:
                size = (image.height, image.width)
                self._size = size[::-1] if _orientation(image) in _SIDEWAYS else size
        return self._size

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn whatever Pillow or the file system raises into a ``VideoDecodeError``."""
        try:
            yield
        except FileNotFoundError:
            raise VideoDecodeError(self.path, "no such file") from None
        # Pillow's decoders raise SyntaxError for some damaged PNG files.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = getattr(error, "strerror", None) or str(error).split(" '")[0]
            raise VideoDecodeError(self.path, f"{what}: {reason}") from error


def open_video(
    path: str | os.PathLike | np.ndarray | Window,
    fps: float | None = None,
    *,
    reader: str = "pyav",
    timeout_sec: float = DEFAULT_TIMEOUT_SEC,
    index_dir: str | os.PathLike | None = None,
    pixels: PixelLimits = PixelLimits(),
) -> VideoReader | FrameFolder | FrameArray | Window:
    """Open a video file, a folder of frames, or frames in memory; all are read alike.

    Args:
        path: file or folder, a remote file being fetched by its path handler; uint8 (T, H, W, 3), RGB; or a window of a
            stream, which is open already.
        fps: frames per second of a folder or an array; the others know their own.
        reader: of files, a name in ``READERS``.
        timeout_sec, index_dir: of files, see ``VideoReader``.
        pixels: how large frames may be, of files and folders.

    Raises:
        ValueError: an unknown reader, or an array that is not frames.
        ImportError: torchcodec is asked for and missing.
        VideoDecodeError: see ``VideoReader`` and ``FrameFolder``.
    """
    if isinstance(path, np.ndarray):
        return FrameArray(path, fps)
    if isinstance(path, Window):
        return path
    if reader not in READERS:
        raise one_of("reader", reader, READERS)
    try:
        path = local_video_path(os.fspath(path))
    except OSError as error:
        raise VideoDecodeError(os.fspath(path), f"not fetched: {error}") from None
    if os.path.isdir(path):
        return FrameFolder(path, fps, pixels)
    return READERS[reader](path, timeout_sec, index_dir, pixels)


def _to_rgb(image: Image.Image) -> Image.Image:
    """The pixels of an image, upright, 8 bits in each of three channels."""
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Grey of 16 bits, which Pillow's own conversion clips at 255.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    # A PNG would be decoded in search of it, and says it almost never.
    return 1 if image.format == "PNG" else image.getexif().get(ExifTags.Base.Orientation, 1)


def _is_frame(name: str) -> bool:
    return name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")


def _natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Order numbers in names by their value; the name itself decides between ``1.jpg`` and ``01.jpg``."""
    parts = re.split(r"(\d+)", name)
    # Text and numbers alternate, from text on, so that like is compared with like.
    return [(int(part), "") if place % 2 else (0, part) for place, part in enumerate(parts)], name
