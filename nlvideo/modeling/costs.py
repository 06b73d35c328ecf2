"""Parameters and multiply-adds of the model that a config describes, which is built without memory for weights."""

from typing import Any

import torch
from torch import nn

from nlvideo.config import CfgNode
from nlvideo.config.defaults import _C
from nlvideo.modeling.meta_arch import META_ARCH
from nlvideo.modeling.nonlocal_block.summary import nonlocal_modules, nonlocal_table
from nlvideo.utils.analysis import cost_table, count_gmacs, parameter_count


def meta_model(cfg: CfgNode) -> tuple[nn.Module, torch.Tensor]:
    """The model of a config, in eval mode on the meta device, and a training clip, uint8 (1, 3, T, H, W), it takes.

    A model of something else than clips has an example of it, ``example_input``.

    Where MODEL.HEAD.NUM_CLASSES is 0, the training data would decide: the model has 400 classes, as by default.

    Raises:
        KeyError: a name in the config is not registered.
        ValueError: a value in the config is not allowed.
    """
    side = cfg.INPUT.CROP_SIZE
    if not cfg.MODEL.HEAD.NUM_CLASSES:
        cfg = cfg.with_overrides(["MODEL.HEAD.NUM_CLASSES", _C.MODEL.HEAD.NUM_CLASSES])
    with torch.device("meta"):
        model = META_ARCH.get(cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")(cfg).eval()
        clip = getattr(model, "example_input", torch.zeros(1, 3, cfg.INPUT.NUM_FRAMES, side, side, dtype=torch.uint8))
    # Called with a clip, not with dicts: their names and labels cost nothing.
    model.forward = model.forward_clips
    return model, clip


def model_costs(cfg: CfgNode, describe: bool = True) -> dict[str, Any]:
    """Costs of the model of a config for one clip of ``INPUT.NUM_FRAMES`` frames of ``INPUT.CROP_SIZE`` pixels.

    Non-local blocks count as ``"dense"``, whichever algorithm they use, so that numbers can be compared.

    Args:
        cfg: the whole config.
        describe: False only counts the non-local blocks, which takes a fraction of the time.

    Returns:
        ``{"params": int, "gmacs": float, "nonlocal_blocks": list[dict]}``. A multiply-add counts once. The blocks are
        the rows of `nonlocal_table`; with ``describe=False`` there is their number instead.

    Raises:
        KeyError, ValueError: as in ``meta_model``.
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
        KeyError, ValueError: as in ``meta_model``.
    """
    model, clip = meta_model(cfg)
    return cost_table(model, clip, depth=2)
