"""TSM: a ResNet of images whose channels shift in time (Lin, Gan, Han, "TSM: Temporal Shift Module", ICCV 2019)."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nlvideo.config import CfgNode, configurable
from nlvideo.layers.blocks import ShapeSpec
from nlvideo.modeling.backbone.layout import STAGES, STEMS, shift_step
from nlvideo.modeling.backbone.resnet3d import BACKBONE, ResNet3d
from nlvideo.utils.messages import check_one_of

# Stems after which every frame still has a map of its own.
_STEMS = [name for name, layout in STEMS.items() if layout.stride()[0] * layout.pool2.stride[0] == 1]


@BACKBONE.register()
class TSM(ResNet3d):
    """C2D without steps in time, where 1 / `shift_div` of the channels come from the next frame and as many from the
    one before; zeros come from outside of the clip. Parameters and their names are those of `ResNet3d`. From ResNet-101
    on, every other residual block shifts, as in the authors' code.

    Args:
        shift_div: 8 in the paper (Sec. 4).
        in_place: shift what a whole residual block gets, its shortcut as well. False: only what its first convolution
            gets, "residual TSM" (Sec. 3.2), which is better there.
        stem: one without steps in time.
        resnet: other arguments of `ResNet3d`; "c2d" is the only value of ``temporal``.

    Raises:
        ValueError: an argument outside of what is allowed.
    """

    @configurable
    def __init__(self, *, shift_div: int = 8, in_place: bool = False, stem: str = "slow", **resnet: Any) -> None:
        check_one_of("stem with TSM", stem, _STEMS)
        check_one_of("temporal with TSM", resnet.get("temporal", "c2d"), ("c2d",))
        super().__init__(stem=stem, **resnet)
        channels = self.stem.conv.out_channels
        if not 2 <= shift_div <= channels:
            raise ValueError(f"shift_div: got {shift_div}, allowed: 2 to {channels}, the channels of the stem")
        self.shift_div, self.in_place = shift_div, in_place
        every = shift_step(resnet.get("depth", 50), in_place)
        for stage in STAGES:
            blocks = [block for name, block in getattr(self, stage).named_children() if name.isdecimal()]
            for block in blocks[::every]:
                shifted: nn.Module = block if in_place else block.conv1
                # A hook keeps the names of the weights.
                shifted.register_forward_pre_hook(partial(_shift_input, shift_div=shift_div))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Keyword arguments of the constructor from ``cfg.MODEL``; there is no temporal kernel to limit."""
        return {**super().from_config(cfg, input_shape), "temporal_blocks": 0}

    def extra_repr(self) -> str:
        """The arguments that sub-modules do not show, for ``print(model)``."""
        return f"shift_div={self.shift_div}, in_place={self.in_place}"


def _shift_input(module: nn.Module, inputs: tuple[torch.Tensor], *, shift_div: int) -> torch.Tensor:
    return shift_channels(*inputs, shift_div)


def shift_channels(x: torch.Tensor, shift_div: int) -> torch.Tensor:
    """(N, C, T, H, W) -> the same, with C // shift_div channels of the next frame, then as many of the one before."""
    fold = x.shape[1] // shift_div
    following, preceding, still = x.split([fold, fold, x.shape[1] - 2 * fold], dim=1)
    following = F.pad(following[:, :, 1:], (0, 0, 0, 0, 0, 1))
    preceding = F.pad(preceding[:, :, :-1], (0, 0, 0, 0, 1, 0))
    return torch.cat([following, preceding, still], dim=1)
