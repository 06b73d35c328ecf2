"""One context for all positions: the simplified non-local block and the global context block."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nlvideo.config import configurable
from nlvideo.layers.precision import accumulation_dtype, without_autocast
from nlvideo.modeling.nonlocal_block.base import Conv, NonLocalBase
from nlvideo.modeling.nonlocal_block.build import NONLOCAL
from nlvideo.modeling.nonlocal_block.maps import project_channels
from nlvideo.utils.messages import check_one_of, one_of

FUSIONS = ("add", "multiply")
POOLINGS = ("attention", "average")


class _SharedContext(NonLocalBase):
    """The parts of both: a_j = softmax_j(w_k . x_j), the same for every query, and sum_j a_j x_j."""

    mask: Conv

    def weights(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """a_j: (N, positions)."""
        assert self.mask.bias is not None
        return project_channels(x, self.mask.weight.flatten(), self.mask.bias[0]).flatten(1).softmax(1)

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        """sum_j a_j x_j: (N, C, 1, ...)."""
        a_NL = self.weights(x, 0)
        with without_autocast(x):
            pooled_NC1 = x.flatten(2).to(a_NL.dtype) @ a_NL[:, :, None]
        return pooled_NC1.to(x.dtype).view(*x.shape[:2], *[1] * (x.dim() - 2))


@NONLOCAL.register()
class SimplifiedNonLocal(_SharedContext):
    """z_i = x_i + W_v sum_j a_j x_j, a = softmax_j(w_k . x_j) (Cao et al., "GCNet", ICCVW 2019, Eq. 3).

    Every query gets the same context. Costs 2 N C + C^2 multiply-adds and O(N) memory; nothing is approximated.

    Args:
        in_channels: channels of x.
        zero_init: start as the identity: W_v is zero.
        init_std: standard deviation of the convolutions' weights; None: He et al.
        **common: arguments of `NonLocalBase`.
    """

    @configurable
    def __init__(
        self, in_channels: int, *, zero_init: bool = True, init_std: float | None = 0.01, **common: Any
    ) -> None:
        super().__init__(in_channels, **common)
        self.mask = self.conv(in_channels, 1)
        self.out = self.conv(in_channels, in_channels)
        self.bn = nn.Identity()
        self.initialise(zero_init, init_std)

    def context(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, C, 1, ...)."""
        return self.out(self.pooled(x))


@NONLOCAL.register()
class GlobalContext(_SharedContext):
    """z_i = x_i + W_2 ReLU(LN(W_1 sum_j a_j x_j)), a = softmax_j(w_k . x_j) (Cao et al., "GCNet", ICCVW 2019, Eq. 6).

    Every query gets the same context. Costs 2 N C + 2 C^2 / r multiply-adds and O(N) memory; nothing is approximated.
    With both fusions z = x sigmoid(m) + a. Weights start as in the authors' code.

    Args:
        in_channels: channels of x.
        ratio: r; W_1 has C / r outputs (authors: 16 or 4).
        fusion: "add" W_2's result to x, "multiply" x by its sigmoid, or both; each has its own W_1 and W_2.
        pooling: "attention", or "average": a_j is 1 / N.
        zero_init: W_2 is zero, so that "add" starts as the identity; "multiply" starts as x / 2 (authors' code).
        **common: arguments of `NonLocalBase`.

    Raises:
        ValueError: for a value that is not allowed.
    """

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        ratio: int = 16,
        fusion: Sequence[str] = ("add",),
        pooling: str = "attention",
        zero_init: bool = True,
        **common: Any,
    ):
        super().__init__(in_channels, **common)
        if not 1 <= ratio <= in_channels:
            raise ValueError(f"ratio: got {ratio}, allowed: 1 to {in_channels}, the channels")
        if isinstance(fusion, str) or not fusion or not set(fusion) <= set(FUSIONS):
            raise one_of("fusion", fusion, (["add"], ["multiply"], ["add", "multiply"]))
        check_one_of("pooling", pooling, POOLINGS)
        self.pooling = pooling
        if pooling == "attention":
            self.mask = self.conv(in_channels, 1)
            self.initialise(False, None)
        width = in_channels // ratio
        # Sorted, so that their order in the argument does not matter.
        self.transforms = nn.ModuleDict()
        for name in sorted(set(fusion)):
            out = nn.Linear(width, in_channels)
            if zero_init:
                nn.init.zeros_(out.weight)
                nn.init.zeros_(out.bias)
            self.transforms[name] = nn.Sequential(nn.Linear(in_channels, width), nn.LayerNorm(width), nn.ReLU(), out)

    def weights(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """a_j: (N, positions)."""
        if self.pooling == "attention":
            return super().weights(x, position)
        L = x.shape[2:].numel()
        return x.new_full((x.shape[0], L), 1 / L, dtype=accumulation_dtype(x))

    def context(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, C or 2 C, 1, ...): what each fusion takes."""
        pooled = self.pooled(x)
        terms = [transform(pooled.flatten(1)) for transform in self.transforms.values()]
        return torch.cat(terms, 1).view(x.shape[0], -1, *pooled.shape[2:])

    def merge(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """z = x * sigmoid(multiply) + add."""
        terms = dict(zip(self.transforms, y.chunk(len(self.transforms), 1), strict=True))
        z = x * terms["multiply"].sigmoid() if "multiply" in terms else x
        return z + terms["add"] if "add" in terms else z
