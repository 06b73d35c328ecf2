"""Augmentation by boxes of random size, shape and place: the random resized crop, and random erasing."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

# A drawn box may not fit into the frame: how often another one is drawn (torchvision).
_TRIES = 10


def draw_box(
    height: int, width: int, area_range: Sequence[float], aspect_range: Sequence[float], rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Draw a box inside a frame: its area uniformly, the logarithm of its aspect ratio uniformly, then its place.

    Args:
        height: of the frame, pixels.
        width: likewise.
        area_range: [smallest, largest] share of the frame's area.
        aspect_range: [smallest, largest] width / height.
        rng: source of chance.

    Returns:
        (top, left, height, width) in pixels; None where ten draws did not fit.
    """
    for _ in range(_TRIES):
        area = rng.uniform(*area_range) * height * width
        aspect = math.exp(rng.uniform(*map(math.log, aspect_range)))
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
    """Cut a random box out, the same for all frames, and resize it to a square (Szegedy et al., CVPR 2015).

    Where no drawn box fits, the largest one of an allowed aspect ratio is cut out of the middle.

    Args:
        frames: uint8 (T, H, W, 3).
        size: pixels.
        area_range: [smallest, largest] share of the frame's area.
        aspect_range: [smallest, largest] width / height.
        rng: source of chance.

    Returns:
        uint8 (T, size, size, 3).
    """
    height, width = frames.shape[1:3]
    box = draw_box(height, width, area_range, aspect_range, rng)
    top, left, box_height, box_width = _central_box(height, width, aspect_range) if box is None else box
    crop = frames[:, top : top + box_height, left : left + box_width]
    if crop.shape[1:3] == (size, size):
        return crop
    # As the short side is resized; see nlvideo/data/transforms/augmentation.py.
    resized = F.interpolate(crop.permute(0, 3, 1, 2), size=(size, size), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1)


def _central_box(height: int, width: int, aspect_range: Sequence[float]) -> tuple[int, int, int, int]:
    aspect = min(max(width / height, aspect_range[0]), aspect_range[1])
    box_height = min(height, max(1, round(width / aspect)))
    box_width = min(width, max(1, round(height * aspect)))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


class RandomErasing:
    """Covers a random box of a clip with noise (Zhong et al., AAAI 2020), which hides what is there in every frame.

    Called as ``erase(frames, rng)`` with uint8 (T, H, W, 3); returns a tensor of its own where it erases. Box and noise
    are the same in all frames that are covered: a consecutive run of them, by default the whole clip.
    """

    def __init__(
        self,
        prob: float = 0.5,
        area_range: Sequence[float] = (0.02, 1 / 3),
        aspect_range: Sequence[float] = (0.3, 3.3),
        length_range: Sequence[float] = (1.0, 1.0),
    ):
        """Set how often and how much.

        Args:
            prob: probability that a clip is covered at all.
            area_range: [smallest, largest] share of a frame's area (torchvision's defaults, as the next).
            aspect_range: [smallest, largest] width / height.
            length_range: [smallest, largest] share of the clip's frames; below 1 the box becomes a cuboid.
        """
        self.prob = prob
        self.area_range, self.aspect_range, self.length_range = area_range, aspect_range, length_range

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Return uint8 (T, H, W, 3); the input itself where nothing is covered."""
        if rng.random() >= self.prob:
            return frames
        num_frames, height, width = frames.shape[:3]
        box = draw_box(height, width, self.area_range, self.aspect_range, rng)
        if box is None:
            return frames
        length = max(1, round(rng.uniform(*self.length_range) * num_frames))
        first = int(rng.integers(0, num_frames - length, endpoint=True))
        top, left, box_height, box_width = box
        noise = torch.from_numpy(rng.integers(0, 256, size=(box_height, box_width, 3), dtype=np.uint8))
        erased = frames.clone()
        erased[first : first + length, top : top + box_height, left : left + box_width] = noise
        return erased
