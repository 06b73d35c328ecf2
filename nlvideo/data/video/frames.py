"""``FrameFolder`` and ``FrameArray``: videos stored as one image for each frame, and videos in memory."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
from PIL import ExifTags, Image, ImageOps

from nlvideo.data.video.base import Video, read_errors
from nlvideo.data.video.paths import IMAGE_EXTENSIONS
from nlvideo.data.video.pixels import DEFAULT_LIMITS, Geometry, PixelLimits
from nlvideo.errors import VideoDecodeError
from nlvideo.utils.files.file_io import PathManager, is_remote, local_path

# EXIF orientations that swap height and width.
_SIDEWAYS = (5, 6, 7, 8)


class FrameArray(Video):
    """A video that is in memory already; see ``Video``.

    Args:
        frames: uint8 (T, H, W, 3), RGB, upright; kept, not copied.
        fps: frames per second; an array carries none. None: seconds cannot be turned into frames.
        path: the name of the video in messages.

    Raises:
        ValueError: another type or shape, or no frames.
    """

    _frames_are = "arrays"

    def __init__(self, frames: np.ndarray, fps: float | None = None, path: str = "<frames>"):
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
            given = f"{frames.dtype} {tuple(frames.shape)}"
            raise ValueError(f"frames: got {given}, allowed: uint8 (T, H, W, 3), RGB, with a frame at least")
        super().__init__(path)
        self._frames, self.num_frames, self.fps = frames, len(frames), float(fps or 0)

    @property
    def geometry(self) -> Geometry:
        """Size of the frames; they are upright."""
        return Geometry(*self._frames.shape[1:3])

    def _read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        return ((index, self._frames[index]) for index in indices)


class FrameFolder(Video):
    """A video that was extracted into a folder, one JPEG or PNG for each frame; see ``Video``.

    Frame k is the k-th image in natural order (``2.jpg`` before ``10.jpg``). Names may count from 0 or 1, with or
    without leading zeros, and a gap in the numbers closes. Hidden files and files of other kinds are not frames. Only
    the images asked for are opened. They are returned upright, as the EXIF orientation of a JPEG says.

    Args:
        path: the folder, perhaps a remote one: then the images asked for are fetched.
        fps: frames per second; images carry none. None: seconds cannot be turned into frames.
        pixels: how large frames may be, and all frames of one call together.

    Raises:
        VideoDecodeError: the folder is missing, is not a folder or holds no image.
    """

    _frames_are = "images"

    def __init__(self, path: str | os.PathLike, fps: float | None = None, pixels: PixelLimits = DEFAULT_LIMITS):
        super().__init__(path, pixels)
        self.fps = float(fps or 0)
        # A store has errors of its own.
        with contextlib.nullcontext() if is_remote(self.path) else read_errors(self.path):
            names = [name for name in PathManager.ls(self.path) if name.lower().endswith(IMAGE_EXTENSIONS)]
        self._names = sorted((name for name in names if not name.startswith(".")), key=_natural_key)
        self.num_frames = len(self._names)
        if not self._names:
            raise VideoDecodeError(self.path, f"no frames in the folder ({', '.join(IMAGE_EXTENSIONS)})")

    @cached_property
    def geometry(self) -> Geometry:
        """Size of the frames, from the header of the first image."""
        with self._open_image(0) as image:
            size = (image.height, image.width)
            return Geometry(*(size[::-1] if _orientation(image) in _SIDEWAYS else size))

    def _read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in indices:
            with self._open_image(index) as image:
                self._pixels.check_frame(self.path, image.height, image.width)
                pixels = np.asarray(_to_rgb(image))
            yield index, pixels

    def _name_of(self, index: int) -> str:
        return self._names[index]

    @contextmanager
    def _open_image(self, index: int) -> Iterator[Image.Image]:
        name = self._names[index]
        local = local_path(os.path.join(self.path, name))
        with read_errors(self.path, name), Image.open(local) as image:
            yield image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return an image upright, with 8 bits in each of three channels."""
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Grey of 16 bits, which Pillow's own conversion clips at 255.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    # To look for it, Pillow would decode a PNG, which almost never has one.
    return 1 if image.format == "PNG" else image.getexif().get(ExifTags.Base.Orientation, 1)


def _natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Order numbers in names by their value; the name itself decides between ``1.jpg`` and ``01.jpg``."""
    parts = re.split(r"(\d+)", name)
    # Text and numbers alternate, and text is first, so that only like is compared with like.
    return [(int(part), "") if place % 2 else (0, part) for place, part in enumerate(parts)], name
