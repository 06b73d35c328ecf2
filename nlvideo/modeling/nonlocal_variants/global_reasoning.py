"""Global reasoning (GloRe): positions become a few nodes, a graph convolution relates the nodes."""

from typing import Any

import torch
from torch import nn

from nlvideo.config import configurable
from nlvideo.layers.norm import get_norm
from nlvideo.layers.precision import widened, without_autocast
from nlvideo.modeling.nonlocal_block.base import NonLocalBase
from nlvideo.modeling.nonlocal_block.build import NONLOCAL


@NONLOCAL.register()
class GlobalReasoning(NonLocalBase):
    """z = x + BN(W_o V' B), V' = W ReLU(V + V A), V = S B^T / N.

    Chen et al., "Graph-Based Global Reasoning Networks", CVPR 2019: GloRe. S = W_s x, (2 m, N), are states.
    B = W_b x, (m, N), gathers them to m nodes, and gives the nodes back. Between the two, a graph convolution mixes the
    nodes (A, with a bias), then their states (W). Costs 4 N m^2 + 6 m^3 multiply-adds and O(N) memory; nothing is
    approximated. Weights start by He et al.

    Args:
        in_channels: channels of x.
        nodes: m; None: a quarter of ``in_channels`` (authors' code).
        scale: divide by N, as the authors advise for maps of several sizes; False: do not.
        norm: norm after W_o: "BN", "SyncBN", "FrozenBN" or "none".
        zero_init: start as the identity: the norm's weight is zero, or W_o where no norm trains.
        **common: arguments of `NonLocalBase`.

    Raises:
        ValueError: for a value that is not allowed.
    """

    no_weights = "its nodes pass a ReLU on the way from one position to another"

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        nodes: int | None = None,
        scale: bool = True,
        norm: str | None = "BN",
        zero_init: bool = True,
        **common: Any,
    ):
        super().__init__(in_channels, **common)
        nodes = self.count_inside(nodes, in_channels // 4, "nodes")
        self.scale = scale
        self.state = self.conv(in_channels, 2 * nodes)
        self.assign = self.conv(in_channels, nodes)
        self.mix_nodes = nn.Conv1d(nodes, nodes, 1)
        self.mix_states = nn.Conv1d(2 * nodes, 2 * nodes, 1, bias=False)
        self.out = self.conv(2 * nodes, in_channels, bias=False)
        self.bn = get_norm(norm, in_channels, dim=self.dim)
        self.initialise(zero_init, None)

    def context(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        state_NSL, assign_NML = widened(self.state(x).flatten(2), self.assign(x).flatten(2))
        with without_autocast(x):
            nodes_NSM = state_NSL @ assign_NML.transpose(1, 2)
        nodes_NSM = (nodes_NSM / state_NSL.shape[2] if self.scale else nodes_NSM).to(x.dtype)
        mixed_NSM = nodes_NSM + self.mix_nodes(nodes_NSM.transpose(1, 2)).transpose(1, 2)
        mixed_NSM = self.mix_states(mixed_NSM.relu())
        with without_autocast(x):
            y_NSL = mixed_NSM.to(assign_NML.dtype) @ assign_NML
        return self.out(y_NSL.to(x.dtype).unflatten(2, x.shape[2:]))
