"""2D weights for a 3D network (Sec. 4)."""

from collections.abc import Mapping

import torch
from torch import nn

from nlvideo.utils.messages import check_one_of


def inflate_2d_weights(
    state_2d: Mapping[str, torch.Tensor], model: nn.Module, *, how: str = "average"
) -> dict[str, torch.Tensor]:
    """Turn the state dict of a 2D network into one that the 3D network of the same names loads.

    A 4-D kernel (O, I, H, W) whose place in `model` is (O, I, T, H, W) gets a time axis. All other weights are returned
    unchanged, also those of names that `model` does not have.

    Args:
        state_2d: weights under the names of `model`.
        model: the 3D network.
        how: "average": each of the T slices is the kernel / T, so that a still video has the result of its frame
            (Sec. 4); "center": the kernel in the middle slice and zeros around it.

    Raises:
        ValueError: `how` is neither, or a kernel differs from its place in more than the time axis.
    """
    check_one_of("how", how, ("average", "center"))
    targets = model.state_dict()
    inflated = {}
    for name, weight in state_2d.items():
        target = targets.get(name)
        if target is not None and weight.dim() == 4 and target.dim() == 5:
            weight = _inflate(name, weight, target.shape, how)
        inflated[name] = weight
    return inflated


def _inflate(name: str, kernel: torch.Tensor, shape: torch.Size, how: str) -> torch.Tensor:
    frames = shape[2]
    if kernel.shape != (*shape[:2], *shape[3:]):
        raise ValueError(f"{name}: a 2D kernel {tuple(kernel.shape)} does not inflate to {tuple(shape)}")
    if how == "average":
        return (kernel / frames).unsqueeze(2).repeat(1, 1, frames, 1, 1)
    inflated = kernel.new_zeros(shape)
    inflated[:, :, frames // 2] = kernel
    return inflated
