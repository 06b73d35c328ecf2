"""Attention over all axes in steps, each along some of them: axial, and divided into time and space."""

from typing import Any

import torch
from torch import nn

from nlvideo.config import configurable
from nlvideo.layers.precision import accumulation_dtype
from nlvideo.modeling.nonlocal_block.base import NonLocalBase
from nlvideo.modeling.nonlocal_block.block import NonLocalBlock
from nlvideo.modeling.nonlocal_block.build import NONLOCAL
from nlvideo.modeling.nonlocal_block.positions import video_size


class _Steps(NonLocalBase):
    """Non-local blocks on maps (N, C, T, H, W) with one axis in the place of time, one after another."""

    #: for each step the axis in the place of time, from 2 for T to 4 for W, and ``attend`` of its block
    plan: tuple[tuple[int, str], ...]

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        inner_channels: int | None = None,
        pairwise: str = "embedded_gaussian",
        num_heads: int = 1,
        scale: bool = True,
        norm: str | None = "BN",
        zero_init: bool = True,
        init_std: float | None = 0.01,
        algorithm: str = "auto",
        checkpoint: bool = False,
        **common: Any,
    ):
        super().__init__(in_channels, **common)
        # An axis that a map does not have has no step.
        self.plan = tuple((axis, attend) for axis, attend in self.plan if axis >= 5 - self.dim)
        self.steps = nn.ModuleList(
            NonLocalBlock(
                in_channels,
                inner_channels,
                pairwise=pairwise,
                attend=attend,
                subsample=False,
                scale=scale,
                norm=norm,
                zero_init=zero_init,
                init_std=init_std,
                algorithm=algorithm,
                checkpoint=checkpoint,
                num_heads=num_heads,
            )
            for _, attend in self.plan
        )

    def context(self, x: torch.Tensor) -> torch.Tensor:
        """z, which all steps make of x: (N, C, ...) -> (N, C, ...)."""
        return self._maps(x)[-1].reshape(x.shape)

    def merge(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """y, in which x is a term already."""
        return y

    def _maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x as a video, and what each step makes of it."""
        maps = [x.reshape(*x.shape[:2], *video_size(x))]
        for (axis, _), step in zip(self.plan, self.steps, strict=True):
            maps.append(step(maps[-1].transpose(2, axis)).transpose(2, axis))
        return maps

    def weights(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """The product of the weights of all steps, without the residual paths: (N, positions)."""
        maps = self._maps(x)[:-1]
        shown = x.new_zeros(x.shape[0], 1, *maps[0].shape[2:], dtype=accumulation_dtype(x))
        shown.flatten(1)[:, position] = 1
        for (axis, _), step, u in reversed(list(zip(self.plan, self.steps, maps, strict=True))):
            assert isinstance(step, NonLocalBlock)
            u, shown_L = u.transpose(2, axis), shown.transpose(2, axis).flatten(1)
            queries = shown_L.any(0).nonzero()[:, 0].tolist()
            keys_KL = step.attention(u, queries).flatten(2).to(shown.dtype)
            shown = (shown_L[:, None, queries] @ keys_KL).unflatten(2, u.shape[2:]).transpose(2, axis)
        return shown.flatten(1)


@NONLOCAL.register()
class AxialNonLocal(_Steps):
    """x <- x + NL_H(x), then likewise W, then T: each position looks along one axis at a time.

    Wang et al., "Axial-DeepLab", ECCV 2020, and Ho et al., "Axial Attention", 2019, as blocks of the non-local paper: a
    step is a `NonLocalBlock` with weights of its own, and its keys are not pooled. After all steps each position has
    reached all others. Costs N (H + W + T)(d + e) multiply-adds and O(N) memory. A step is exact; together they are
    not attention over all positions, but for sequences, which have one axis.

    Args:
        in_channels: channels of x.
        inner_channels: as the others below, of each step's `NonLocalBlock`.
        pairwise: f.
        num_heads: groups of channels with weights of their own.
        scale: softmax logits times d ** -0.5.
        norm: norm after each step.
        zero_init: start as the identity.
        init_std: standard deviation of the convolutions' weights; None: He et al.
        algorithm: of each step.
        checkpoint: each step keeps only its input and that of its norm for backward.
        **common: arguments of `NonLocalBase`.

    Raises:
        ValueError: for a value that is not allowed.
    """

    plan = ((3, "time"), (4, "time"), (2, "time"))


@NONLOCAL.register()
class DividedSpaceTime(_Steps):
    """x <- x + NL_T(x), then x + NL_HW(x): time at the same place, then space in the same frame.

    Bertasius et al., "Is Space-Time Attention All You Need?", ICML 2021 (TimeSformer's divided attention), as blocks of
    the non-local paper: a step is a `NonLocalBlock` with weights of its own, and its keys are not pooled. Costs
    N (T + H W)(d + e) multiply-adds and O(N) memory. A step is exact; together they are not attention over all
    positions. The arguments are those of `AxialNonLocal`.
    """

    dims = (3,)
    plan = ((2, "time"), (2, "space"))
