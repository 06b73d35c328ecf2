"""Operations on feature maps of 1, 2 or 3 axes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from nlvideo.layers.precision import accumulation_dtype, without_autocast
from nlvideo.layers.projection import Linear, project

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def max_pool_space(u: torch.Tensor) -> torch.Tensor:
    """Max-pool by 2, rounded down, along every axis but time: 2 (N, D, L), 2x2 (N, D, H, W), 1x2x2 (N, D, T, H, W).

    An axis of length 1 stays as it is.
    """
    dim = u.dim() - 2
    space = range(1 if dim == 3 else 0, dim)
    kernel = tuple(2 if axis in space and u.shape[2 + axis] > 1 else 1 for axis in range(dim))
    if dim == 3:
        # With the channels last, 2d pooling of single frames is up to 25 times as fast as 3d pooling, on a CPU.
        axis = 1 if u.is_contiguous() else 0  # frames become part of the channels or of the clips, without a copy
        frames = (u if axis else u.transpose(1, 2)).flatten(axis, axis + 1)
        pooled = F.max_pool2d(frames, kernel[1:])
        return pooled.unflatten(1, u.shape[1:3]) if axis else pooled.unflatten(0, (-1, u.shape[2])).transpose(1, 2)
    return (F.max_pool1d, F.max_pool2d)[dim - 1](u, kernel)


def as_linear(conv: nn.Module) -> Linear:
    """The weight and the bias of a convolution of kernel size 1."""
    assert isinstance(conv.weight, torch.Tensor) and isinstance(conv.bias, torch.Tensor)
    return Linear(conv.weight, conv.bias)


def convolve(x: torch.Tensor, convs: Sequence[nn.Module], *, rows: bool) -> Sequence[torch.Tensor]:
    """conv(x) of each of several convolutions of kernel size 1: maps (N, D, ...).

    On a CPU they are matrix products (``nlvideo.layers.projection``). Elsewhere, and where a module has hooks or is not
    a plain convolution, the modules are called.

    Args:
        x: (N, C, ...).
        convs: from C channels.
        rows: see ``project``.
    """
    if _are_matrices(x, convs):
        return project(x, [as_linear(conv) for conv in convs], rows=rows)
    return [conv(x) for conv in convs]


def _are_matrices(x: torch.Tensor, convs: Sequence[nn.Module]) -> bool:
    if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return x.dtype.itemsize >= 4 and all(is_plain(conv) and conv.weight.dtype == x.dtype for conv in convs)


def is_plain(conv: nn.Module) -> bool:
    """Whether weight and bias of a convolution say all: nothing has replaced it, and no hook waits for its output."""
    hooks = (conv._forward_hooks, conv._forward_pre_hooks, conv._backward_hooks, conv._backward_pre_hooks)
    return type(conv) in CONVS and not any(hooks)


def project_channels(x: torch.Tensor, weight_C: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """weight . x + bias at every position: (N, C, ...) -> (N, 1, ...), in float32 or wider.

    Args:
        x: a map of any number of axes.
        weight_C: one weight per channel.
        bias: a scalar; None: 0.
    """
    dtype = accumulation_dtype(x, weight_C)
    bias = None if bias is None else bias.to(dtype)[None]
    with without_autocast(x):
        return F.conv1d(x.flatten(2).to(dtype), weight_C.to(dtype)[None, :, None], bias).unflatten(2, x.shape[2:])


def project_conv(x: torch.Tensor, conv: nn.Module, weight_D: torch.Tensor) -> torch.Tensor:
    """weight . conv(x) at every position: (N, C, ...) -> (N, 1, ...), in float32 or wider.

    w . (W x + b) = (W^T w) . x + w . b: one product per channel of x, without conv(x). A convolution that is hooked or
    was replaced is called.

    Args:
        x: a map of any number of axes.
        conv: a convolution of kernel size 1 from C to D channels, with bias.
        weight_D: one weight per channel of conv(x).
    """
    if not is_plain(conv):
        return project_channels(conv(x), weight_D)
    dtype = accumulation_dtype(x, weight_D)
    weight_D, (weight, bias) = weight_D.to(dtype), as_linear(conv)
    with without_autocast(x):
        return project_channels(x, weight_D @ weight.flatten(1).to(dtype), weight_D @ bias.to(dtype))
