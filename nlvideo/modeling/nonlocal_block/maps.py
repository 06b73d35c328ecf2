"""Operations on feature maps of 1, 2 or 3 axes."""

import torch
import torch.nn.functional as F
from torch import nn

from nlvideo.layers.precision import accumulation_dtype, without_autocast


def max_pool_space(u: torch.Tensor) -> torch.Tensor:
    """Max-pool by 2, rounded down, along every axis but time: 2 (N, D, L), 2x2 (N, D, H, W), 1x2x2 (N, D, T, H, W).

    An axis of length 1 stays as it is.
    """
    dim = u.dim() - 2
    space = range(1 if dim == 3 else 0, dim)
    kernel = tuple(2 if axis in space and u.shape[2 + axis] > 1 else 1 for axis in range(dim))
    return (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dim - 1](u, kernel)


def project(x: torch.Tensor, weight_C: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
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

    w . (W x + b) = (W^T w) . x + w . b: one product per channel of x, and conv(x) is never made.

    Args:
        x: a map of any number of axes.
        conv: a convolution of kernel size 1 from C to D channels, with bias.
        weight_D: one weight per channel of conv(x).
    """
    dtype = accumulation_dtype(x, weight_D)
    weight_D = weight_D.to(dtype)
    with without_autocast(x):
        return project(x, weight_D @ conv.weight.flatten(1).to(dtype), weight_D @ conv.bias.to(dtype))
