"""The asymmetric pyramid non-local block (APNB): all positions look at a few hundred averages of the map."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from nlvideo.config import configurable
from nlvideo.layers.nonlocal_ops import softmax_aggregate
from nlvideo.layers.norm import get_norm
from nlvideo.layers.precision import widened, without_autocast
from nlvideo.modeling.nonlocal_block.build import NONLOCAL
from nlvideo.modeling.nonlocal_block.pairwise import SoftmaxBase


@NONLOCAL.register()
class AsymmetricPyramid(SoftmaxBase):
    """z = x + W softmax(s q k_S^T) v_S, q = k = ReLU(BN(W_k x)) (Zhu et al., "Asymmetric Non-local", ICCV 2019: APNB).

    k_S and v_S are averages of k and v over the S cells of a pyramid: grids of 1, 3, 6 and 8 cells along every axis, so
    S is 18 for sequences, 110 for images and 756 for video. Costs N S (d + e) multiply-adds and O(N) memory. Exact as
    the paper defines it, not as attention over all positions. v is averaged before its convolution, which is the same.

    Args:
        in_channels: channels of x.
        inner_channels: channels of q and v; None: half of ``in_channels``.
        bins: cells along an axis, of each level.
        scale: s is d ** -0.5; False: 1.
        norm: norm of q and k: "BN", "SyncBN", "FrozenBN" or "none".
        zero_init: start as the identity: W is zero.
        init_std: standard deviation of the convolutions' weights; None: He et al.
        **common: arguments of `SoftmaxBase`.

    Raises:
        ValueError: for a value that is not allowed.
    """

    recomputes = False
    norm_after: ClassVar = {"key": "key_norm"}

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        inner_channels: int | None = None,
        bins: Sequence[int] = (1, 3, 6, 8),
        scale: bool = True,
        norm: str | None = "BN",
        zero_init: bool = True,
        init_std: float | None = 0.01,
        **common: Any,
    ):
        super().__init__(in_channels, **common)
        if not bins or min(bins) < 1:
            raise ValueError(f"bins: got {list(bins)}, allowed: one number or more, each 1 or more")
        self.inner_channels = inner_channels = self.count_inside(inner_channels, in_channels // 2)
        self.bins, self.scale = tuple(bins), inner_channels**-0.5 if scale else 1.0
        self.key = self.conv(in_channels, inner_channels)
        self.key_norm = get_norm(norm, inner_channels, dim=self.dim)
        self.value = self.conv(in_channels, inner_channels)
        self.out = self.conv(inner_channels, in_channels)
        self.bn = nn.Identity()
        self.initialise(zero_init, init_std)

    def context(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        embedded = self.key_norm(self.key(x)).relu()
        query_NPD = embedded.flatten(2).transpose(1, 2)
        key_NSD = self._cells(embedded).transpose(1, 2)
        value_NSD = self.value(self._cells(x).unflatten(2, (-1, *[1] * (x.dim() - 3)))).flatten(2).transpose(1, 2)
        y_NPD = softmax_aggregate(query_NPD, key_NSD, value_NSD, scale=self.scale, algorithm=self.algorithm)
        return self.out(y_NPD.transpose(1, 2).unflatten(2, x.shape[2:]))

    def num_keys(self, u: torch.Tensor) -> int:
        """S."""
        return sum(count ** (u.dim() - 2) for count in self.bins)

    def weights(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """The weight of a cell, spread evenly over its positions: (N, positions)."""
        embedded = self.key_norm(self.key(x)).relu()
        cells_NDS = self._cells(embedded)
        weights_NS = self.softmax_of(embedded.flatten(2).transpose(1, 2), cells_NDS.transpose(1, 2), position)
        size, spread = x.shape[2:], []
        levels = weights_NS.split([count ** len(size) for count in self.bins], 1)
        for count, level in zip(self.bins, levels, strict=True):
            grid = level.unflatten(1, (count,) * len(size))
            for length in size:
                grid = torch.tensordot(grid, _shares(length, count).to(grid), dims=([1], [1]))
            spread.append(grid.flatten(1))
        return torch.stack(spread).sum(0)

    def _cells(self, u: torch.Tensor) -> torch.Tensor:
        """Averages over the cells of all levels: (N, D, ...) -> (N, D, S). A cell is that of adaptive pooling."""
        levels = []
        with without_autocast(u):
            for count in self.bins:
                (level,) = widened(u)
                for axis in range(2, u.dim()):
                    level = torch.tensordot(level, _shares(u.shape[axis], count).to(level), dims=([2], [0]))
                levels.append(level.flatten(2).to(u.dtype))
        return torch.cat(levels, 2)


def _shares(length: int, count: int) -> torch.Tensor:
    """(length, count), float64: how much each position adds to the average of each cell of an axis."""
    cell = torch.arange(count)
    first, end = cell * length // count, -(-(cell + 1) * length // count)
    position = torch.arange(length)[:, None]
    return ((position >= first) & (position < end)).double() / (end - first)
