"""softmax(scale * x x^T) value: the Gaussian form over all positions, where queries and keys are the same.

The matrix of logits is symmetric, so half of it is enough. Its rows are cut into panels. A panel is multiplied with the
keys from its own first position on. Its rows are what the queries of the panel need of these keys. Its columns are what
the queries after the panel need of the keys of the panel. The backward pass works in the same way. There dx takes one
product with x, not one for the queries and one for the keys:

    dx_i = scale sum_j (dL_ij + dL_ji) x_j.

So a row of weights comes in parts, and the softmax is a running one: it holds the largest logit so far and the sums so
far, and scales these down when a larger logit comes.

Legend of shape suffixes: N batch, P positions, D channels of x, E value channels; i a panel's rows, r the rows from the
panel's first on, b those after the panel.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from nlvideo.layers.precision import widened, without_autocast
from nlvideo.layers.row_blocks import tile_logits

# More panels save more of the symmetric half; products of fewer rows are less efficient.
_MAX_PANELS, _PANEL_ROWS = 4, 384


def _exp_(logits: torch.Tensor) -> torch.Tensor:
    """exp in place, of numbers up to 0 whose exponentials are added to a 1.

    A CPU is ten times as slow where exp or a product underflows. So no result is below the cube of the rounding error.
    This changes no digit of a sum of fewer than 1e14 terms.
    """
    return logits.clamp_(min=3 * math.log(torch.finfo(logits.dtype).eps)).exp_()


def panels(num_positions: int, max_logits: int) -> Iterator[tuple[slice, slice, slice]]:
    """Cut P rows into panels: (the panel, the rows from its first on, the rows after it).

    Args:
        num_positions: P.
        max_logits: bound on the logits of a panel.
    """
    P = num_positions
    count = min(_MAX_PANELS, max(1, P // _PANEL_ROWS))
    size = max(1, min(-(-P // count), max_logits // P))
    for first in range(0, P, size):
        yield slice(first, min(P, first + size)), slice(first, P), slice(min(P, first + size), P)


class _RunningSoftmax:
    """sum_j softmax_j(logits) v_j, from parts of the rows."""

    def __init__(self, value_NPE: torch.Tensor):
        N, P, _ = value_NPE.shape
        self.sum_NPE = torch.empty_like(value_NPE)
        self.top_NP1, self.total_NP1 = value_NPE.new_empty(N, P, 1), value_NPE.new_empty(N, P, 1)

    def add(self, rows: slice, logits_Npk: torch.Tensor, value_NkE: torch.Tensor, first: bool) -> None:
        """Add what some keys give for some rows; ``first``: nothing was added to these rows before."""
        top_Np1 = logits_Npk.amax(2, keepdim=True)
        if not first:
            before_Np1 = self.top_NP1[:, rows]
            top_Np1 = torch.maximum(before_Np1, top_Np1)
            shrink_Np1 = (before_Np1 - top_Np1).exp_()
            self.total_NP1[:, rows] *= shrink_Np1
            self.sum_NPE[:, rows] *= shrink_Np1
        weights_Npk = _exp_(logits_Npk - top_Np1)
        total_Np1 = weights_Npk.sum(2, keepdim=True)
        self.top_NP1[:, rows] = top_Np1
        self.total_NP1[:, rows] = total_Np1 if first else total_Np1 + self.total_NP1[:, rows]
        self.sum_NPE[:, rows].baddbmm_(weights_Npk, value_NkE, beta=0 if first else 1)

    def finish(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The weighted means (N, P, E), and the logarithm of each row's sum of exponentials (N, P, 1)."""
        return self.sum_NPE.div_(self.total_NP1), self.top_NP1 + self.total_NP1.log_()


class _SymmetricSoftmax(torch.autograd.Function):
    """Keeps x, the values, the output and the log-sum-exp of each row for backward: O(N P (D + E))."""

    @staticmethod
    def forward(ctx: Any, x_NPD: torch.Tensor, value_NPE: torch.Tensor, scale: float, max_logits: int) -> torch.Tensor:
        """(N, P, D), (N, P, E) -> (N, P, E), in the accumulation dtype."""
        saved = (x_NPD, value_NPE)
        x_NPD, value_NPE = widened(x_NPD, value_NPE)
        running = _RunningSoftmax(value_NPE)
        for i, r, b in panels(x_NPD.shape[1], max_logits):
            logits_Nir = torch.bmm(x_NPD[:, i] * scale, x_NPD[:, r].transpose(1, 2))
            first = i.start == 0  # its rows and columns are the first part of every row
            running.add(i, logits_Nir, value_NPE[:, r], first)
            if b.start < b.stop:
                running.add(b, logits_Nir[:, :, b.start - i.start :].transpose(1, 2), value_NPE[:, i], first)
        out_NPE, logsumexp_NP1 = running.finish()
        ctx.save_for_backward(*saved, out_NPE, logsumexp_NP1)
        ctx.scale, ctx.max_logits = scale, max_logits
        return out_NPE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NPE: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """(N, P, E) -> gradients of x and the values."""
        x_NPD, value_NPE, out_NPE, logsumexp_NP1 = ctx.saved_tensors
        dtypes = x_NPD.dtype, value_NPE.dtype
        x_NPD, value_NPE, grad_NPE = widened(x_NPD, value_NPE, grad_NPE)
        grad_x, grad_value = torch.empty_like(x_NPD), torch.empty_like(value_NPE)
        with without_autocast(x_NPD):
            # The softmax's backward needs sum_j weight_ij (grad_i . value_j), which is grad_i . out_i.
            dot_NP1 = (grad_NPE * out_NPE).sum(2, keepdim=True)
            for i, r, b in panels(x_NPD.shape[1], ctx.max_logits):
                size = i.stop - i.start
                beta = 0 if i.start == 0 else 1  # the first panel writes to every row of the new memory
                logits_Nir = torch.bmm(x_NPD[:, i] * ctx.scale, x_NPD[:, r].transpose(1, 2))
                # By rows: the queries of the panel, all keys from its first on.
                weights_Nir = _exp_(logits_Nir - logsumexp_NP1[:, i])
                grad_value[:, r].baddbmm_(weights_Nir.transpose(1, 2), grad_NPE[:, i], beta=beta)
                both_Nir = torch.bmm(grad_NPE[:, i], value_NPE[:, r].transpose(1, 2))
                both_Nir.sub_(dot_NP1[:, i]).mul_(weights_Nir)
                # The panel's own square holds both directions: dL + dL^T.
                both_Nir[:, :, :size] += both_Nir[:, :, :size].transpose(1, 2).clone()
                if b.start < b.stop:
                    # By columns: the queries after the panel, the keys of the panel.
                    weights_Nib = _exp_(logits_Nir[:, :, size:].sub_(logsumexp_NP1[:, b].transpose(1, 2)))
                    grad_value[:, i].baddbmm_(weights_Nib, grad_NPE[:, b])
                    grad_logits_Nib = torch.bmm(value_NPE[:, i], grad_NPE[:, b].transpose(1, 2))
                    both_Nir[:, :, size:] += grad_logits_Nib.sub_(dot_NP1[:, b].transpose(1, 2)).mul_(weights_Nib)
                    grad_x[:, b].baddbmm_(
                        both_Nir[:, :, size:].transpose(1, 2), x_NPD[:, i], alpha=ctx.scale, beta=beta
                    )
                grad_x[:, i].baddbmm_(both_Nir, x_NPD[:, r], alpha=ctx.scale, beta=beta)
        return grad_x.to(dtypes[0]), grad_value.to(dtypes[1]), None, None


def symmetric_softmax(
    x_NPD: torch.Tensor, value_NPE: torch.Tensor, *, scale: float, max_logits: int | None = None
) -> torch.Tensor:
    """softmax over j of scale * (x_i . x_j), times the values: (N, P, E), in the values' dtype.

    Args:
        x_NPD: (N, P, D), both the queries and the keys.
        value_NPE: (N, P, E).
        scale: factor of the logits.
        max_logits: logits of one sample that are held at a time; None: by device.
    """
    if max_logits is None:
        max_logits = tile_logits(x_NPD, x_NPD.shape[1])
    with without_autocast(x_NPD):
        out_NPE = _SymmetricSoftmax.apply(x_NPD, value_NPE, scale, max_logits)
    return out_NPE.to(value_NPE.dtype)
