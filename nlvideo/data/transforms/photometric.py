"""Augmentation of colours, and RandAugment: torchvision's kernels for uint8, with one draw for all frames of a clip.

What an operation measures (the mean grey of a contrast, the histogram of an equalisation) is measured over the whole
clip. Measured frame by frame, a clip would flicker wherever its content changes. Frames are uint8 (T, H, W, 3), given
and returned.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

# A kernel of torchvision's: (..., 3, H, W) -> the same shape.
Kernel = Callable[..., torch.Tensor]
# Called with frames, an amount from -1 to 1, and the fill of pixels from outside of the frame.
Operation = Callable[[torch.Tensor, float, list[float]], torch.Tensor]

# Frames that go through a kernel at once. Their floats stay in the processor's cache, which is two to five times as
# fast as the whole clip at 224 x 224.
_FRAMES_AT_ONCE = 4
# The largest magnitude of RandAugment, and the amounts at this magnitude. They fall linearly to 0 at magnitude 0.
MAX_MAGNITUDE = 30
_ENHANCE, _SHEAR, _DEGREES, _TRANSLATE = 0.9, 0.3, 30.0, 150 / 331
_POSTERIZE_BITS = 4


def per_frame(kernel: Kernel, frames: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Apply a kernel that measures nothing."""
    images = frames.permute(0, 3, 1, 2)
    done = [kernel(part, *args, **kwargs).permute(0, 2, 3, 1) for part in images.split(_FRAMES_AT_ONCE)]
    return torch.cat(done)


def per_clip(kernel: Kernel, frames: torch.Tensor, *args: Any) -> torch.Tensor:
    """Apply a kernel that measures and then maps pixel by pixel, to the frames as one tall image."""
    image = frames.reshape(-1, frames.shape[2], 3).permute(2, 0, 1)
    return kernel(image, *args).permute(1, 2, 0).reshape(frames.shape)


class ColorJitter:
    """Changes brightness, contrast, saturation and hue by random amounts, in random order.

    The first three are factors uniform in ``[max(0, 1 - x), 1 + x]``, the hue turns by a part of its circle uniform in
    ``[-x, x]`` (torchvision's ColorJitter). Each x is 0 or more, of the hue up to 0.5; 0 leaves one out. The hue takes
    most of the time.
    """

    def __init__(self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0):
        factors = [
            (per_frame, F.adjust_brightness, brightness),
            (per_clip, F.adjust_contrast, contrast),
            (per_frame, F.adjust_saturation, saturation),
        ]
        self.steps = [(apply, kernel, max(0.0, 1 - x), 1 + x) for apply, kernel, x in factors if x > 0]
        if hue > 0:
            self.steps.append((per_frame, F.adjust_hue, -hue, hue))

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Return the changed frames."""
        for index in rng.permutation(len(self.steps)):
            apply, kernel, smallest, largest = self.steps[index]
            frames = apply(kernel, frames, rng.uniform(smallest, largest))
        return frames


@dataclass(frozen=True)
class RandAugment:
    """Applies operations drawn at random, each with the same magnitude and, where it has two directions, a random one.

    RandAugment is by Cubuk et al., NeurIPS 2020; operations and scales are torchvision's. An operation may be drawn
    more than once.
    """

    num_ops: int = 2  #: operations per clip (torchvision's default, as the next)
    magnitude: float = 9  #: 0 (only AutoContrast and Equalize change pixels) to 30
    fill: Sequence[float] = (0,)  #: one or three values 0..255 of the pixels that come in from outside of the frame

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Return the changed frames."""
        names, fill = list(OPERATIONS), [float(value) for value in self.fill]
        for _ in range(self.num_ops):
            # Both are drawn whatever the operation is, so that one operation does not shift the chance of the next.
            name, sign = names[rng.integers(len(names))], 1 if rng.random() < 0.5 else -1
            frames = OPERATIONS[name](frames, sign * (self.magnitude / MAX_MAGNITUDE), fill)
        return frames


def _enhance(apply: Callable, kernel: Callable) -> Operation:
    """An operation with a factor 1 - 0.9 to 1 + 0.9."""
    return lambda frames, amount, fill: apply(kernel, frames, 1 + _ENHANCE * amount)


def _affine(
    frames: torch.Tensor, fill: list[float], translate: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0, 0)
) -> torch.Tensor:
    # Sheared about the top left corner, as torchvision does.
    return per_frame(
        F.affine, frames, angle=0.0, translate=list(translate), scale=1.0, shear=[math.degrees(s) for s in shear],
        interpolation=InterpolationMode.BILINEAR, fill=fill, center=[0, 0] if any(shear) else None,
    )  # fmt: skip


OPERATIONS: dict[str, Operation] = {
    "Identity": lambda frames, amount, fill: frames,
    "ShearX": lambda frames, amount, fill: _affine(frames, fill, shear=(math.atan(_SHEAR * amount), 0)),
    "ShearY": lambda frames, amount, fill: _affine(frames, fill, shear=(0, math.atan(_SHEAR * amount))),
    "TranslateX": lambda frames, amount, fill: _affine(
        frames, fill, translate=(int(_TRANSLATE * amount * frames.shape[2]), 0)
    ),
    "TranslateY": lambda frames, amount, fill: _affine(
        frames, fill, translate=(0, int(_TRANSLATE * amount * frames.shape[1]))
    ),
    "Rotate": lambda frames, amount, fill: per_frame(
        F.rotate, frames, angle=_DEGREES * amount, interpolation=InterpolationMode.BILINEAR, fill=fill
    ),
    "Brightness": _enhance(per_frame, F.adjust_brightness),
    "Color": _enhance(per_frame, F.adjust_saturation),
    "Contrast": _enhance(per_clip, F.adjust_contrast),
    "Sharpness": _enhance(per_frame, F.adjust_sharpness),
    "Posterize": lambda frames, amount, fill: per_frame(F.posterize, frames, 8 - round(_POSTERIZE_BITS * abs(amount))),
    "Solarize": lambda frames, amount, fill: per_frame(F.solarize, frames, 255 * (1 - abs(amount))),
    "AutoContrast": lambda frames, amount, fill: per_clip(F.autocontrast, frames),
    "Equalize": lambda frames, amount, fill: per_clip(F.equalize, frames),
}
