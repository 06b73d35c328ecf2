"""Parameters and multiply-adds of the model that a config describes, without memory or time for its weights."""

from typing import Any

import torch
from torch import nn

from nlvideo.config import CfgNode
from nlvideo.modeling.meta_arch import META_ARCH
from nlvideo.modeling.nonlocal_block.summary import nonlocal_modules, nonlocal_table
from nlvideo.utils.analysis import cost_table, count_gmacs, parameter_count


def meta_model(cfg: CfgNode) -> tuple[nn.Module, torch.Tensor]:
    """The model of a config on the meta device, and one clip of the size it is trained on.

    Returns:
        The model, in eval mode, whose ``forward`` takes the clip, and the clip, uint8 (1, 3, T, H, W).

    Raises:
        KeyError: a name in the config is not registered.
        ValueError: a value in the config is outside of what is allowed.
    """
    side = cfg.INPUT.CROP_SIZE
    with torch.device("meta"):
        model = META_ARCH.get(cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")(cfg).eval()
        clip = torch.zeros(1, 3, cfg.INPUT.NUM_FRAMES, side, side, dtype=torch.uint8)
    # What is counted takes pixels to scores; the dicts around them hold names and labels, which cost nothing.
    model.forward = model.forward_clips
    return model, clip


def model_costs(cfg: CfgNode, describe: bool = True) -> dict[str, Any]:
    """Costs of the model of a config for one clip of ``INPUT.NUM_FRAMES`` frames of ``INPUT.CROP_SIZE`` pixels.

    Non-local blocks count as ``"dense"``, whichever algorithm they use, so that numbers can be compared.

    Args:
        cfg: the whole config.
        describe: False counts the non-local blocks and does not describe them: this takes a fraction of the time.

    Returns:
        ``{"params": int, "gmacs": float, "nonlocal_blocks": list[dict]}``. A multiply-add counts once. Each block is a
        row of `nonlocal_table`; with ``describe=False`` there is their number instead.

    Raises:
        KeyError: a name in the config is not registered.
        ValueError: a value in the config is outside of what is allowed.
    """
    model, clip = meta_model(cfg)
    return {
        "params": parameter_count(model),
        "gmacs": count_gmacs(model, clip),
        "nonlocal_blocks": nonlocal_table(model, clip) if describe else len(nonlocal_modules(model)),
    }


def stage_table(cfg: CfgNode) -> str:
    """A table of parameters and multiply-adds of the model of a config, its stages and its head.

    Raises:
        KeyError: a name in the config is not registered.
        ValueError: a value in the config is outside of what is allowed.
    """
    model, clip = meta_model(cfg)
    return cost_table(model, clip, depth=2)
