"""f(scale * query key^T) value, a block of rows at a time: exact, without the P x Q matrix; f: softmax, none or ReLU.

A block has whole rows of the matrix, so the softmax needs no second pass. The forward pass keeps nothing but its
arguments. The backward pass computes each block of weights again.

Legend of shape suffixes: N batch, P queries, Q keys, D key channels, E value channels; n and p: a tile's part of N, P.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from nlvideo.layers.precision import widened, without_autocast

# Logits of one tile. On a CPU (measured on one with 32 MiB of last-level cache), products with the keys are slow in
# smaller tiles, and larger ones do not fit the cache. A GPU needs more work per kernel launch.
TILE_LOGITS = {"cpu": 3 * 2**20, "cuda": 2**25}
# A tile has at least this many rows, even if that takes more logits: each tile reads and writes the gradients of all
# keys and values.
TILE_ROWS = 512


def tile_logits(query_NPD: torch.Tensor, num_keys: int) -> int:
    """How many logits to hold at a time for these queries and this number of keys."""
    on_device = TILE_LOGITS.get(query_NPD.device.type, TILE_LOGITS["cuda"])
    return max(on_device, TILE_ROWS * num_keys)


def tiles(batch: int, num_queries: int, num_keys: int, max_logits: int) -> Iterator[tuple[slice, slice]]:
    """Cut N x P rows into tiles of at most ``max_logits`` logits (but at least one row of one sample).

    A tile holds several small samples: attention over time has thousands of them, with a few positions each. A large
    sample is cut into blocks of rows.

    Args:
        batch: N.
        num_queries: P.
        num_keys: Q.
        max_logits: bound on rows x Q.
    """
    most = max(1, min(num_queries, max_logits // max(1, num_keys)))
    rows = max(1, -(-num_queries // max(1, -(-num_queries // most))))
    samples = max(1, max_logits // max(1, num_queries * num_keys))
    # One tile of nothing where there is no sample or query, such as in the head of a detector that found nothing.
    for n in range(0, max(1, batch), samples):
        for p in range(0, max(1, num_queries), rows):
            yield slice(n, n + samples), slice(p, p + rows)


class _Tiles:
    """Memory that all tiles use in turn: on a CPU new memory for each would cost more than the softmax."""

    def __init__(self, query_NPD: torch.Tensor, key_NQD: torch.Tensor, max_logits: int):
        (N, P, _), Q = query_NPD.shape, key_NQD.shape[1]
        n, p = next(tiles(N, P, Q, max_logits))
        # A compiler plans memory itself, and an exported graph takes no out=. On a GPU PyTorch keeps memory that was
        # freed, and it is not known whether its kernels read a row before they write over it.
        planned = torch.compiler.is_compiling() or query_NPD.device.type != "cpu"
        self._tile_npQ = None if planned else query_NPD.new_empty(min(N, n.stop), p.stop, Q)

    @property
    def in_place(self) -> bool:
        """Whether a tile may be written over."""
        return self._tile_npQ is not None

    def like(self, rows_npD: torch.Tensor) -> torch.Tensor | None:
        """The part for a tile of these rows, (n, p, Q); None for new memory."""
        return None if self._tile_npQ is None else self._tile_npQ[: rows_npD.shape[0], : rows_npD.shape[1]]


def _product(
    a_nij: torch.Tensor, b_njk: torch.Tensor, out_nik: torch.Tensor | None, *, alpha: float = 1.0, beta: float = 0.0
) -> torch.Tensor:
    """beta out + alpha a b, written to ``out``; None for new memory."""
    if out_nik is None:
        return torch.bmm(a_nij, b_njk).mul_(alpha)
    return out_nik.baddbmm_(a_nij, b_njk, alpha=alpha, beta=beta)


def _weights(logits_npQ: torch.Tensor, f: str, in_place: bool) -> torch.Tensor:
    """f of a tile's logits, written over them or to new memory."""
    out_npQ = logits_npQ if in_place else None
    if f == "softmax":
        # On a CPU PyTorch's kernels read a row before they write to it. A second tile would only take cache.
        return torch.softmax(logits_npQ, 2, out=out_npQ)
    return logits_npQ if f == "identity" else torch.clamp(logits_npQ, min=0, out=out_npQ)


class _RowBlocks(torch.autograd.Function):
    """Keeps query, key and value for backward, in their own dtypes: O(N (P + Q) (D + E)).

    Tensors are read in the layout that they have, rows or columns of a map. Their gradients have the same layout.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_NPD: torch.Tensor,
        key_NQD: torch.Tensor,
        value_NQE: torch.Tensor,
        scale: float,
        max_logits: int,
        f: str,
    ) -> torch.Tensor:
        """(N, P, D), (N, Q, D), (N, Q, E) -> (N, P, E), in the accumulation dtype."""
        ctx.save_for_backward(query_NPD, key_NQD, value_NQE)
        ctx.scale, ctx.max_logits, ctx.f = scale, max_logits, f
        query_NPD, key_NQD, value_NQE = widened(query_NPD, key_NQD, value_NQE)
        N, P, _ = query_NPD.shape
        out_NPE = value_NQE.new_empty(N, P, value_NQE.shape[2])
        tile = _Tiles(query_NPD, key_NQD, max_logits)
        for n, p in tiles(N, P, key_NQD.shape[1], max_logits):
            query_npD = query_NPD[n, p]
            logits_npQ = _product(query_npD, key_NQD[n].transpose(1, 2), tile.like(query_npD), alpha=scale)
            weights_npQ = _weights(logits_npQ, f, tile.in_place)
            out_NPE[n, p].baddbmm_(weights_npQ, value_NQE[n], beta=0)
        return out_NPE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NPE: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """(N, P, E) -> gradients of query, key and value."""
        saved = ctx.saved_tensors
        query_NPD, key_NQD, value_NQE, grad_NPE = widened(*saved, grad_NPE)
        grad_query, grad_key, grad_value = (torch.empty_like(tensor) for tensor in (query_NPD, key_NQD, value_NQE))
        weights, grads = (_Tiles(query_NPD, key_NQD, ctx.max_logits) for _ in range(2))
        with without_autocast(query_NPD):
            for n, p in tiles(len(query_NPD), query_NPD.shape[1], key_NQD.shape[1], ctx.max_logits):
                query_npD, key_nQD, grad_npE = query_NPD[n, p], key_NQD[n], grad_NPE[n, p]
                logits_npQ = _product(query_npD, key_nQD.transpose(1, 2), weights.like(query_npD), alpha=ctx.scale)
                weights_npQ = _weights(logits_npQ, ctx.f, weights.in_place)
                beta = 0 if p.start == 0 else 1  # 0: the memory is new
                grad_value[n].baddbmm_(weights_npQ.transpose(1, 2), grad_npE, beta=beta)
                grad_logits_npQ = _product(grad_npE, value_NQE[n].transpose(1, 2), grads.like(query_npD))
                if ctx.f == "relu":
                    grad_logits_npQ.masked_fill_(weights_npQ == 0, 0)
                elif ctx.f == "softmax":
                    # The softmax's own backward kernel: one pass instead of three.
                    grad_logits_npQ = torch._softmax_backward_data(
                        grad_logits_npQ, weights_npQ, 2, weights_npQ.dtype, grad_input=grads.like(query_npD)
                    )
                grad_query[n, p].baddbmm_(grad_logits_npQ, key_nQD, alpha=ctx.scale, beta=0)
                grad_key[n].baddbmm_(grad_logits_npQ.transpose(1, 2), query_npD, alpha=ctx.scale, beta=beta)
        results = (grad_query, grad_key, grad_value)
        return *(grad.to(tensor.dtype) for grad, tensor in zip(results, saved, strict=True)), None, None, None


def row_block_sum(
    query_NPD: torch.Tensor,
    key_NQD: torch.Tensor,
    value_NQE: torch.Tensor,
    *,
    f: str,
    scale: float,
    max_logits: int | None = None,
) -> torch.Tensor:
    """The sum over the keys of f(scale * (query . key)) times the values: (N, P, E), in the values' dtype.

    Args:
        query_NPD: (N, P, D).
        key_NQD: (N, Q, D).
        value_NQE: (N, Q, E).
        f: "softmax" over the keys, "identity" or "relu".
        scale: factor of the logits.
        max_logits: logits that are held at a time; None: by device.
    """
    if max_logits is None:
        max_logits = tile_logits(query_NPD, key_NQD.shape[1])
    with without_autocast(query_NPD):
        out_NPE = _RowBlocks.apply(query_NPD, key_NQD, value_NQE, scale, max_logits, f)
    return out_NPE.to(value_NQE.dtype)
