"""A network whose maps can be computed by hand, and maps with chosen weights."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from nlvideo.modeling import NonLocalBlock
from nlvideo.visualization import AttentionMaps
from nlvideo.visualization.grid import Grid


class PoolNet(nn.Module):
    """Pixels averaged over (2, 4, 4), a non-local block on that, and a mean."""

    def __init__(self, block: nn.Module, pool: tuple[int, int, int] = (2, 4, 4)):
        super().__init__()
        self.pool, self.nl = nn.AvgPool3d(pool), block

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return self.nl(self.pool(video)).mean((2, 3, 4))


@pytest.fixture()
def pool_net() -> Callable[..., nn.Module]:
    """``pool_net(pairwise="gaussian", pool=(2, 4, 4), **block)``: a ``PoolNet`` whose block does something."""

    def build(pairwise: str = "gaussian", pool: tuple[int, int, int] = (2, 4, 4), **block: object) -> nn.Module:
        torch.manual_seed(0)
        arguments = {"inner_channels": 2, "norm": "none", "zero_init": False, "init_std": None, **block}
        return PoolNet(NonLocalBlock(3, pairwise=pairwise, **arguments), pool)

    return build


@pytest.fixture()
def clip() -> torch.Tensor:
    """uint8 (3, 8, 32, 48) of noise."""
    return torch.randint(0, 256, (3, 8, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture()
def make_maps() -> Callable[..., AttentionMaps]:
    """``make_maps(weights (K, T', H', W'), positions, clip=(4, 16, 16), frames=None)``: of stride 4."""

    def build(weights, positions, clip=(4, 16, 16), frames=None) -> AttentionMaps:
        weights = torch.as_tensor(weights, dtype=torch.float32)
        T, H, W = clip
        size = tuple(weights.shape[1:])
        return AttentionMaps(
            block="res2.0", pairwise="dot_product", positions=torch.tensor(positions, dtype=torch.float32),
            weights=weights, frames=np.full((*clip, 3), 100, np.uint8) if frames is None else frames,
            queries=Grid((T, H // 4, W // 4), (1.0, 4.0, 4.0), clip),
            keys=Grid(size, tuple(a / b for a, b in zip(clip, size)), clip),
        )  # fmt: skip

    return build
