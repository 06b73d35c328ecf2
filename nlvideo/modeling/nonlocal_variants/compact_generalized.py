"""Compact generalized non-local: every channel of every position is a node."""

from math import exp, factorial
from typing import Any

import torch
from torch import nn

from nlvideo.config import configurable
from nlvideo.layers.precision import widened, without_autocast
from nlvideo.modeling.nonlocal_block.base import NonLocalBase
from nlvideo.modeling.nonlocal_block.build import NONLOCAL
from nlvideo.utils.messages import check_one_of

KERNELS = ("dot_product", "rbf")
# Width of the RBF kernel (authors' code).
GAMMA = 1e-4


@NONLOCAL.register()
class CompactGeneralizedNonLocal(NonLocalBase):
    """y = f(vec theta, vec phi) vec g, z = x + GN(W y) (Yue et al., "Compact Generalized Non-local", NeurIPS 2018).

    The affinity of N x d nodes with each other is a kernel whose expansion needs one scalar for each order p:
    y = sum_p alpha_p (vec(phi)^p . vec(g)) theta^p, powers by element. The dot product is p = 1 with alpha 1, and is
    exact. The RBF kernel is exp(-2 gamma) exp(2 gamma theta phi) up to order P, which is the authors' form of it.
    The channels are G groups, each with sums of its own. Costs 2 (P + 1) N d multiply-adds and O(N) memory.

    Args:
        in_channels: channels of x.
        inner_channels: d; None: half of ``in_channels``.
        groups: G.
        kernel: "dot_product" or "rbf".
        order: P of "rbf".
        scale: divide the sums by the square root of their terms (an option of the authors' code; it keeps half
            precision in range, and the norm undoes it).
        zero_init: start as the identity: the norm's weight is zero.
        init_std: standard deviation of the convolutions' weights; None: He et al.
        **common: arguments of `NonLocalBase`.

    Raises:
        ValueError: for a value that is not allowed.
    """

    no_weights = "its nodes are channels of positions, and all of them get one sum"

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        inner_channels: int | None = None,
        groups: int = 8,
        kernel: str = "dot_product",
        order: int = 3,
        scale: bool = True,
        zero_init: bool = True,
        init_std: float | None = 0.01,
        **common: Any,
    ):
        super().__init__(in_channels, **common)
        inner_channels = self.count_inside(inner_channels, in_channels // 2)
        if groups < 1 or in_channels % groups or inner_channels % groups:
            channels = f"{in_channels} channels and {inner_channels} inner channels"
            raise ValueError(f"groups: got {groups}, allowed: divisors of {channels}")
        check_one_of("kernel", kernel, KERNELS)
        if order < 1:
            raise ValueError(f"order: got {order}, allowed: 1 or more")
        self.groups, self.scale = groups, scale
        factors = [exp(-2 * GAMMA) * (2 * GAMMA) ** p / factorial(p) for p in range(order + 1)]
        #: alpha_p by p
        self.factors = dict(enumerate(factors)) if kernel == "rbf" else {1: 1.0}
        self.query, self.key, self.value = (self.conv(in_channels, inner_channels, bias=False) for _ in range(3))
        self.out = self.conv(inner_channels, in_channels, groups=groups, bias=False)
        self.bn = nn.GroupNorm(groups, in_channels)
        self.initialise(zero_init, init_std)

    def context(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        maps = (conv(x).flatten(1).unflatten(1, (self.groups, -1)) for conv in (self.query, self.key, self.value))
        with without_autocast(x):
            theta_NGM, phi_NGM, g_NGM = widened(*maps)
            factor = g_NGM.shape[2] ** -0.5 if self.scale else 1.0
            y_NGM = torch.zeros_like(theta_NGM)
            for p, alpha in self.factors.items():
                # A power of 1 would keep one more copy of the map for backward.
                phi_p, theta_p = (phi_NGM, theta_NGM) if p == 1 else (phi_NGM**p, theta_NGM**p)
                sums_NG1 = phi_p[:, :, None] @ g_NGM[..., None]
                y_NGM = y_NGM + alpha * factor * sums_NG1[..., 0] * theta_p
        return self.out(y_NGM.to(x.dtype).view(x.shape[0], -1, *x.shape[2:]))
