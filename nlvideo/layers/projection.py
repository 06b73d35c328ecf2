"""Convolutions of kernel size 1 over one map as matrix products, which read the map as it lies in memory.

A convolution library copies a map into its own layout and back, and adds the gradients that several convolutions give
for one map in passes of their own. A matrix product takes any layout and adds to what is there. So the projections of a
position are rows of a matrix, as attention needs them, and their gradients are added in the layout of the map.

Legend of shape suffixes: N clips, C channels of the map, L positions, D channels of a projection; B matrices of M
columns: one for each clip, or one for all.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch


class Linear(NamedTuple):
    """A convolution of kernel size 1: weight (D, C), perhaps with axes of length 1 after these, and bias (D,)."""

    weight: torch.Tensor
    bias: torch.Tensor


def _columns(u: torch.Tensor, merged: bool) -> torch.Tensor:
    """(N, C, ...) -> (N, C, L), or merged (1, C, N x L): all clips in one matrix. A channels-last map is not copied."""
    u_NCL = u.flatten(2)
    N, C, L = u_NCL.shape
    return u_NCL.transpose(1, 2).reshape(1, N * L, C).transpose(1, 2) if merged else u_NCL


def _as_map(u_BCM: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The inverse of ``_columns``, without a copy: (N, C, ...) of this shape."""
    N, C, *size = shape
    if len(u_BCM) == N:
        return u_BCM.view(N, C, *size)
    return u_BCM.transpose(1, 2).view(N, -1, C).transpose(1, 2).view(N, C, *size)


class _Projections(torch.autograd.Function):
    """Keeps the map and the weights for backward, as the convolutions would."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rows: bool, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(N, C, ...) and weight (D, C), bias (D,) of each projection -> (N, D, ...) of each."""
        ctx.save_for_backward(x, *parameters[::2])
        # Where channels are last in the map and in its projections, all clips are one matrix.
        ctx.merged = rows and len(x) > 1 and x.flatten(2).transpose(1, 2).is_contiguous()
        x_BCM = _columns(x, ctx.merged)
        B, _, M = x_BCM.shape
        maps = []
        for weight, bias_D in zip(parameters[::2], parameters[1::2], strict=True):
            D = len(bias_D)
            y_BDM = x.new_empty(B, M, D).transpose(1, 2) if rows else x.new_empty(B, D, M)
            for b in range(B):
                torch.addmm(bias_D[:, None], weight.view(D, -1), x_BCM[b], out=y_BDM[b])
            maps.append(_as_map(y_BDM, (x.shape[0], D, *x.shape[2:])))
        return tuple(maps)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """(N, D, ...) of each projection -> gradients of the map, and of weight and bias of each."""
        x, *weights = ctx.saved_tensors
        of_map, _, *of_parameters = ctx.needs_input_grad
        x_BCM = _columns(x, ctx.merged)
        B = len(x_BCM)
        # The first product writes to new memory (beta 0), the others add to it. Without clips there are no products.
        new = torch.empty_like if B else torch.zeros_like
        grad_x_BCM = new(x_BCM) if of_map else None
        grad_parameters: list[torch.Tensor | None] = []
        for number, (weight, grad) in enumerate(zip(weights, grads, strict=True)):
            grad_BDM, weight_DC = _columns(grad, ctx.merged), weight.view(len(weight), -1)
            grad_weight_DC = new(weight_DC) if of_parameters[2 * number] else None
            for b in range(B):
                if grad_x_BCM is not None:
                    grad_x_BCM[b].addmm_(weight_DC.T, grad_BDM[b], beta=0 if number == 0 else 1)
                if grad_weight_DC is not None:
                    grad_weight_DC.addmm_(grad_BDM[b], x_BCM[b].T, beta=0 if b == 0 else 1)
            grad_parameters.append(None if grad_weight_DC is None else grad_weight_DC.view(weight.shape))
            grad_parameters.append(grad_BDM.sum((0, 2)) if of_parameters[2 * number + 1] else None)
        return None if grad_x_BCM is None else _as_map(grad_x_BCM, x.shape), None, *grad_parameters


def project(x: torch.Tensor, layers: Sequence[Linear], *, rows: bool) -> tuple[torch.Tensor, ...]:
    """Apply convolutions of kernel size 1 to one map: (N, D, ...) of each.

    Args:
        x: (N, C, ...), contiguous or with the channels last.
        layers: weights and biases, of the dtype of the map.
        rows: put the channels of a position side by side (channels last); False: leave the result contiguous.
    """
    return _Projections.apply(x, rows, *(tensor for layer in layers for tensor in layer))
