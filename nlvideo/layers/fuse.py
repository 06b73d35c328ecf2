"""A copy of a network for inference, in which norms are part of the convolutions before them."""

import copy
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nlvideo.layers.blocks import Conv3d
from nlvideo.layers.norm import FrozenBatchNorm, SyncBatchNorm

logger = logging.getLogger(__name__)

# A subclass with a forward of its own may compute something else.
_CONV_FORWARDS = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward, Conv3d.forward)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, SyncBatchNorm, FrozenBatchNorm)
# What looks at the output of a module, also by its gradient; and at its input.
_OUTPUT_HOOKS = ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOKS = (*_OUTPUT_HOOKS, "_forward_pre_hooks")


def fuse_for_inference(model: nn.Module, keep: Iterable[nn.Module] = ()) -> nn.Module:
    """A copy of a network in eval mode that gives the same scores to rounding, and faster: without batch norms.

    Each norm becomes the identity, and the convolution before it gets its scale and shift. Tensors that do not change
    are those of the network itself. Two kinds of pairs are found:

    - a convolution and a norm that follow each other in an ``nn.Sequential``; the convolution may be the last module
      of a Sequential in it
    - those that a class names in ``norm_after = {"conv1": "bn1"}``: attributes whose outputs are nothing but the
      norm's input and the norm's output. Residual and non-local blocks do so. A class of your own may.

    Batch norms of PyTorch and those of `get_norm` are folded. A norm stays if it has no statistics, if its module
    stands in several places, or if a hook or `keep` wants the output of the convolution. The log lists those that stay
    for a hook or `keep`.

    Args:
        model: left as it is. If its attribute ``fuse`` is False (TEST.FUSE), if nothing can be folded, or if it is
            compiled or cannot be copied, it is returned itself.
        keep: modules of it whose outputs are wanted as they are.
    """
    if not getattr(model, "fuse", True) or hasattr(model, "_orig_mod"):
        return model
    wanted = {id(module) for module in keep}
    wanted |= {id(module) for module in model.modules() if any(getattr(module, hooks) for hooks in _OUTPUT_HOOKS)}
    uses = Counter(id(child) for module in model.modules() for child in module._modules.values())
    folded: list[tuple[str, str]] = []
    kept: list[tuple[str, str]] = []
    for chain, norm in _pairs(model):
        modules = [*map(model.get_submodule, chain), model.get_submodule(norm)]
        if max(uses[id(module)] for module in modules) == 1 and _fits(modules[-2], modules[-1]):
            is_wanted = any(id(module) in wanted for module in modules[:-1])
            is_wanted |= any(getattr(modules[-1], hooks) for hooks in _HOOKS)
            (kept if is_wanted else folded).append((chain[-1], norm))
    if kept:
        logger.info("Norms that stay, because the output of their convolutions is wanted: %s", dict(kept))
    if not folded:
        return model
    try:
        fused = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}).eval()
    except Exception as error:  # whatever a network of a project holds
        logger.warning("TEST.FUSE: the norms stay, because %s cannot be copied: %s", type(model).__name__, error)
        return model
    with torch.no_grad():
        for name, norm in folded:
            conv: Any = fused.get_submodule(name)
            bn: Any = fused.get_submodule(norm)
            fused.set_submodule(name, fuse_conv_bn_eval(conv, bn))
            fused.set_submodule(norm, nn.Identity())
    return fused


def _pairs(model: nn.Module) -> Iterator[tuple[list[str], str]]:
    """Names of the modules that give what a convolution gives, which is the last of them, and of the norm after it."""
    for prefix, module in model.named_modules():
        names = getattr(module, "norm_after", {}).items()
        if _forward(module) is nn.Sequential.forward:
            children = list(module._modules)
            names = pairwise(children)
        for before, after in names:
            child: Any = getattr(module, before, None)
            chain = [f"{prefix}.{before}".removeprefix(".")]
            while _forward(child) is nn.Sequential.forward and len(child):
                last = list(child._modules)[-1]
                child, chain = child._modules[last], [*chain, f"{chain[-1]}.{last}"]
            if _forward(child) in _CONV_FORWARDS and type(getattr(module, after, None)) in _NORMS:
                yield chain, f"{prefix}.{after}".removeprefix(".")


def _forward(module: nn.Module | None) -> Any:
    return getattr(type(module), "forward", None)


def _fits(conv: nn.Module, norm: Any) -> bool:
    weight, mean = conv._parameters.get("weight"), norm.running_mean
    # In half precision they would be rounded a second time. A weight that is computed in each pass is no parameter.
    return weight is not None and weight.itemsize > 2 and mean is not None and len(mean) == len(weight)
