"""Criss-cross attention: a position looks along the axes through it, twice."""

from typing import Any

import torch
from torch import nn

from nlvideo.config import configurable
from nlvideo.layers.precision import accumulation_dtype, without_autocast
from nlvideo.modeling.nonlocal_block.base import NonLocalBase
from nlvideo.modeling.nonlocal_block.build import NONLOCAL


@NONLOCAL.register()
class CrissCross(NonLocalBase):
    """u <- u + gamma sum_j softmax_j(q_i . k_j) v_j, several times (Huang et al., "CCNet", ICCV 2019; TPAMI: video).

    The keys of a position are those in its row, its column and its place in the other frames, itself once: one softmax
    over T + H + W - 2 of them. After two passes of the same weights (three for video) all positions have reached each
    other. A pass costs N (T + H + W)(d + C) multiply-adds and N (T + H + W) logits; nothing is approximated in it, but
    it is not the attention over all positions. For sequences it is.

    Args:
        in_channels: channels of x.
        inner_channels: d, of q and k; None: an eighth of ``in_channels``. The values have ``in_channels``.
        recurrence: passes.
        zero_init: start as the identity: gamma is 0, else 1.
        init_std: standard deviation of the convolutions' weights; None: He et al.
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
        recurrence: int = 2,
        zero_init: bool = True,
        init_std: float | None = 0.01,
        **common: Any,
    ):
        super().__init__(in_channels, **common)
        if recurrence < 1:
            raise ValueError(f"recurrence: got {recurrence}, allowed: 1 or more")
        self.recurrence = recurrence
        inner_channels = self.count_inside(inner_channels, in_channels // 8)
        self.query = self.conv(in_channels, inner_channels)
        self.key = self.conv(in_channels, inner_channels)
        self.value = self.conv(in_channels, in_channels)
        self.initialise(False, init_std)
        self.gamma = nn.Parameter(torch.full((1,), float(not zero_init)))

    def context(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of what all passes add: (N, C, ...) -> (N, C, ...)."""
        y = self.gamma * self._pass(x)
        for _ in range(self.recurrence - 1):
            y = y + self.gamma * self._pass(x + y)
        return y

    def merge(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x + y: there is no norm."""
        return x + y

    def _pass(self, u: torch.Tensor) -> torch.Tensor:
        value = self.value(u)
        weights = self._weights(u)
        axes = "thw"[: u.dim() - 2]
        with without_autocast(u):
            parts = [
                torch.einsum(f"n{axes}k,nc{axes.replace(name, 'k')}->nc{axes}", weight, value.to(weight.dtype))
                for name, weight in zip(axes, weights, strict=True)
            ]
        return sum(parts[1:], parts[0]).to(u.dtype)

    def _weights(self, u: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """For each axis the weights of every position along it: (N, T, H, W, length of the axis)."""
        query, key = self.query(u), self.key(u)
        dtype = accumulation_dtype(query)
        axes, lengths = "thw"[: u.dim() - 2], u.shape[2:]
        logits = []
        with without_autocast(u):
            for axis, (name, length) in enumerate(zip(axes, lengths, strict=True)):
                equation = f"nd{axes},nd{axes.replace(name, 'k')}->n{axes}k"
                logits_k = torch.einsum(equation, query.to(dtype), key.to(dtype))
                if axis < len(axes) - 1:  # a position is its own key along the last axis only
                    own = torch.eye(length, dtype=torch.bool, device=u.device)
                    shape = [length if i in (axis, len(axes)) else 1 for i in range(len(axes) + 1)]
                    logits_k = logits_k.masked_fill(own.view(shape), float("-inf"))
                logits.append(logits_k)
            return torch.cat(logits, -1).softmax(-1).split(list(lengths), -1)

    def weights(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """Weights of the first pass: (N, positions)."""
        cells = torch.zeros(x.shape[2:], dtype=torch.bool)
        cells.view(-1)[position] = True
        place = cells.nonzero()[0].tolist()
        shown = x.new_zeros(len(x), *x.shape[2:], dtype=accumulation_dtype(x))
        own = (slice(None), *place)
        for axis, weight in enumerate(self._weights(x)):
            line = (*own[: axis + 1], slice(None), *own[axis + 2 :])
            shown[line] += weight[own]
        return shown.flatten(1)
