"""Size, crop and flip of clips: the same for all frames of a clip.

``frames`` are uint8 tensors (T, H, W, 3) here, sizes are pixels, and ``rng`` is the only source of chance.

Resizing is bilinear on uint8 without antialiasing, as in the authors' code (OpenCV), so that published weights stay
comparable. Antialiasing would take as long, and would change nothing where frames grow.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from nlvideo.config.validate import ALLOWED
from nlvideo.data.video.base import Video
from nlvideo.data.video.pixels import DEFAULT_LIMITS, PixelLimits
from nlvideo.errors import VideoDecodeError
from nlvideo.utils.messages import check_one_of

# Crops per clip at test: the centre, three along the long side, or ten-crop.
NUM_CROPS = ALLOWED["TEST.NUM_CROPS"]
# Frames in their own size that are held at a time: a thousand of 340 x 256 pixels, ten of 4K, two of 8K.
MAX_HELD_BYTES = 256 * 2**20
# How often a box is drawn until one fits into the frame (torchvision).
_TRIES = 10


def resize(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return uint8 (T, height, width, 3); the input itself where it has this size."""
    if frames.shape[1:3] == (height, width):
        return frames
    # Torch is fast for this memory layout, and keeps it.
    channels_last = frames.permute(0, 3, 1, 2)
    resized = F.interpolate(channels_last, size=(height, width), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1)


def resize_short_side(frames: torch.Tensor, short_side: int) -> torch.Tensor:
    """Resize so that the short side is exactly ``short_side``; the long side keeps the aspect ratio, rounded down.

    Returns:
        uint8 (T, H', W', 3); the input itself where its short side is right already.
    """
    return resize(frames, *resized_size(frames.shape[1], frames.shape[2], short_side))


def resized_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return height and width of a frame after ``resize_short_side``."""
    # In integers, because height * (short_side / height) in floats may be one pixel too small.
    short = min(height, width)
    return height * short_side // short, width * short_side // short


def read_resized(
    video: Video, indices: Sequence[int], short_side: int, pixels: PixelLimits = DEFAULT_LIMITS
) -> torch.Tensor:
    """Read frames and resize each by ``resize_short_side``; many or large frames are read in parts, to save memory.

    Args:
        video: from ``open_video``.
        indices: of the frames.
        short_side: of the frames that are returned.
        pixels: how large all frames together may be, resized.

    Returns:
        uint8 (T, H, W, 3), RGB.

    Raises:
        VideoDecodeError: a frame cannot be decoded, the size changes, or the frames are too large.
    """
    held = max(1, MAX_HELD_BYTES // max(1, video.frame_bytes))
    parts: list[torch.Tensor] = []
    for first in range(0, len(indices), held):
        frames = torch.from_numpy(video.get_frames(indices[first : first + held]))
        size = resized_size(frames.shape[1], frames.shape[2], short_side)
        pixels.check_clip(video.path, len(indices), *size)
        parts.append(resize(frames, *size))
        if parts[-1].shape[1:] != parts[0].shape[1:]:
            sizes = f"from {tuple(parts[0].shape[1:3])} to {size}, resized"
            raise VideoDecodeError(video.path, f"the frame size changes {sizes}")
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def jitter_short_side(frames: torch.Tensor, short_side_range: Sequence[int], rng: np.random.Generator) -> torch.Tensor:
    """Resize to a short side drawn uniformly from the integers of ``[smallest, largest]`` (Sec. 4.1)."""
    return resize_short_side(frames, int(rng.integers(short_side_range[0], short_side_range[1], endpoint=True)))


def random_crop(frames: torch.Tensor, size: int, rng: np.random.Generator) -> torch.Tensor:
    """Cut a square of ``size`` out of a uniformly random place; return a view.

    Raises:
        ValueError: the frames are smaller than the crop.
    """
    top, left = (int(rng.integers(0, slack, endpoint=True)) for slack in _slack(frames, size))
    return frames[:, top : top + size, left : left + size]


def draw_box(
    height: int, width: int, area_range: Sequence[float], aspect_range: Sequence[float], rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Draw a box inside a frame: its area uniformly, the logarithm of its aspect ratio uniformly, then its place.

    Args:
        height, width: of the frame.
        area_range: [smallest, largest] share of the frame's area.
        aspect_range: [smallest, largest] width / height.
        rng: source of chance.

    Returns:
        (top, left, height, width); None if ten draws did not fit.
    """
    smallest, largest = aspect_range
    for _ in range(_TRIES):
        area = rng.uniform(area_range[0], area_range[1]) * height * width
        aspect = math.exp(rng.uniform(math.log(smallest), math.log(largest)))
        box_height, box_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < box_height <= height and 0 < box_width <= width:
            top = int(rng.integers(0, height - box_height, endpoint=True))
            left = int(rng.integers(0, width - box_width, endpoint=True))
            return top, left, box_height, box_width
    return None


def random_resized_crop(
    frames: torch.Tensor,
    size: int,
    area_range: Sequence[float],
    aspect_range: Sequence[float],
    rng: np.random.Generator,
) -> torch.Tensor:
    """Cut the box of ``draw_box`` out and resize it to a square (Szegedy et al., CVPR 2015).

    If no drawn box fits, the largest one of an allowed aspect ratio is cut out of the middle.

    Returns:
        uint8 (T, size, size, 3).
    """
    height, width = frames.shape[1:3]
    box = draw_box(height, width, area_range, aspect_range, rng)
    if box is None:
        aspect = min(max(width / height, aspect_range[0]), aspect_range[1])
        box_height = min(height, max(1, round(width / aspect)))
        box_width = min(width, max(1, round(height * aspect)))
        box = (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
    top, left, box_height, box_width = box
    return resize(frames[:, top : top + box_height, left : left + box_width], size, size)


def uniform_crops(frames: torch.Tensor, size: int, num_crops: int) -> list[torch.Tensor]:
    """Cut the crops of a test: the centre; or the two ends of the long side and the centre between them; or ten-crop.

    ::

        3 crops, landscape    +----+----+----+        portrait: top, centre, bottom
                              | 0  | 1  | 2  |
                              +----+----+----+

        10 crops              0 --------- 2           1, 3, 5, 7, 9: the mirror images of the crops before them
                              |     8     |
                              4 --------- 6

    Args:
        frames: uint8 (T, H, W, 3).
        size: 0 for the whole frame, which is one crop.
        num_crops: 1, 3 or 10.

    Returns:
        Views, uint8 (T, size, size, 3), in the order left to right and top to bottom, the centre of ten-crop last.

    Raises:
        ValueError: the frames are smaller than the crop, or another number of crops is asked for.
    """
    check_one_of(f"num_crops for crop size {size}", num_crops, NUM_CROPS if size else (1,))
    if size == 0:
        return [frames]
    bottom, right = _slack(frames, size)
    top, left = bottom // 2, right // 2
    if num_crops == 1:
        corners = [(top, left)]
    elif num_crops == 10:
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (top, left)]
    elif right >= bottom:
        corners = [(top, 0), (top, left), (top, right)]
    else:
        corners = [(0, left), (top, left), (bottom, left)]
    crops = [frames[:, y : y + size, x : x + size] for y, x in corners]
    return [view for crop in crops for view in (crop, flip(crop))] if num_crops == 10 else crops


def _slack(frames: torch.Tensor, size: int) -> tuple[int, int]:
    """How much higher and wider frames are than a square crop."""
    height, width = frames.shape[1:3]
    if min(height, width) < size:
        raise ValueError(f"a crop of {size}x{size} px does not fit into frames of {height}x{width} px")
    return height - size, width - size


def flip(frames: torch.Tensor) -> torch.Tensor:
    """Mirror the frames, left to right."""
    return frames.flip(2)


def random_flip(frames: torch.Tensor, probability: float, rng: np.random.Generator) -> torch.Tensor:
    """Mirror all frames of a clip, or none; the generator advances in either case."""
    return flip(frames) if rng.random() < probability else frames


def to_clip(frames: torch.Tensor) -> torch.Tensor:
    """Turn frames (T, H, W, 3) into the contiguous (3, T, H, W) that a model takes."""
    # NumPy's copy of such a view is two to four times as fast as torch's.
    return torch.from_numpy(np.ascontiguousarray(frames.numpy().transpose(3, 0, 1, 2)))
