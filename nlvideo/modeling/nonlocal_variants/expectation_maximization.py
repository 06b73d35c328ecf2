"""Expectation-maximization attention: every clip is described by a few bases, which are found by iteration."""

from typing import Any

import torch
import torch.distributed as dist

from nlvideo.config import configurable
from nlvideo.layers.norm import get_norm
from nlvideo.layers.precision import widened, without_autocast
from nlvideo.modeling.nonlocal_block.base import NonLocalBase
from nlvideo.modeling.nonlocal_block.build import NONLOCAL
from nlvideo.utils import comm

# The authors' values: against division by zero, and the weight of the stored bases in their moving average.
EPS = 1e-6
MOMENTUM = 0.9


@NONLOCAL.register()
class ExpectationMaximization(NonLocalBase):
    """z = x + BN(W ReLU(mu Z^T)), T times Z = softmax_k(u^T mu), mu = unit(u Z / sum_i Z), u = W_u x (EMANet).

    Li et al., "Expectation-Maximization Attention Networks", ICCV 2019. mu, (d, K), are the bases of a clip, Z, (N, K),
    says how much of each a position is, and unit divides columns by their length. Costs (2 T + 1) N d K multiply-adds
    and O(N) memory; nothing is approximated. The authors' ReLU after the sum is left to the network. Weights start by
    He et al. (authors' code).

    The iteration starts from the buffer ``bases``. It has no gradient (authors' code), so W_u does not train: it keeps
    its start. A training step moves the buffer to 0.9 ``bases`` + 0.1 of the mean mu over the clips of all ranks. The
    buffer stays in ``eval()``, without gradients, and where W does not train. Recomputing the block in the backward
    pass would move it twice, so ``checkpoint`` is refused.

    Args:
        in_channels: channels of x.
        inner_channels: d; None: half of ``in_channels``.
        num_bases: K.
        iterations: T.
        norm: norm after W: "BN", "SyncBN", "FrozenBN" or "none".
        zero_init: start as the identity: the norm's weight is zero, or W where no norm trains.
        **common: arguments of `NonLocalBase`.

    Raises:
        ValueError: for a value that is not allowed.
    """

    recomputes = False
    bases: torch.Tensor

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        inner_channels: int | None = None,
        num_bases: int = 64,
        iterations: int = 3,
        norm: str | None = "BN",
        zero_init: bool = True,
        **common: Any,
    ):
        super().__init__(in_channels, **common)
        inner_channels = self.count_inside(inner_channels, in_channels // 2)
        for name, value in (("num_bases", num_bases), ("iterations", iterations)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, allowed: 1 or more")
        self.iterations = iterations
        self.features = self.conv(in_channels, inner_channels)
        self.out = self.conv(inner_channels, in_channels, bias=False)
        self.bn = get_norm(norm, in_channels, dim=self.dim)
        self.initialise(zero_init, None)
        # DistributedDataParallel waits for the gradient of each parameter that is to have one.
        self.features.requires_grad_(False)
        self.register_buffer("bases", torch.nn.functional.normalize(torch.randn(inner_channels, num_bases), dim=0))

    @torch.no_grad()
    def _iterate(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Z and Z / sum_i Z, (N, L, K) each, the lengths of the bases (N, 1, K), and the bases (N, d, K)."""
        u_NDL, bases = widened(self.features(x).flatten(2), self.bases)
        with without_autocast(x):
            for _ in range(self.iterations):
                parts_NLK = (u_NDL.transpose(1, 2) @ bases).softmax(2)
                shares_NLK = parts_NLK / (EPS + parts_NLK.sum(1, keepdim=True))
                sums_NDK = u_NDL @ shares_NLK
                lengths_N1K = EPS + sums_NDK.norm(dim=1, keepdim=True)
                bases = sums_NDK / lengths_N1K
        return parts_NLK, shares_NLK, lengths_N1K, bases

    @torch.no_grad()
    def _move_bases(self, bases_NDK: torch.Tensor) -> None:
        """The moving average, the same on every rank. Ranks may have different numbers of clips."""
        total_DK, count = bases_NDK.sum(0), bases_NDK.new_full((), len(bases_NDK))
        if comm.get_world_size() > 1:
            dist.all_reduce(total_DK)
            dist.all_reduce(count)
        self.bases.lerp_((total_DK / count).to(self.bases.dtype), 1 - MOMENTUM)

    def context(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        parts_NLK, _, _, bases_NDK = self._iterate(x)
        with without_autocast(x):
            y_NDL = bases_NDK @ parts_NLK.transpose(1, 2)
        if self.training and self.out.weight.requires_grad and torch.is_grad_enabled():
            self._move_bases(bases_NDK)
        return self.out(y_NDL.relu().to(x.dtype).unflatten(2, x.shape[2:]))

    def weights(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """sum_k Z_ik Z_jk / (sum_n Z_nk |u Z_k|), which mu Z^T sums u_j up with: (N, positions)."""
        parts_NLK, shares_NLK, lengths_N1K, _ = self._iterate(x)
        return (parts_NLK[:, None, position] / lengths_N1K * shares_NLK).sum(2)
