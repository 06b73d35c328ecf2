"""The non-local block (Sec. 3 of "Non-local Neural Networks", Wang, Girshick, Gupta, He, CVPR 2018).

Legend of shape suffixes: N clips, C channels, T, H, W axes of the map, H', W' of the pooled map, D channels of theta
and phi, E channels of g; B = N x sets of positions that attend to each other, P queries and Q keys of such a set.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint as recomputed

from nlvideo.config import CfgNode, configurable
from nlvideo.layers.folded_dot_product import folded_dot_product, folding_pays
from nlvideo.layers.nonlocal_ops import (
    ALGORITHMS,
    choose_algorithm,
    concatenation_aggregate,
    dot_product_aggregate,
    softmax_aggregate,
)
from nlvideo.layers.norm import get_norm, start_at_zero
from nlvideo.layers.precision import accumulation_dtype, without_autocast
from nlvideo.layers.projection import Linear
from nlvideo.modeling.nonlocal_block.build import NONLOCAL
from nlvideo.modeling.nonlocal_block.maps import as_linear, convolve, max_pool_space, project_channels, project_conv
from nlvideo.modeling.nonlocal_block.positions import ATTEND, attended, fold, locate, unfold, video_size
from nlvideo.utils.messages import check_one_of

# The pairwise functions (Sec. 3.2), and the sum over the keys that each leads to.
PAIRWISE = {
    "gaussian": "softmax",
    "embedded_gaussian": "softmax",
    "dot_product": "dot_product",
    "concatenation": "concatenation",
}
# Algorithms that a block may have: those of its sum, and one that includes the projections.
BLOCK_ALGORITHMS = {
    pairwise: (*ALGORITHMS[form], "folded") if form == "dot_product" else ALGORITHMS[form]
    for pairwise, form in PAIRWISE.items()
}


@NONLOCAL.register()
class NonLocalBlock(nn.Module):
    """z_i = W_z y_i + x_i, where y_i = 1/C(x) sum_j f(x_i, x_j) g(x_j) (Eqs. 6 and 1).

    Sub-modules: ``theta``, ``phi``, ``g`` and ``out`` (W_z) are 1x1x1 convolutions with biases, ``concat`` is w_f
    (concatenation only), ``bn`` the norm after ``out``. In the Gaussian form theta and phi are the identity.

    Args:
        in_channels: channels of x.
        inner_channels: channels of theta, phi and g; None: half of ``in_channels`` (Sec. 3.3).
        dim: 1 for sequences (N, C, L), 2 for images (N, C, H, W), 3 for video (N, C, T, H, W).
        pairwise: f: "gaussian" (Eq. 2), "embedded_gaussian" (Eq. 3), "dot_product" (Eq. 4), "concatenation" (Eq. 5).
        attend: a position attends to those of its own frame ("space"), to its own place in all frames ("time"), or to
            all positions ("spacetime"); Table 2d. Only with ``dim=3``.
        temporal_groups: with g > 1, attention stays inside each of g equal runs of frames (authors' code: 4 frames in
            res3 of the 128-frame networks). Not with "space", which stays inside a frame in any case.
        subsample: keys and values come from a max-pooled map (Sec. 3.3): 1x2x2 for video, 2x2 for images, 2 for
            sequences, rounded down; an axis of length 1 is not pooled. For "time" nothing is pooled: that would mix
            places.
        pool_first: pool x, then apply phi and g (authors' code; cheaper); False: pool phi(x) and g(x) (Sec. 3.3).
        scale: the logits of both Gaussian forms are multiplied by ``inner_channels ** -0.5`` (authors' code); False:
            they are not (Eqs. 2 and 3).
        norm: norm after W_z: "BN" (Sec. 4.1), "SyncBN", "FrozenBN" or "none".
        zero_init: start as the identity (Sec. 4.1): the norm's weight is zero, or W_z where no norm trains.
        init_std: standard deviation of the convolutions' weights (authors' code: 0.01); None: He et al. (Sec. 4.1).
        algorithm: "dense", "auto", or an exact one that keeps no P x Q matrix: "fused" (all forms), "reordered"
            (dot product), "folded" (dot product, where nothing is pooled after a projection), "sorted" (concatenation).
            The attribute may be changed at any time. On a CPU, all but "dense" compute the convolutions as matrix
            products. "auto" takes "dense" where there are 32 keys or fewer.
        checkpoint: keep only x and the norm's input for backward, and compute the rest again there.

    Raises:
        ValueError: for a value that is not allowed.
    """

    @configurable
    def __init__(
        self,
        in_channels: int,
        inner_channels: int | None = None,
        *,
        dim: int = 3,
        pairwise: str = "embedded_gaussian",
        attend: str = "spacetime",
        temporal_groups: int = 1,
        subsample: bool = True,
        pool_first: bool = True,
        scale: bool = True,
        norm: str | None = "BN",
        zero_init: bool = True,
        init_std: float | None = 0.01,
        algorithm: str = "auto",
        checkpoint: bool = False,
    ):
        super().__init__()
        _check_arguments(dim, pairwise, attend, temporal_groups, algorithm)
        self.in_channels = in_channels
        self.inner_channels = inner_channels or max(1, in_channels // 2)
        self.dim, self.pairwise, self.attend, self.temporal_groups = dim, pairwise, attend, temporal_groups
        self.subsample, self.pool_first = subsample and attend != "time", pool_first
        self.scale = self.inner_channels**-0.5 if scale else 1.0
        self.algorithm, self.checkpoint = algorithm, checkpoint

        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dim - 1]
        embedded = pairwise != "gaussian"
        self.theta = conv(in_channels, self.inner_channels, 1) if embedded else nn.Identity()
        self.phi = conv(in_channels, self.inner_channels, 1) if embedded else nn.Identity()
        self.g = conv(in_channels, self.inner_channels, 1)
        if pairwise == "concatenation":
            self.concat = conv(2 * self.inner_channels, 1, 1, bias=False)
        self.out = conv(self.inner_channels, in_channels, 1)
        self.bn = get_norm(norm, in_channels, dim=dim)
        self._init_weights(zero_init, init_std)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int, stage: str = "res4") -> dict[str, Any]:
        """Constructor arguments from ``cfg.MODEL.NONLOCAL``; ``stage`` is where the block stands."""
        node = cfg.MODEL.NONLOCAL
        grouped = not node.TEMPORAL_GROUP_STAGES or stage in node.TEMPORAL_GROUP_STAGES
        return {
            "in_channels": in_channels,
            "pairwise": node.PAIRWISE,
            "attend": node.ATTEND,
            "temporal_groups": node.TEMPORAL_GROUPS if grouped else 1,
            "subsample": node.SUBSAMPLE,
            "pool_first": node.POOL_FIRST,
            "scale": node.SCALE,
            "norm": cfg.MODEL.NORM if node.NORM == "same" else node.NORM,
            "zero_init": node.ZERO_INIT,
            "init_std": node.INIT_STD or None,
            "algorithm": node.ALGORITHM,
            "checkpoint": node.CHECKPOINT,
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> (N, C, T, H, W); (N, C, H, W) or (N, C, L) likewise for ``dim`` 2 and 1.

        Raises:
            ValueError: for another number of axes or channels, or frames that do not split into the temporal groups.
        """
        self._check_map(x)
        if self.checkpoint and torch.is_grad_enabled():
            # Without the norm, which must count each batch once.
            y = recomputed(self._weighted_sum, x, use_reentrant=False, preserve_rng_state=False)
        else:
            y = self._weighted_sum(x)
        return x + self.bn(y)

    def _weighted_sum(self, x: torch.Tensor) -> torch.Tensor:
        """W_z y: (N, C, T, H, W) -> (N, C, T, H, W)."""
        lowered = x.dtype.itemsize < 4 or (x.device.type != "meta" and torch.is_autocast_enabled(x.device.type))
        if self.algorithm_for(x.shape[2:], lowered=lowered) == "folded":
            return self._folded(x)
        theta, phi, g = self._embed(x)
        theta_BPD, g_BQE = (fold(u, self.attend, self.temporal_groups) for u in (theta, g))
        # In the Gaussian form without pooling queries are keys. As one tensor they take half the work.
        phi_BQD = theta_BPD if phi is theta else fold(phi, self.attend, self.temporal_groups)
        if self.pairwise == "concatenation":
            y_BPE = concatenation_aggregate(theta_BPD[..., 0], phi_BQD[..., 0], g_BQE, algorithm=self.algorithm)
        elif self.pairwise == "dot_product":
            y_BPE = dot_product_aggregate(theta_BPD, phi_BQD, g_BQE, algorithm=self.algorithm)
        else:
            y_BPE = softmax_aggregate(theta_BPD, phi_BQD, g_BQE, scale=self.scale, algorithm=self.algorithm)
        y = unfold(y_BPE, x, self.attend, self.temporal_groups)
        return self._convolve(y, self.out, rows=not x.is_contiguous())[0]

    def _folded(self, x: torch.Tensor) -> torch.Tensor:
        """W_z y of the dot-product form by one C x C matrix per set of positions."""
        if self._pools_embeddings:
            raise ValueError("algorithm 'folded': keys are pooled after phi and g, allowed: pool_first or no subsample")
        dtype = accumulation_dtype(x, self.out.weight)
        with without_autocast(x):
            theta, phi, g, out = (
                Linear(weight.flatten(1).to(dtype), bias.to(dtype))
                for weight, bias in map(as_linear, (self.theta, self.phi, self.g, self.out))
            )
            x_BPC, keys_BQC = (fold(u.to(dtype), self.attend, self.temporal_groups) for u in (x, self._pool(x)))
            z_BPC = folded_dot_product(x_BPC, keys_BQC, theta=theta, phi=phi, g=g, out=out)
        return unfold(z_BPC, x, self.attend, self.temporal_groups).to(x.dtype)

    @torch.no_grad()
    def attention(self, x: torch.Tensor, positions: Sequence[int | Sequence[int]]) -> torch.Tensor:
        """Weights f(x_i, x_j) / C(x) of chosen query positions i over all keys j.

        Only the rows asked for are computed.

        Args:
            x: (N, C, T, H, W), or fewer axes as in ``forward``.
            positions: query positions, as (t, h, w) or as indices into the flattened map.

        Returns:
            (N, len(positions), T, H', W') on the grid of the keys, with zeros where a position does not attend.

        Raises:
            ValueError: for a position outside the map, and as in ``forward``.
        """
        self._check_map(x)
        theta, phi, _ = self._embed(x)
        flat_K = locate(positions, x.shape[2:]).to(x.device)
        mask = attended(flat_K, video_size(x), video_size(phi), self.attend, self.temporal_groups)
        mask_KQ = mask.flatten(1)
        dtype = accumulation_dtype(theta, phi)
        with without_autocast(x):
            theta_NKD = theta.flatten(2)[:, :, flat_K].transpose(1, 2).to(dtype)
            phi_NDQ = phi.flatten(2).to(dtype)
            if self.pairwise == "concatenation":
                weights_NKQ = F.relu(theta_NKD + phi_NDQ) * mask_KQ / mask_KQ.sum(1, keepdim=True)
            elif self.pairwise == "dot_product":
                weights_NKQ = theta_NKD @ phi_NDQ * mask_KQ / mask_KQ.sum(1, keepdim=True)
            else:
                logits_NKQ = theta_NKD @ phi_NDQ * self.scale
                weights_NKQ = logits_NKQ.masked_fill(~mask_KQ, float("-inf")).softmax(2)
        return weights_NKQ.unflatten(2, phi.shape[2:])

    def attention_size(self, size: Sequence[int]) -> tuple[int, int, int]:
        """For a map of these axes: sets of positions that attend to each other, and P queries and Q keys of each.

        Raises:
            ValueError: for frames that do not split into the temporal groups.
        """
        x = torch.empty(1, 1, *size, device="meta")
        query, key = (fold(u, self.attend, self.temporal_groups) for u in (x, self._pool(x)))
        return query.shape[0], query.shape[1], key.shape[1]

    def algorithm_for(self, size: Sequence[int], lowered: bool = False) -> str:
        """The algorithm that runs for a map of these axes: what "auto" stands for there.

        Args:
            size: T, H, W, or fewer axes.
            lowered: x is in half precision or autocast is on. Then the folded form is not taken: its sums are in
                float32, which is slower than projections in half precision.

        Raises:
            ValueError: for frames that do not split into the temporal groups.
        """
        if self.algorithm != "auto":
            return self.algorithm
        _, P, Q = self.attention_size(size)
        may_fold = self.pairwise == "dot_product" and not lowered and not self._pools_embeddings
        if may_fold and folding_pays(P, Q, self.in_channels, self.inner_channels):
            return "folded"
        key_dim = self.in_channels if self.pairwise == "gaussian" else self.inner_channels
        return choose_algorithm(PAIRWISE[self.pairwise], P, Q, key_dim, self.inner_channels)

    def extra_repr(self) -> str:
        """The arguments that sub-modules do not show, for ``print(model)``."""
        return (
            f"pairwise={self.pairwise}, attend={self.attend}, temporal_groups={self.temporal_groups}, "
            f"subsample={self.subsample}, pool_first={self.pool_first}, scale={self.scale:.4g}, "
            f"algorithm={self.algorithm}"
        )

    def _embed(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """theta of every position, phi and g of every (pooled) position: three maps.

        For the concatenation form theta and phi are what Eq. 5 needs of them, w_theta . theta and w_phi . phi.
        """
        x_hat = self._pool(x) if self.pool_first else x
        if self.pairwise == "concatenation":
            theta, phi = self._concatenation_terms(x, x_hat)
            (g,) = self._convolve(x_hat, self.g)
        elif self.pairwise == "gaussian":
            theta, phi = x, x_hat
            (g,) = self._convolve(x_hat, self.g)
        elif x_hat is x:
            theta, phi, g = self._convolve(x, self.theta, self.phi, self.g)
        else:
            (theta,) = self._convolve(x, self.theta)
            phi, g = self._convolve(x_hat, self.phi, self.g)
        if not self.pool_first:
            phi = phi if self.pairwise == "concatenation" else self._pool(phi)
            g = self._pool(g)
        return theta, phi, g

    def _convolve(self, x: torch.Tensor, *convs: nn.Module, rows: bool = True) -> Sequence[torch.Tensor]:
        """conv(x) of each. "dense" calls the modules: the other algorithms are compared with it."""
        return [conv(x) for conv in convs] if self.algorithm == "dense" else convolve(x, convs, rows=rows)

    def _check_map(self, x: torch.Tensor) -> None:
        if x.dim() != self.dim + 2 or x.shape[1] != self.in_channels:
            axes = ("(N, {}, L)", "(N, {}, H, W)", "(N, {}, T, H, W)")[self.dim - 1].format(self.in_channels)
            raise ValueError(f"x: expected a map {axes}, got {tuple(x.shape)}")

    @property
    def _pools_embeddings(self) -> bool:
        """Whether the max comes after phi and g, so that keys and values are not linear in x."""
        return self.subsample and not self.pool_first

    def _pool(self, u: torch.Tensor) -> torch.Tensor:
        return max_pool_space(u) if self.subsample else u

    def _concatenation_terms(self, x: torch.Tensor, x_hat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """w_theta . theta(x) and w_phi . phi(x_hat), (N, 1, T, H, W) and (N, 1, T, H', W'), in float32 or wider."""
        w_theta, w_phi = self.concat.weight.flatten().chunk(2)
        theta = project_conv(x, self.theta, w_theta)
        if self._pools_embeddings:  # the max comes between phi and w_phi, so they cannot be folded
            return theta, project_channels(self._pool(self.phi(x_hat)), w_phi)
        return theta, project_conv(x_hat, self.phi, w_phi)

    def _init_weights(self, zero_init: bool, init_std: float | None) -> None:
        for conv in self.children():
            if not isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                continue
            if init_std is None:
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            else:
                nn.init.normal_(conv.weight, std=init_std)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        if zero_init and not start_at_zero(self.bn):
            nn.init.zeros_(self.out.weight)


def _check_arguments(dim: int, pairwise: str, attend: str, temporal_groups: int, algorithm: str) -> None:
    check_one_of("dim", dim, (1, 2, 3))
    check_one_of("pairwise", pairwise, PAIRWISE)
    check_one_of(f"attend with dim={dim}", attend, ATTEND if dim == 3 else ("spacetime",))
    if temporal_groups < 1:
        raise ValueError(f"temporal_groups: got {temporal_groups}, allowed: 1 or more")
    if temporal_groups > 1 and (dim != 3 or attend == "space"):
        raise ValueError(f"temporal_groups: got {temporal_groups}, allowed: 1 with dim={dim} and attend={attend!r}")
    check_one_of(f"algorithm with pairwise={pairwise!r}", algorithm, ("auto", *BLOCK_ALGORITHMS[pairwise]))
