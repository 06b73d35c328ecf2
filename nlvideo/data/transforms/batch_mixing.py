"""Mixup and cutmix: they mix each clip of a batch with another clip of the batch, and the labels in the same shares."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

# Shares of mixup are multiples of 1 / 128: then 16-bit integers hold every sum, and all devices give the same bytes.
_UNITS = 128
# Makes these random numbers differ from those of clips and of the order of records, whose seeds are similar.
_PURPOSE = 1001


@dataclass(frozen=True)
class BatchMixer:
    """Mixes each clip of a batch with another clip of the batch.

    Mixup (Zhang et al., ICLR 2018) adds pixels in shares lambda and 1 - lambda. Cutmix (Yun et al., ICCV 2019) replaces
    a box, the same in all frames, that covers the share 1 - lambda. Each batch has one lambda, from Beta(alpha, alpha),
    and one box. Where both are on, each batch takes one of them, with equal chance.

    The random numbers of a batch depend on the seed, its number and the rank alone: a resumed run needs no state.

    Raises:
        ValueError: both alphas are 0.
    """

    num_classes: int  #: length of the label vectors
    mixup_alpha: float = 0.0  #: 0: no mixup
    cutmix_alpha: float = 0.0  #: 0: no cutmix
    prob: float = 1.0  #: probability that a batch is mixed
    seed: int = 0  #: at least 0
    rank: int = 0  #: of this process

    def __post_init__(self) -> None:
        if not (self.mixup_alpha or self.cutmix_alpha):
            raise ValueError("mixup_alpha and cutmix_alpha: got 0 twice, allowed: one of them above 0")

    def __call__(self, batch: dict[str, Any], number: int) -> dict[str, Any]:
        """Return a batch with soft labels and, with probability ``prob``, with mixed clips.

        Args:
            batch: see ``collate_train``; mixed on the device of its video.
            number: of the batch in this rank's stream.

        Returns:
            The batch with "video" uint8 (N, C, T, H, W) and "label" float32 (N, num_classes), whose rows are those of a
            label vector or, for one label per clip, sum to 1.
        """
        rng = np.random.default_rng([self.seed, number, self.rank, _PURPOSE])
        video = batch["video"]
        label = batch["label"].to(video.device)
        if label.dim() == 1:
            label = F.one_hot(label, self.num_classes).float()
        if rng.random() < self.prob:
            kinds = [kind for kind in ((_mixup, self.mixup_alpha), (_cutmix, self.cutmix_alpha)) if kind[1]]
            mix, alpha = kinds[rng.integers(len(kinds))]
            order = torch.from_numpy(rng.permutation(len(video))).to(video.device)
            video, share = mix(video, video[order], rng.beta(alpha, alpha), rng)
            label = share * label + (1 - share) * label[order]
        return {**batch, "video": video, "label": label}


def _mixup(
    video: torch.Tensor, other: torch.Tensor, share: float, rng: np.random.Generator
) -> tuple[torch.Tensor, float]:
    units = round(_UNITS * share)
    mixed = video.to(torch.int16).mul_(units).add_(other.to(torch.int16).mul_(_UNITS - units))
    return mixed.add_(_UNITS // 2).div_(_UNITS, rounding_mode="floor").to(torch.uint8), units / _UNITS


def _cutmix(
    video: torch.Tensor, other: torch.Tensor, share: float, rng: np.random.Generator
) -> tuple[torch.Tensor, float]:
    height, width = video.shape[-2:]
    # Half the sides of a box that covers 1 - share. Its centre may be anywhere; what hangs over is cut off.
    half_height, half_width = (side * (1 - share) ** 0.5 / 2 for side in (height, width))
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    top, bottom = max(0, round(y - half_height)), min(height, round(y + half_height))
    left, right = max(0, round(x - half_width)), min(width, round(x + half_width))
    mixed = video.clone()
    mixed[..., top:bottom, left:right] = other[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
