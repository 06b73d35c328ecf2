"""Double attention: gather a few descriptors of the whole map, then distribute them."""

from typing import Any

import torch

from nlvideo.config import configurable
from nlvideo.layers.norm import get_norm
from nlvideo.layers.precision import widened, without_autocast
from nlvideo.modeling.nonlocal_block.base import NonLocalBase
from nlvideo.modeling.nonlocal_block.build import NONLOCAL


@NONLOCAL.register()
class DoubleAttention(NonLocalBase):
    """z = x + BN(W_o Z), Z = (A B^T) V (Chen et al., "A^2-Nets: Double Attention Networks", NeurIPS 2018).

    A = phi(x), (m, N), are features; B = softmax over the positions of theta(x), (n, N), gathers them to n descriptors
    A B^T; V = softmax over the n descriptors of rho(x), (n, N), gives each position its mixture. So position i sees
    position j with the weight sum_n V_ni B_nj. Costs 2 N m n multiply-adds and O(N) memory; nothing is approximated.

    Args:
        in_channels: channels of x.
        inner_channels: m; None: a quarter of ``in_channels``.
        descriptors: n; None: as many as ``inner_channels``.
        norm: norm after W_o: "BN", "SyncBN", "FrozenBN" or "none".
        zero_init: start as the identity: the norm's weight is zero, or W_o where no norm trains.
        init_std: standard deviation of the convolutions' weights; None: He et al.
        **common: arguments of `NonLocalBase`.
    """

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        inner_channels: int | None = None,
        descriptors: int | None = None,
        norm: str | None = "BN",
        zero_init: bool = True,
        init_std: float | None = 0.01,
        **common: Any,
    ):
        super().__init__(in_channels, **common)
        inner_channels = self.count_inside(inner_channels, in_channels // 4)
        self.phi = self.conv(in_channels, inner_channels)
        descriptors = self.count_inside(descriptors, inner_channels, "descriptors")
        self.theta = self.conv(in_channels, descriptors)
        self.rho = self.conv(in_channels, descriptors)
        self.out = self.conv(inner_channels, in_channels)
        self.bn = get_norm(norm, in_channels, dim=self.dim)
        self.initialise(zero_init, init_std)

    def _gather_and_distribute(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """B and V, (N, n, L) each, in float32 or wider."""
        theta, rho = widened(self.theta(x).flatten(2), self.rho(x).flatten(2))
        return theta.softmax(2), rho.softmax(1)

    def context(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        gather_NnL, distribute_NnL = self._gather_and_distribute(x)
        a_NmL = self.phi(x).flatten(2)
        with without_autocast(x):
            descriptors_Nmn = a_NmL.to(gather_NnL.dtype) @ gather_NnL.transpose(1, 2)
            z_NmL = descriptors_Nmn @ distribute_NnL
        return self.out(z_NmL.to(x.dtype).unflatten(2, x.shape[2:]))

    def weights(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """sum_n V_ni B_nj of position i: (N, positions)."""
        gather_NnL, distribute_NnL = self._gather_and_distribute(x)
        return (distribute_NnL[:, :, position, None] * gather_NnL).sum(1)
