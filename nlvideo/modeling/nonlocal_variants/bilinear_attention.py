"""The bilinear attentional transform (BAT): rows and columns of the map are mixed by matrices made from the map."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nlvideo.config import configurable
from nlvideo.layers.norm import get_norm
from nlvideo.layers.precision import accumulation_dtype, without_autocast
from nlvideo.modeling.nonlocal_block.base import NonLocalBase
from nlvideo.modeling.nonlocal_block.build import NONLOCAL
from nlvideo.modeling.nonlocal_block.maps import CONVS
from nlvideo.modeling.nonlocal_block.positions import video_size
from nlvideo.utils.messages import check_one_of


@NONLOCAL.register()
class BilinearAttentionTransform(NonLocalBase):
    """z = x + f_3(f_2(P u Q)), u = f_1(x) (Chi et al., "Grouped Bilinear Attentional Transforms", CVPR 2020: BAT).

    Each f is ReLU(BN(W .)). P (H x H) mixes the rows of a frame and Q (W x W) its columns, for each of G groups of
    channels; then R (T x T), where there is one, mixes the frames. A map of G channels, max-pooled to s cells of rows,
    gives s x s logits of P, which weigh the positions at the same place in their cells; all other weights are 0.
    Likewise Q, and R by averages. Rows of P and R and columns of Q sum to 1. Costs N (H + W + T) C / r multiply-adds
    and O(N) memory; nothing is approximated. Cells are those of adaptive pooling, so any length will do; with multiples
    of s they are the authors'. As in their code, the block does not start as the identity.

    Args:
        in_channels: channels of x.
        ratio: r; u has C / r channels (authors: 2; timm: 4).
        groups: G.
        size: s.
        frames: cells of frames; 0: there is no R.
        normalisation: weights are the "softmax" of the logits, or their "sigmoid" divided by its sum (timm).
        dropout: probability that a channel of a clip adds nothing in training.
        norm: "BN", "SyncBN", "FrozenBN" or "none".
        init_std: standard deviation of the convolutions' weights; None: He et al.
        **common: arguments of `NonLocalBase`.

    Raises:
        ValueError: for a value that is not allowed.
    """

    dims = (2, 3)
    recomputes = False

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        ratio: int = 2,
        groups: int = 4,
        size: int = 7,
        frames: int = 0,
        normalisation: str = "softmax",
        dropout: float = 0.2,
        norm: str | None = "BN",
        init_std: float | None = 0.01,
        **common: Any,
    ):
        super().__init__(in_channels, **common)
        check_one_of("normalisation", normalisation, ("softmax", "sigmoid"))
        if not 1 <= ratio <= in_channels:
            raise ValueError(f"ratio: got {ratio}, allowed: 1 to {in_channels}, the channels")
        inner_channels = in_channels // ratio
        if groups < 1 or inner_channels % groups:
            raise ValueError(f"groups: got {groups}, allowed: divisors of {inner_channels} inner channels")
        for name, value, least in (("size", size, 1), ("frames", frames, 0)):
            if value < least:
                raise ValueError(f"{name}: got {value}, allowed: {least} or more")
        self.groups, self.size, self.frames, self.normalisation = groups, size, frames, normalisation
        self.reduce = self._unit(in_channels, inner_channels, norm)
        self.gather = self._unit(inner_channels, groups, norm)
        # Convolutions over the frames of all cells of a frame, of kernel size 1.
        self.rows, self.columns = (CONVS[0](groups * size, groups * size**2, 1) for _ in range(2))
        self.times = CONVS[0](groups * frames, frames**2, 1) if frames else None
        self.mix = self._unit(inner_channels, inner_channels, norm)
        self.out = self.conv(inner_channels, in_channels)
        self.bn = get_norm(norm, in_channels, dim=self.dim)
        self.drop = (nn.Dropout2d, nn.Dropout3d)[self.dim - 2](dropout)
        self.initialise(False, init_std)

    def _unit(self, in_channels: int, out_channels: int, norm: str | None) -> nn.Sequential:
        return nn.Sequential(
            self.conv(in_channels, out_channels), get_norm(norm, out_channels, dim=self.dim), nn.ReLU()
        )

    def context(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        u = self.reduce(x)
        P, Q, R = self._matrices(u)
        with without_autocast(x):
            y = u.reshape(u.shape[0], self.groups, -1, *video_size(u)).to(P.dtype)
            y = torch.einsum("ngthk,ngctkw->ngcthw", P, y)
            y = torch.einsum("ngctkh,ngthw->ngctkw", y, Q)
            if self.frames:
                y = torch.einsum("nts,ngcshw->ngcthw", R, y)
        return self.out(self.mix(y.to(u.dtype).reshape(u.shape)))

    def merge(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x + dropout(ReLU(BN(y)))."""
        return x + self.drop(self.bn(y).relu())

    def weights(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """R_tt' P_hh' Q_w'w of one position, in the mean over the groups: (N, positions)."""
        P, Q, R = self._matrices(self.reduce(x))
        _, H, W = video_size(x)
        t, h, w = position // (H * W), position // W % H, position % W
        return torch.einsum("nt,ngth,ngtw->nthw", R[:, t], P[..., h, :], Q[..., w]).flatten(1) / self.groups

    def _matrices(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """P (N, G, T, H, H), Q (N, G, T, W, W), and R (N, T, T), which is the identity where there is none."""
        T, H, W = video_size(u)
        seen = self.gather(u).reshape(u.shape[0], self.groups, T, H, W)
        P = self._matrix(self.rows, seen.amax(4), self.size, torch.amax, -1)
        Q = self._matrix(self.columns, seen.amax(3), self.size, torch.amax, -2)
        if self.times is None:
            return P, Q, torch.eye(T, dtype=P.dtype, device=P.device).expand(u.shape[0], T, T)
        return P, Q, self._matrix(self.times, seen.mean((3, 4))[:, :, None], self.frames, torch.mean, -1)[:, 0, 0]

    def _matrix(
        self, layer: nn.Module, lines: torch.Tensor, count: int, reduce: Callable[..., torch.Tensor], summed: int
    ) -> torch.Tensor:
        """(N, G, T, L) of an axis of length L -> (N, G, T, L, L), whose sums along the axis ``summed`` are 1."""
        L = lines.shape[3]
        cells = [reduce(lines[..., a * L // count : -(-(a + 1) * L // count)], 3) for a in range(count)]
        logits = layer(torch.stack(cells, 2).flatten(1, 2)).unflatten(1, (-1, count, count)).permute(0, 1, 4, 2, 3)
        place = torch.arange(L, device=lines.device)
        cell = place * count // L
        place = place - (cell * L + count - 1) // count  # from the first position of its cell
        logits = logits[..., cell[:, None], cell].to(accumulation_dtype(lines))
        logits = F.logsigmoid(logits) if self.normalisation == "sigmoid" else logits
        return logits.masked_fill(place[:, None] != place, float("-inf")).softmax(summed)
