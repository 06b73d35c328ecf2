"""The disentangled non-local block: whitened pairs, and a term of the keys alone."""

from typing import Any

import torch

from nlvideo.config import configurable
from nlvideo.layers.nonlocal_ops import softmax_aggregate
from nlvideo.layers.norm import get_norm
from nlvideo.layers.precision import widened, without_autocast
from nlvideo.modeling.nonlocal_block.build import NONLOCAL
from nlvideo.modeling.nonlocal_block.pairwise import SoftmaxBase


@NONLOCAL.register()
class DisentangledNonLocal(SoftmaxBase):
    """y_i = sum_j (softmax_j(s (q_i - mu_q).(k_j - mu_k)) + softmax_j(m_j)) v_j, z = x + BN(W y).

    Yin et al., "Disentangled Non-Local Neural Networks", ECCV 2020. mu are the means over the positions, and m_j is
    w_m . x_j. The two softmaxes are added, so that both terms learn. In the first one mu_k adds the same to all logits
    of a query, so it is left out: exact. Costs the N Q (d + e) multiply-adds of a non-local block and N C more, and
    O(N) memory: no N x Q matrix is kept but by "dense".

    Args:
        in_channels: channels of x.
        inner_channels: channels of q, k and v; None: half of ``in_channels``.
        subsample: keys and values come from a max-pooled map, as in `NonLocalBlock`.
        scale: s is d ** -0.5; False: 1 (the authors' "nowd" form).
        temperature: divides the logits of the pairs (mmsegmentation: 0.05).
        norm: norm after W: "BN", "SyncBN", "FrozenBN" or "none".
        zero_init: start as the identity: the norm's weight is zero, or W where no norm trains.
        init_std: standard deviation of the convolutions' weights; None: He et al.
        **common: arguments of `SoftmaxBase`.

    Raises:
        ValueError: for a value that is not allowed.
    """

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        inner_channels: int | None = None,
        subsample: bool = True,
        scale: bool = True,
        temperature: float = 1.0,
        norm: str | None = "BN",
        zero_init: bool = True,
        init_std: float | None = 0.01,
        **common: Any,
    ):
        super().__init__(in_channels, **common)
        if temperature <= 0:
            raise ValueError(f"temperature: got {temperature}, allowed: more than 0")
        self.inner_channels = self.count_inside(inner_channels, in_channels // 2)
        self.subsample = subsample and self.attend != "time"
        self.scale = (self.inner_channels**-0.5 if scale else 1.0) / temperature
        self.query, self.key, self.value = (self.conv(in_channels, self.inner_channels) for _ in range(3))
        self.mask = self.conv(in_channels, 1)
        self.out = self.conv(self.inner_channels, in_channels)
        self.bn = get_norm(norm, in_channels, dim=self.dim)
        self.initialise(zero_init, init_std)

    def _embed(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Whitened queries (N, P, D), keys and values (N, Q, D), and the weights of the keys alone (N, Q)."""
        keys = self.pool(x)
        query, key, value, mask = (
            conv(u).flatten(2).transpose(1, 2)
            for conv, u in ((self.query, x), (self.key, keys), (self.value, keys), (self.mask, keys))
        )
        query, mask = widened(query, mask)
        return (query - query.mean(1, keepdim=True)).to(key.dtype), key, value, mask[..., 0].softmax(1)

    def context(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        query_NPD, key_NQD, value_NQD, unary_NQ = self._embed(x)
        y_NPD = softmax_aggregate(query_NPD, key_NQD, value_NQD, scale=self.scale, algorithm=self.algorithm)
        with without_autocast(x):
            shared_N1D = unary_NQ[:, None] @ value_NQD.to(unary_NQ.dtype)
        y_NPD = y_NPD + shared_N1D.to(y_NPD.dtype)
        return self.out(y_NPD.transpose(1, 2).unflatten(2, x.shape[2:]))

    def weights(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """Both softmaxes together, whose sum is 2: (N, keys)."""
        query_NPD, key_NQD, _, unary_NQ = self._embed(x)
        return self.softmax_of(query_NPD, key_NQD, position) + unary_NQ
