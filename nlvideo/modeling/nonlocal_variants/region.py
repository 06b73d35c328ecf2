"""The region-based non-local block: positions meet by their neighbourhoods."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nlvideo.config import configurable
from nlvideo.layers.nonlocal_ops import softmax_aggregate
from nlvideo.layers.norm import get_norm
from nlvideo.modeling.nonlocal_block.build import NONLOCAL
from nlvideo.modeling.nonlocal_block.maps import CONVS
from nlvideo.modeling.nonlocal_block.pairwise import SoftmaxBase
from nlvideo.modeling.nonlocal_variants.global_context import GlobalContext


@NONLOCAL.register()
class RegionNonLocal(SoftmaxBase):
    """y_i = sum_j softmax_j(s p_i . p_j) t_j, z = x + BN(W y) (Huang and Bors, "Region-based Non-local", 2020).

    t = W_t x, and p is a depthwise convolution of t, so that each position stands for its neighbourhood. Queries and
    keys are the same p. Costs N Q (d + e) multiply-adds and N d for each weight of the kernel, and O(N) memory: no
    N x Q matrix is kept but by "dense". Exact. Without pooling, half of the symmetric logits are computed on a CPU.

    Args:
        in_channels: channels of x.
        inner_channels: channels of t and p; None: half of ``in_channels``.
        kernel: odd lengths of the neighbourhood along T, H and W (authors: 3x7x7 in res3, 3x3x3 in res4). Images take
            the last two of them, sequences the last one.
        channel_gate: x is first x + W_2 ReLU(BN(W_1 c)), c = sum_j softmax_j(w_k . x_j) x_j, with C / 2 outputs of W_1
            (authors: in the first block of a network). Its norm needs two clips or more in training.
        subsample: keys and values are max-pooled p and t (authors: not).
        scale: s is d ** -0.5; False: 1 (authors).
        norm: norm after W and in the gate: "BN", "SyncBN", "FrozenBN" or "none".
        zero_init: start as the identity: the norm's weight is zero, or W where no norm trains; and W_2 is zero.
        init_std: standard deviation of the convolutions' weights; None: He et al. The depthwise one starts so that p is
            as large as t.
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
        kernel: Sequence[int] = (3, 3, 3),
        channel_gate: bool = False,
        subsample: bool = False,
        scale: bool = False,
        norm: str | None = "BN",
        zero_init: bool = True,
        init_std: float | None = 0.01,
        **common: Any,
    ):
        super().__init__(in_channels, **common)
        if len(kernel) != 3 or any(length < 1 or length % 2 == 0 for length in kernel):
            raise ValueError(f"kernel: got {list(kernel)}, allowed: three odd lengths")
        self.inner_channels = d = self.count_inside(inner_channels, in_channels // 2)
        self.subsample = subsample and self.attend != "time"
        self.scale = d**-0.5 if scale else 1.0
        self.gate: nn.Module = nn.Identity()
        if channel_gate:
            groups = {"attend": self.attend, "temporal_groups": self.temporal_groups}
            gate = GlobalContext(in_channels, dim=self.dim, ratio=2, zero_init=zero_init, **groups)
            transform = gate.transforms["add"]
            assert isinstance(transform, nn.Sequential)
            transform[1] = get_norm(norm, in_channels // 2, dim=1)
            self.gate = gate
        self.theta = self.conv(in_channels, d)
        lengths: Any = tuple(kernel)[-self.dim :]
        self.region = CONVS[self.dim - 1](d, d, lengths, padding="same", groups=d, bias=False)
        self.out = self.conv(d, in_channels)
        self.bn = get_norm(norm, in_channels, dim=self.dim)
        self.initialise(zero_init, init_std)
        nn.init.kaiming_normal_(self.region.weight, nonlinearity="linear")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> (N, C, T, H, W), as in `NonLocalBase`, after the gate."""
        return super().forward(self.gate(x))

    def attention(self, x: torch.Tensor, positions: Sequence[int | Sequence[int]]) -> torch.Tensor:
        """Weights of the softmax, as in `NonLocalBase`, after the gate."""
        return super().attention(self.gate(x), positions)

    def context(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        value = self.theta(x)
        query_NPD, key_NQD = self._embed(self.region(value))
        value_NQD = self.pool(value).flatten(2).transpose(1, 2)
        y_NPD = softmax_aggregate(query_NPD, key_NQD, value_NQD, scale=self.scale, algorithm=self.algorithm)
        return self.out(y_NPD.transpose(1, 2).unflatten(2, x.shape[2:]))

    def weights(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """The softmax of one query: (N, keys)."""
        return self.softmax_of(*self._embed(self.region(self.theta(x))), position)

    def _embed(self, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """p as queries (N, P, D) and keys (N, Q, D); without pooling they are one tensor, which takes half the work."""
        query_NPD = p.flatten(2).transpose(1, 2)
        return query_NPD, self.pool(p).flatten(2).transpose(1, 2) if self.subsample else query_NPD
