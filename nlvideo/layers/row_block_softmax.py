"""softmax(scale * query key^T) value, a block of rows at a time: exact, and without the P x Q matrix.

Each row of the matrix is complete inside its block, so the softmax needs no second pass. What a plain autograd graph
would keep (the probabilities, N x P x Q) is recomputed in backward from the log of each row's sum, N x P.

Legend of shape suffixes: N batch, P queries, Q keys, D key channels, E value channels; n and p: a tile's part of N, P.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from nlvideo.layers.precision import accumulation_dtype, without_autocast

# Logits of one tile. 4 MiB in fp32 stay in the cache of a CPU core; a GPU wants more work per kernel launch.
TILE_LOGITS = {"cpu": 2**20, "cuda": 2**25}


def tiles(batch: int, num_queries: int, num_keys: int, max_logits: int) -> Iterator[tuple[slice, slice]]:
    """Cut N x P rows into tiles of at most ``max_logits`` logits (but at least one row of one sample).

    Small samples (attention over time has thousands, of a few positions each) go several to a tile; a large one is cut
    into blocks of rows.

    Args:
        batch: N.
        num_queries: P.
        num_keys: Q.
        max_logits: bound on rows x Q.
    """
    rows = max(1, min(num_queries, max_logits // max(1, num_keys)))
    samples = max(1, max_logits // max(1, num_queries * num_keys))
    for n in range(0, batch, samples):
        for p in range(0, num_queries, rows):
            yield slice(n, n + samples), slice(p, p + rows)


class _RowBlockSoftmax(torch.autograd.Function):
    """Keeps query, key, value, the output and the log-sum-exp of each row for backward: O(N (P + Q) (D + E))."""

    @staticmethod
    def forward(
        ctx: Any, query_NPD: torch.Tensor, key_NQD: torch.Tensor, value_NQE: torch.Tensor, scale: float,
        max_logits: int,
    ) -> torch.Tensor:
        """(N, P, D), (N, Q, D), (N, Q, E) -> (N, P, E)."""
        N, P, _ = query_NPD.shape
        out_NPE = value_NQE.new_empty(N, P, value_NQE.shape[2])
        logsumexp_NP = query_NPD.new_empty(N, P)
        for n, p in tiles(N, P, key_NQD.shape[1], max_logits):
            logits_npQ = torch.matmul(query_NPD[n, p] * scale, key_NQD[n].transpose(1, 2))
            logsumexp_np = logits_npQ.logsumexp(2)
            weights_npQ = logits_npQ.sub_(logsumexp_np[..., None]).exp_()
            out_NPE[n, p] = torch.matmul(weights_npQ, value_NQE[n])
            logsumexp_NP[n, p] = logsumexp_np
        ctx.save_for_backward(query_NPD, key_NQD, value_NQE, out_NPE, logsumexp_NP)
        ctx.scale, ctx.max_logits = scale, max_logits
        return out_NPE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NPE: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """(N, P, E) -> gradients of query, key and value."""
        query_NPD, key_NQD, value_NQE, out_NPE, logsumexp_NP = ctx.saved_tensors
        grad_query = torch.empty_like(query_NPD)
        grad_key, grad_value = torch.zeros_like(key_NQD), torch.zeros_like(value_NQE)
        # Row i of the softmax's Jacobian needs sum_j weight_ij (grad_i . value_j), which is grad_i . out_i.
        row_NP = (grad_NPE * out_NPE).sum(2)
        with without_autocast(query_NPD):
            for n, p in tiles(*query_NPD.shape[:2], key_NQD.shape[1], ctx.max_logits):
                query_npD = query_NPD[n, p] * ctx.scale
                logits_npQ = torch.matmul(query_npD, key_NQD[n].transpose(1, 2))
                weights_npQ = logits_npQ.sub_(logsumexp_NP[n, p, None]).exp_()
                grad_value[n] += torch.matmul(weights_npQ.transpose(1, 2), grad_NPE[n, p])
                grad_logits_npQ = torch.matmul(grad_NPE[n, p], value_NQE[n].transpose(1, 2))
                grad_logits_npQ.sub_(row_NP[n, p, None]).mul_(weights_npQ)
                grad_query[n, p] = torch.matmul(grad_logits_npQ, key_NQD[n]) * ctx.scale
                grad_key[n] += torch.matmul(grad_logits_npQ.transpose(1, 2), query_npD)
        return grad_query, grad_key, grad_value, None, None


def row_block_softmax(
    query_NPD: torch.Tensor, key_NQD: torch.Tensor, value_NQE: torch.Tensor, *, scale: float,
    max_logits: int | None = None,
) -> torch.Tensor:
    """softmax over the keys of scale * (query . key), times the values: (N, P, E), in the values' dtype.

    Args:
        query_NPD: (N, P, D).
        key_NQD: (N, Q, D).
        value_NQE: (N, Q, E).
        scale: factor of the logits.
        max_logits: logits held at a time. None: by device.
    """
    if max_logits is None:
        max_logits = TILE_LOGITS.get(query_NPD.device.type, TILE_LOGITS["cuda"])
    dtype = accumulation_dtype(query_NPD, key_NQD, value_NQE)
    with without_autocast(query_NPD):
        out_NPE = _RowBlockSoftmax.apply(
            query_NPD.to(dtype), key_NQD.to(dtype), value_NQE.to(dtype), scale, max_logits
        )
    return out_NPE.to(value_NQE.dtype)
