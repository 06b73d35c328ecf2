"""Augmentation of colours: torchvision's kernels for uint8, with one draw for all frames of a clip.

What an operation measures (the mean grey of a contrast, the histogram of an equalisation) is measured over the whole
clip. Frame by frame, as kernels for images do it, a clip would flicker wherever its content changes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

# A kernel of torchvision's: (..., 3, H, W) -> the same shape.
Kernel = Callable[..., torch.Tensor]

# Frames that go through a kernel at once: their floats stay in the processor's cache, two to five times as fast as the
# whole clip at 224 x 224.
_FRAMES_AT_ONCE = 4


def per_frame(kernel: Kernel, frames: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Apply a kernel that measures nothing, uint8 (T, H, W, 3) -> uint8 (T, H, W, 3)."""
    images = frames.permute(0, 3, 1, 2)
    done = [kernel(part, *args, **kwargs).permute(0, 2, 3, 1) for part in images.split(_FRAMES_AT_ONCE)]
    return torch.cat(done)


def per_clip(kernel: Kernel, frames: torch.Tensor, *args: Any) -> torch.Tensor:
    """Apply a kernel that measures and then maps pixel by pixel, to the frames as one tall image.

    Args:
        kernel: see the top of this file.
        frames: uint8 (T, H, W, 3).
        args: further arguments of the kernel.

    Returns:
        uint8 (T, H, W, 3).
    """
    image = frames.reshape(-1, frames.shape[2], 3).permute(2, 0, 1)
    return kernel(image, *args).permute(1, 2, 0).reshape(frames.shape)


class ColorJitter:
    """Changes brightness, contrast, saturation and hue by random amounts, in random order.

    Called as ``jitter(frames, rng)`` with uint8 (T, H, W, 3). The first three are factors uniform in ``[max(0, 1 - x),
    1 + x]``, the hue turns by a part of its circle uniform in ``[-x, x]`` (torchvision's ColorJitter).
    """

    def __init__(self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0):
        """Set the amounts x; what has 0 is left out.

        Args:
            brightness: 0 or more.
            contrast: 0 or more.
            saturation: 0 or more.
            hue: 0 to 0.5. It takes more time than all others together.
        """
        factors = [
            (per_frame, F.adjust_brightness, brightness),
            (per_clip, F.adjust_contrast, contrast),
            (per_frame, F.adjust_saturation, saturation),
        ]
        self.steps = [(apply, kernel, max(0.0, 1 - x), 1 + x) for apply, kernel, x in factors if x > 0]
        if hue > 0:
            self.steps.append((per_frame, F.adjust_hue, -hue, hue))

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Return uint8 (T, H, W, 3)."""
        for index in rng.permutation(len(self.steps)):
            apply, kernel, smallest, largest = self.steps[index]
            frames = apply(kernel, frames, rng.uniform(smallest, largest))
        return frames
