"""Non-local blocks in any network, after named sub-modules."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nlvideo.errors import LookupFailed
from nlvideo.utils.messages import did_you_mean


class WithNonLocal(nn.Module):
    """A module, then a non-local block on its output.

    Args:
        module: returns one tensor.
        nonlocal_block: a residual module that keeps the shape of its input.
    """

    def __init__(self, module: nn.Module, nonlocal_block: nn.Module):
        super().__init__()
        self.module = module
        self.nonlocal_block = nonlocal_block

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The arguments of the module -> its output, (N, C, ...), after the block."""
        return self.nonlocal_block(self.module(*args, **kwargs))


def insert_nonlocal(model: nn.Module, blocks: Mapping[str, nn.Module]) -> nn.Module:
    """Put non-local blocks after named sub-modules of any network, in place.

    A block with ``zero_init`` starts as the identity, so the outputs of the network do not change. In the state dict
    ``layer3.4.conv1.weight`` becomes ``layer3.4.module.conv1.weight`` and the block is ``layer3.4.nonlocal_block.*``;
    other names stay. Load weights of the original network before inserting. A block gets the train or eval mode of the
    module that it follows. It must already have the device and the dtype of the network.

    Example:
        >>> resnet = torchvision.models.resnet50(weights="DEFAULT")
        >>> insert_nonlocal(resnet, {"layer3.4": NonLocalBlock(1024, dim=2)})

    Args:
        model: the network.
        blocks: name of a sub-module, as in ``model.named_modules()`` -> the block to put after it.

    Returns:
        The network itself.

    Raises:
        KeyError: a name that the network does not have; nothing is changed then.
    """
    modules = dict(model.named_modules())
    places = []
    for name in blocks:
        if not name or name not in modules:
            hint = did_you_mean(name, (n for n in modules if n))
            raise LookupFailed(f"no sub-module {name!r} in {type(model).__name__}. {hint or 'No name is close.'}")
        parent, _, child = name.rpartition(".")
        places.append((modules[parent], child, modules[name], blocks[name]))
    # No place changes before all are found: one name may be inside another.
    for parent_module, child, module, block in places:
        setattr(parent_module, child, WithNonLocal(module, block.train(module.training)))
    return model
