"""RandAugment (Cubuk et al., NeurIPS 2020) of clips: the operations and scales of torchvision, drawn once per clip."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from nlvideo.data.transforms.photometric import per_clip, per_frame

# The largest magnitude; the amounts below are those it stands for, and fall linearly to nothing at 0.
MAX_MAGNITUDE = 30
_ENHANCE, _SHEAR, _DEGREES, _TRANSLATE = 0.9, 0.3, 30.0, 150 / 331
_POSTERIZE_BITS = 4


class RandAugment:
    """Applies operations drawn at random, each with the same magnitude and, where it has two directions, a random one.

    Called as ``augment(frames, rng)`` with uint8 (T, H, W, 3). An operation may be drawn more than once.
    """

    def __init__(self, num_ops: int = 2, magnitude: float = 9, fill: Sequence[float] = (0,)):
        """Set how many and how much.

        Args:
            num_ops: operations per clip (torchvision's default, as the next).
            magnitude: 0 (nothing but colours that are spread or equalised) to 30.
            fill: one or three values 0..255 of the pixels that come in from outside of the frame.
        """
        self.num_ops = num_ops
        self.strength = magnitude / MAX_MAGNITUDE
        self.fill = [float(value) for value in fill]

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Return uint8 (T, H, W, 3)."""
        names = list(OPERATIONS)
        for _ in range(self.num_ops):
            # Both are drawn whatever the operation is, so that one operation does not shift the chance of the next.
            name, sign = names[rng.integers(len(names))], 1 if rng.random() < 0.5 else -1
            frames = OPERATIONS[name](frames, sign * self.strength, self.fill)
        return frames


Operation = Callable[[torch.Tensor, float, list[float]], torch.Tensor]


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


def _rotate(frames: torch.Tensor, amount: float, fill: list[float]) -> torch.Tensor:
    bilinear = InterpolationMode.BILINEAR
    return per_frame(F.rotate, frames, angle=_DEGREES * amount, interpolation=bilinear, fill=fill)


def _posterize(frames: torch.Tensor, amount: float, fill: list[float]) -> torch.Tensor:
    return per_frame(F.posterize, frames, 8 - round(_POSTERIZE_BITS * abs(amount)))


def _solarize(frames: torch.Tensor, amount: float, fill: list[float]) -> torch.Tensor:
    return per_frame(F.solarize, frames, 255 * (1 - abs(amount)))


# Each is called with uint8 (T, H, W, 3), an amount from -1 to 1 and the fill.
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
    "Rotate": _rotate,
    "Brightness": _enhance(per_frame, F.adjust_brightness),
    "Color": _enhance(per_frame, F.adjust_saturation),
    "Contrast": _enhance(per_clip, F.adjust_contrast),
    "Sharpness": _enhance(per_frame, F.adjust_sharpness),
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": lambda frames, amount, fill: per_clip(F.autocontrast, frames),
    "Equalize": lambda frames, amount, fill: per_clip(F.equalize, frames),
}
