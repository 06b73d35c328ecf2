"""sum_j relu(a_i + b_j) v_j by sorting: O((P + Q) (log Q + E)) instead of P x Q.

The keys are sorted by falling b. Then the keys that reach query i (b_j > -a_i) are the first k_i of them, and

    sum_j relu(a_i + b_j) v_j = a_i G(k_i) + H(k_i),    G(k) = sum_{first k} v_j,    H(k) = sum_{first k} b_j v_j.

The gradients have the same form, with queries and keys exchanged. With the queries sorted by falling a, those that
reach key j (a_i > -b_j) are the first l_j of them. So backward makes the same two steps, and nothing is scattered:

    da_i = dy_i . G(k_i)        db_j = v_j . E(l_j)        dv_j = b_j E(l_j) + F(l_j)
    E(l) = sum_{first l} dy_i   F(l) = sum_{first l} a_i dy_i

A pair at exactly a_i + b_j = 0 counts in neither, which is ReLU'(0) = 0.
Legend of shape suffixes: N batch, P queries, Q keys, E value channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from nlvideo.layers.precision import widened, without_autocast


def _num_reached(from_NP: torch.Tensor, sorted_NQ: torch.Tensor) -> torch.Tensor:
    """How many of the falling ``sorted_NQ`` are above -from: (N, P)."""
    return torch.searchsorted(-sorted_NQ, from_NP)


def _take(source_NQE: torch.Tensor, index_NP: torch.Tensor) -> torch.Tensor:
    """Rows of each sample by index: (N, P, E)."""
    return source_NQE.gather(1, index_NP[..., None].expand(-1, -1, source_NQE.shape[2]))


def _prefix_sums(rows_NQE: torch.Tensor) -> torch.Tensor:
    """Sums of the first 0, 1, ..., Q rows: (N, Q + 1, E)."""
    return F.pad(rows_NQE, (0, 0, 1, 0)).cumsum_(1)


class _SortedRelu(torch.autograd.Function):
    """Keeps the two terms, the values, the sums G(k_i) and the mean: O(N (P + Q) E)."""

    @staticmethod
    def forward(ctx: Any, query_NP: torch.Tensor, key_NQ: torch.Tensor, value_NQE: torch.Tensor) -> torch.Tensor:
        """(N, P), (N, Q), (N, Q, E) -> (N, P, E)."""
        # Only a_i + b_j matters, so both may be shifted. With keys around zero, a G and H do not cancel.
        mean_N1 = key_NQ.mean(1, keepdim=True)
        sorted_NQ, order_NQ = key_NQ.sort(dim=1, descending=True)
        # Compared before the shift, whose rounding could put a pair just above zero on the other side.
        reached_NP = _num_reached(query_NP, sorted_NQ)
        value_NQE = value_NQE.contiguous()
        sorted_value_NQE = _take(value_NQE, order_NQ)
        g_NPE = _take(_prefix_sums(sorted_value_NQE), reached_NP)
        h_NPE = _take(_prefix_sums(sorted_value_NQE.mul_((sorted_NQ - mean_N1)[..., None])), reached_NP)
        ctx.save_for_backward(query_NP, key_NQ, value_NQE, g_NPE, mean_N1)
        return torch.addcmul(h_NPE, (query_NP + mean_N1)[..., None], g_NPE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NPE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(N, P, E) -> gradients of the two terms and the values."""
        query_NP, key_NQ, value_NQE, g_NPE, mean_N1 = ctx.saved_tensors
        with without_autocast(grad_NPE):
            sorted_NP, order_NP = query_NP.sort(dim=1, descending=True)
            reached_NQ = _num_reached(key_NQ, sorted_NP)
            sorted_grad_NPE = _take(grad_NPE.contiguous(), order_NP)
            e_NQE = _take(_prefix_sums(sorted_grad_NPE), reached_NQ)
            f_NQE = _take(_prefix_sums(sorted_grad_NPE.mul_((sorted_NP + mean_N1)[..., None])), reached_NQ)
            grad_query = (grad_NPE * g_NPE).sum(2)
            grad_key = (value_NQE * e_NQE).sum(2)
            grad_value = f_NQE.addcmul_((key_NQ - mean_N1)[..., None], e_NQE)
        return grad_query, grad_key, grad_value


def sorted_relu(query_term_NP: torch.Tensor, key_term_NQ: torch.Tensor, value_NQE: torch.Tensor) -> torch.Tensor:
    """sum_j relu(a_i + b_j) v_j: (N, P, E), in the dtype of the sums, float32 or wider.

    Args:
        query_term_NP: a, (N, P).
        key_term_NQ: b, (N, Q).
        value_NQE: v, (N, Q, E).
    """
    query_NP, key_NQ, value_NQE = widened(query_term_NP, key_term_NQ, value_NQE)
    with without_autocast(value_NQE):
        return _SortedRelu.apply(query_NP.contiguous(), key_NQ.contiguous(), value_NQE)
