"""The block."""

from typing import Any

import torch
from torch import nn

from nlvideo.config import CfgNode, configurable
from nlvideo.modeling.nonlocal_block import NONLOCAL, NonLocalBlock


@NONLOCAL.register()
class GatedNonLocalBlock(NonLocalBlock):
    """z_i = x_i + gate * W_z y_i, with a learned gate (Eq. 3 of "Self-Attention Generative Adversarial Networks").

    Args:
        in_channels: channels of x.
        per_channel: one gate per channel, or one for all.
        gate_init: where the gates start; the paper's 0 makes the block begin as the identity.
        **block: arguments of ``NonLocalBlock``.

    Raises:
        ValueError: both the gate and the block's own output start at zero, so that neither would ever get a gradient.
    """

    @configurable
    def __init__(self, in_channels: int, *, per_channel: bool = False, gate_init: float = 0.0, **block: Any):
        if gate_init == 0 and block.setdefault("zero_init", False):
            raise ValueError(
                "zero_init: got True with gate_init 0, allowed: one of them at zero; with both the block never learns"
            )
        super().__init__(in_channels, **block)
        self.gate = nn.Parameter(torch.full((in_channels if per_channel else 1,), float(gate_init)))

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int, stage: str = "res4") -> dict[str, Any]:
        """Return the arguments of the constructor: those of the core's block and two more."""
        block = super().from_config(cfg, in_channels, stage)
        return {**block, "per_channel": cfg.MODEL.GATED.PER_CHANNEL, "gate_init": cfg.MODEL.GATED.INIT}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> (N, C, T, H, W)."""
        contribution = super().forward(x) - x
        return x + self.gate.view(-1, *[1] * self.dim) * contribution
