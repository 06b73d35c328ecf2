"""The spectral non-local block: a graph filter of first order on the graph of all positions."""

from typing import Any

import torch

from nlvideo.config import configurable
from nlvideo.layers.norm import get_norm
from nlvideo.layers.precision import widened, without_autocast
from nlvideo.modeling.nonlocal_block.base import NonLocalBase
from nlvideo.modeling.nonlocal_block.build import NONLOCAL


@NONLOCAL.register()
class SpectralNonLocal(NonLocalBase):
    """z = x + ReLU(BN(G W_1 + A G W_2)), G = W_g x (Zhu et al., "Unifying Nonlocal Blocks", ICCV 2021: SNL).

    A = D^-1/2 (T P^T + P T^T) D^-1/2 / 2, T = ReLU(W_theta x), P = ReLU(W_phi x), is symmetric; D has the sums of the
    rows of the affinity between. A row whose sum is 0 stays 0. Affinities are products of T and P, so the sums are
    reordered and no N x N matrix is made: 4 N d^2 multiply-adds and O(N) memory, and nothing is approximated. No
    convolution has a bias. Weights start by He et al. (authors' code).

    Args:
        in_channels: channels of x.
        inner_channels: d, of T, P and G; None: half of ``in_channels``.
        norm: norm before the ReLU: "BN", "SyncBN", "FrozenBN" or "none".
        zero_init: start as the identity: the norm's weight is zero, or W_1 and W_2 where no norm trains.
        **common: arguments of `NonLocalBase`.
    """

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        inner_channels: int | None = None,
        norm: str | None = "BN",
        zero_init: bool = True,
        **common: Any,
    ):
        super().__init__(in_channels, **common)
        inner_channels = self.count_inside(inner_channels, in_channels // 2)
        self.theta, self.phi, self.g = (self.conv(in_channels, inner_channels, bias=False) for _ in range(3))
        # W_1 and W_2 side by side, for G and A G as one map.
        self.out = self.conv(2 * inner_channels, in_channels, bias=False)
        self.bn = get_norm(norm, in_channels, dim=self.dim)
        self.initialise(zero_init, None)

    def _graph(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """T and P as they are in A, divided by the square roots of the sums: (N, d, L) each, in float32 or wider."""
        theta, phi = widened(self.theta(x).relu().flatten(2), self.phi(x).relu().flatten(2))
        sums_N1L = (theta * phi.sum(2, keepdim=True) + phi * theta.sum(2, keepdim=True)).sum(1, keepdim=True) / 2
        factor_N1L = torch.where(sums_N1L > 0, sums_N1L, 1).rsqrt()
        return theta * factor_N1L, phi * factor_N1L

    def context(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        g_NEL = self.g(x).flatten(2)
        with without_autocast(x):
            theta_NDL, phi_NDL = self._graph(x)
            wide_NEL = g_NEL.to(theta_NDL.dtype)
            filtered_NEL = (wide_NEL @ phi_NDL.transpose(1, 2)) @ theta_NDL
            filtered_NEL = (filtered_NEL + (wide_NEL @ theta_NDL.transpose(1, 2)) @ phi_NDL) / 2
        both = torch.cat([g_NEL, filtered_NEL.to(g_NEL.dtype)], 1)
        return self.out(both.unflatten(2, x.shape[2:]))

    def merge(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x + ReLU(BN(y)). ``relu`` has the gradient 0 at 0, and would keep a norm that starts at zero there."""
        return x + torch.maximum(self.bn(y), y.new_zeros(()))

    def weights(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """A_ij of position i: (N, positions)."""
        theta_NDL, phi_NDL = self._graph(x)
        row_N2L = theta_NDL[..., position, None] * phi_NDL + phi_NDL[..., position, None] * theta_NDL
        return row_N2L.sum(1) / 2
