"""Efficient attention: queries and keys are normalised apart, so that the product can be reordered."""

from typing import Any

import torch
from torch import nn

from nlvideo.config import configurable
from nlvideo.layers.precision import widened, without_autocast
from nlvideo.modeling.nonlocal_block.base import NonLocalBase
from nlvideo.modeling.nonlocal_block.build import NONLOCAL
from nlvideo.utils.messages import check_one_of

NORMALISATIONS = ("softmax", "scaling")


@NONLOCAL.register()
class EfficientAttention(NonLocalBase):
    """z = x + W rho_q(Q) (rho_k(K)^T V) (Shen et al., "Efficient Attention: Attention with Linear Complexities", 2021).

    rho_q is a softmax over the channels of each position, rho_k one over the positions of each channel. So position i
    sees position j with the weight sum_d rho_q(Q)_id rho_k(K)_jd, and these weights sum to 1. With "scaling" both are
    divisions by the square root of N: that is the dot product form of `NonLocalBlock`, exactly. With "softmax" it is a
    function of its own, not that of softmax(Q K^T). Costs 2 N d^2 / heads multiply-adds and O(N) memory; nothing is
    approximated. Weights start by He et al.

    Args:
        in_channels: channels of x.
        inner_channels: d, channels of Q, K and V; None: half of ``in_channels``.
        num_heads: the channels are so many groups, each with weights of its own.
        normalisation: "softmax" or "scaling".
        zero_init: start as the identity: W is zero.
        **common: arguments of `NonLocalBase`.

    Raises:
        ValueError: for a value that is not allowed.
    """

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        inner_channels: int | None = None,
        num_heads: int = 1,
        normalisation: str = "softmax",
        zero_init: bool = True,
        **common: Any,
    ):
        super().__init__(in_channels, **common)
        inner_channels = self.count_inside(inner_channels, in_channels // 2)
        if num_heads < 1 or inner_channels % num_heads:
            raise ValueError(f"num_heads: got {num_heads}, allowed: divisors of {inner_channels} inner channels")
        check_one_of("normalisation", normalisation, NORMALISATIONS)
        self.num_heads, self.normalisation = num_heads, normalisation
        self.query, self.key, self.value = (self.conv(in_channels, inner_channels) for _ in range(3))
        self.out = self.conv(inner_channels, in_channels)
        self.bn = nn.Identity()
        self.initialise(zero_init, None)

    def _embed(self, x: torch.Tensor, *convs: nn.Module) -> list[torch.Tensor]:
        """conv(x) of each, in heads: (N, G, D, L), in float32 or wider."""
        return widened(*(conv(x).flatten(2).unflatten(1, (self.num_heads, -1)) for conv in convs))

    def _normalised(self, x: torch.Tensor) -> list[torch.Tensor]:
        """rho_q(Q) and rho_k(K), (N, G, D, L) each."""
        query, key = self._embed(x, self.query, self.key)
        if self.normalisation == "softmax":
            return [query.softmax(2), key.softmax(3)]
        return [u * u.shape[3] ** -0.5 for u in (query, key)]

    def context(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        query_NGDL, key_NGDL = self._normalised(x)
        (value_NGEL,) = self._embed(x, self.value)
        with without_autocast(x):
            y_NGEL = (value_NGEL @ key_NGDL.transpose(2, 3)) @ query_NGDL
        return self.out(y_NGEL.to(x.dtype).flatten(1, 2).unflatten(2, x.shape[2:]))

    def weights(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """sum_d rho_q(Q)_id rho_k(K)_jd of position i, averaged over the heads: (N, positions)."""
        query_NGDL, key_NGDL = self._normalised(x)
        return (query_NGDL[..., position, None] * key_NGDL).sum(2).mean(1)
