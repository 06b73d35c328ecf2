"""Spatial augmentation of clips: the same for all frames of a clip, on uint8 tensors (T, H, W, 3).

Resizing is bilinear on uint8 without antialiasing, as in the authors' code (OpenCV). Against antialiasing it costs the
same, gives the same pixels where frames grow and keeps published weights comparable.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from nlvideo.config.validate import ALLOWED
from nlvideo.utils.messages import one_of

# Crops per clip at test: the centre, three along the long side, or ten-crop.
NUM_CROPS = ALLOWED["TEST.NUM_CROPS"]


def resize_short_side(frames: torch.Tensor, short_side: int) -> torch.Tensor:
    """Resize so that the short side is exactly ``short_side``; the long side keeps the aspect ratio, rounded down.

    Args:
        frames: uint8 (T, H, W, 3).
        short_side: pixels.

    Returns:
        uint8 (T, H', W', 3); the input itself where its short side is right already.
    """
    size = resized_size(*frames.shape[1:3], short_side)
    if size == frames.shape[1:3]:
        return frames
    # Torch's fast case, which comes out the same way.
    channels_last = frames.permute(0, 3, 1, 2)
    return F.interpolate(channels_last, size=size, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)


def resized_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return height and width of a frame after ``resize_short_side``."""
    # In integers: height * (short_side / height) in floats may end one pixel short.
    short = min(height, width)
    return height * short_side // short, width * short_side // short


def jitter_short_side(frames: torch.Tensor, short_side_range: Sequence[int], rng: np.random.Generator) -> torch.Tensor:
    """Resize to a short side drawn uniformly from the integers of ``[smallest, largest]`` (Sec. 4.1).

    Args:
        frames: uint8 (T, H, W, 3).
        short_side_range: pixels, both ends included.
        rng: source of chance.

    Returns:
        uint8 (T, H', W', 3).
    """
    return resize_short_side(frames, int(rng.integers(short_side_range[0], short_side_range[1], endpoint=True)))


def random_crop(frames: torch.Tensor, size: int, rng: np.random.Generator) -> torch.Tensor:
    """Cut a square out of a uniformly random place, the same for all frames.

    Args:
        frames: uint8 (T, H, W, 3).
        size: pixels.
        rng: source of chance.

    Returns:
        A view, uint8 (T, size, size, 3).

    Raises:
        ValueError: the frames are smaller than the crop.
    """
    height, width = _check_fits(frames, size)
    top, left = (int(rng.integers(0, slack, endpoint=True)) for slack in (height - size, width - size))
    return frames[:, top : top + size, left : left + size]


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
        size: pixels; 0 for the whole frame, which is one crop.
        num_crops: 1, 3 or 10.

    Returns:
        Views, uint8 (T, size, size, 3), in the order left to right and top to bottom, the centre of ten-crop last.

    Raises:
        ValueError: the frames are smaller than the crop, or another number of crops is asked for.
    """
    allowed = NUM_CROPS if size else (1,)
    if num_crops not in allowed:
        raise one_of(f"num_crops for crop size {size}", num_crops, allowed)
    if size == 0:
        return [frames]
    bottom, right = (side - size for side in _check_fits(frames, size))
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


def flip(frames: torch.Tensor) -> torch.Tensor:
    """Mirror the frames (T, H, W, 3), left to right."""
    return frames.flip(2)


def random_flip(frames: torch.Tensor, probability: float, rng: np.random.Generator) -> torch.Tensor:
    """Mirror all frames (T, H, W, 3) of a clip, or none; the generator advances in either case."""
    return flip(frames) if rng.random() < probability else frames


def to_clip(frames: torch.Tensor) -> torch.Tensor:
    """Turn frames (T, H, W, 3) into the contiguous (3, T, H, W) that a model takes."""
    # NumPy's copy of such a view is two to four times as fast as torch's.
    return torch.from_numpy(np.ascontiguousarray(frames.numpy().transpose(3, 0, 1, 2)))


def _check_fits(frames: torch.Tensor, size: int) -> tuple[int, int]:
    height, width = frames.shape[1:3]
    if min(height, width) < size:
        raise ValueError(f"a crop of {size}x{size} px does not fit into frames of {height}x{width} px")
    return height, width
