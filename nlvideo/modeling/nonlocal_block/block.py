"""The non-local block (Sec. 3 of "Non-local Neural Networks", Wang, Girshick, Gupta, He, CVPR 2018).

Legend of shape suffixes: N clips, C channels, T, H, W axes of the map, H', W' of the pooled map, D channels of theta
and phi, E channels of g; B = N x sets of positions that attend to each other, P queries and Q keys of such a set.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from nlvideo.config import configurable
from nlvideo.layers.folded_dot_product import folded_dot_product, folding_pays
from nlvideo.layers.nonlocal_ops import (
    ALGORITHMS,
    choose_algorithm,
    concatenation_aggregate,
    dot_product_aggregate,
    softmax_aggregate,
)
from nlvideo.layers.norm import get_norm
from nlvideo.layers.precision import accumulation_dtype, without_autocast
from nlvideo.layers.projection import Linear
from nlvideo.modeling.nonlocal_block.base import NonLocalBase
from nlvideo.modeling.nonlocal_block.build import NONLOCAL
from nlvideo.modeling.nonlocal_block.maps import CONVS, as_linear, convolve, is_plain, project_channels, project_conv
from nlvideo.modeling.nonlocal_block.positions import (
    attended,
    fold,
    join_heads,
    locate,
    split_heads,
    unfold,
    video_size,
    with_offsets,
)
from nlvideo.utils.messages import check_one_of, one_of

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
class NonLocalBlock(NonLocalBase):
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
        temporal_groups: number of equal groups of consecutive frames; attention stays inside a group (authors' code:
            groups of 4 frames in res3 of the 128-frame networks). 1 with "space", which stays inside a frame.
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
            (dot product), "folded" (dot product with one head and no relative position, where nothing is pooled after
            a projection), "sorted" (concatenation).
            The attribute may be changed at any time. On a CPU, all but "dense" compute the convolutions as matrix
            products. "auto" takes "dense" where there are 32 keys or fewer.
        checkpoint: see `NonLocalBase`.
        num_heads: channels in so many groups, each with weights of its own (Vaswani et al., 2017); the scale is that
            of a group's channels. Only with theta, phi and one product of them ("embedded_gaussian", "dot_product").
        relative_position: the logits gain theta_i . (r_t + r_h + r_w), learned vectors for the offset from query to
            key along each axis (Bello et al., ICCV 2019). The number is the largest offset with a vector of its own;
            0: none. The vectors start at zero. As ``num_heads``, only with theta and phi.

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
        num_heads: int = 1,
        relative_position: int = 0,
    ):
        super().__init__(in_channels, dim=dim, attend=attend, temporal_groups=temporal_groups, checkpoint=checkpoint)
        self.inner_channels = self.count_inside(inner_channels, in_channels // 2)
        _check_arguments(pairwise, algorithm, self.inner_channels, num_heads, relative_position)
        self.pairwise, self.subsample, self.pool_first = pairwise, subsample and attend != "time", pool_first
        self.num_heads, self.algorithm = num_heads, algorithm
        self.scale = (self.inner_channels // num_heads) ** -0.5 if scale else 1.0

        conv = CONVS[dim - 1]
        embedded = pairwise != "gaussian"
        self.theta = conv(in_channels, self.inner_channels, 1) if embedded else nn.Identity()
        self.phi = conv(in_channels, self.inner_channels, 1) if embedded else nn.Identity()
        self.g = conv(in_channels, self.inner_channels, 1)
        if pairwise == "concatenation":
            self.concat = conv(2 * self.inner_channels, 1, 1, bias=False)
        self.out = conv(self.inner_channels, in_channels, 1)
        self.bn = get_norm(norm, in_channels, dim=dim)
        self.relative: nn.Parameter | None = None
        if relative_position:
            self.relative = nn.Parameter(torch.zeros(dim, 2 * relative_position + 1, self.inner_channels))
        self.initialise(zero_init, init_std)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """W_z y: (N, C, T, H, W) -> (N, C, T, H, W)."""
        lowered = x.dtype.itemsize < 4 or (x.device.type != "meta" and torch.is_autocast_enabled(x.device.type))
        if self.algorithm_for(x.shape[2:], lowered=lowered) == "folded":
            return self._folded(x)
        theta, phi, g = self._embed(x)
        theta_BPD, g_BQE = self._rows(theta), self._rows(g)
        # In the Gaussian form without pooling queries are keys. As one tensor they take half the work.
        phi_BQD = theta_BPD if phi is theta else self._rows(phi)
        if self.pairwise == "concatenation":
            y_BPE = concatenation_aggregate(theta_BPD[..., 0], phi_BQD[..., 0], g_BQE, algorithm=self.algorithm)
        elif self.pairwise == "dot_product":
            y_BPE = dot_product_aggregate(theta_BPD, phi_BQD, g_BQE, algorithm=self.algorithm)
        else:
            y_BPE = softmax_aggregate(theta_BPD, phi_BQD, g_BQE, scale=self.scale, algorithm=self.algorithm)
        y = unfold(join_heads(y_BPE, self.num_heads), x, self.attend, self.temporal_groups)
        return self._convolve(y, self.out, rows=not x.is_contiguous())[0]

    def _rows(self, u: torch.Tensor) -> torch.Tensor:
        """A map as rows (B, P, D), one row of the batch for each set of positions and head."""
        return split_heads(fold(u, self.attend, self.temporal_groups), self.num_heads)

    def _folded(self, x: torch.Tensor) -> torch.Tensor:
        """W_z y of the dot-product form by one C x C matrix per set of positions."""
        if self._pools_embeddings:
            raise ValueError("algorithm 'folded': keys are pooled after phi and g, allowed: pool_first or no subsample")
        if self.num_heads > 1 or self.relative is not None:
            raise ValueError("algorithm 'folded': allowed with one head and no relative position")
        if not self._is_plain:
            raise ValueError("algorithm 'folded': a convolution is hooked or was replaced, allowed: 'reordered'")
        dtype = accumulation_dtype(x, self.out.weight)
        with without_autocast(x):
            theta, phi, g, out = (
                Linear(weight.flatten(1).to(dtype), bias.to(dtype))
                for weight, bias in map(as_linear, (self.theta, self.phi, self.g, self.out))
            )
            x_BPC, keys_BQC = (fold(u.to(dtype), self.attend, self.temporal_groups) for u in (x, self.pool(x)))
            z_BPC = folded_dot_product(x_BPC, keys_BQC, theta=theta, phi=phi, g=g, out=out)
        return unfold(z_BPC, x, self.attend, self.temporal_groups).to(x.dtype)

    @torch.no_grad()
    def attention(self, x: torch.Tensor, positions: Sequence[int | Sequence[int]]) -> torch.Tensor:
        """Weights f(x_i, x_j) / C(x) of chosen query positions i over all keys j, averaged over the heads.

        Only the rows asked for are computed. Arguments, shapes and errors are those of `NonLocalBase.attention`.
        """
        self.check_map(x)
        theta, phi, _ = self._embed(x)
        flat_K = locate(positions, x.shape[2:]).to(x.device)
        mask = attended(flat_K, video_size(x), video_size(phi), self.attend, self.temporal_groups)
        mask_KQ = mask.flatten(1)
        dtype = accumulation_dtype(theta, phi)
        with without_autocast(x):
            heads = (self.num_heads, -1)
            theta_NGKD = theta.flatten(2)[:, :, flat_K].unflatten(1, heads).transpose(2, 3).to(dtype)
            phi_NGDQ = phi.flatten(2).unflatten(1, heads).to(dtype)
            if self.pairwise == "concatenation":
                weights_NGKQ = F.relu(theta_NGKD + phi_NGDQ) * mask_KQ / mask_KQ.sum(1, keepdim=True)
            elif self.pairwise == "dot_product":
                weights_NGKQ = theta_NGKD @ phi_NGDQ * mask_KQ / mask_KQ.sum(1, keepdim=True)
            else:
                logits_NGKQ = theta_NGKD @ phi_NGDQ * self.scale
                weights_NGKQ = logits_NGKQ.masked_fill(~mask_KQ, float("-inf")).softmax(3)
        return weights_NGKQ.mean(1).unflatten(2, phi.shape[2:])

    def attention_size(self, size: Sequence[int]) -> tuple[int, int, int]:
        """For a map of these axes: sets of positions that attend to each other, and P queries and Q keys of each.

        Raises:
            ValueError: for frames that do not split into the temporal groups.
        """
        x = torch.empty(1, 1, *size, device="meta")
        query, key = (fold(u, self.attend, self.temporal_groups) for u in (x, self.pool(x)))
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
        is_single = self.num_heads == 1 and self.relative is None
        may_fold = self.pairwise == "dot_product" and is_single and not lowered and not self._pools_embeddings
        if may_fold and self._is_plain and folding_pays(P, Q, self.in_channels, self.inner_channels):
            return "folded"
        value_dim = self.inner_channels // self.num_heads
        key_dim = self.in_channels if self.pairwise == "gaussian" else value_dim
        if self.relative is not None:
            key_dim += sum(self.pool(torch.empty(1, 1, *size, device="meta")).shape[2:])
        return choose_algorithm(PAIRWISE[self.pairwise], P, Q, key_dim, value_dim)

    def extra_repr(self) -> str:
        """The arguments that sub-modules do not show, for ``print(model)``."""
        return (
            f"pairwise={self.pairwise}, attend={self.attend}, temporal_groups={self.temporal_groups}, "
            f"subsample={self.subsample}, pool_first={self.pool_first}, scale={self.scale:.4g}, "
            f"algorithm={self.algorithm}, num_heads={self.num_heads}"
        )

    def _embed(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """theta of every position, phi and g of every (pooled) position: three maps.

        For the concatenation form theta and phi are what Eq. 5 needs of them, w_theta . theta and w_phi . phi.
        """
        x_hat = self.pool(x) if self.pool_first else x
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
            phi = phi if self.pairwise == "concatenation" else self.pool(phi)
            g = self.pool(g)
        if self.relative is not None:
            theta, phi = with_offsets(theta, phi, self.relative, self.num_heads)
        return theta, phi, g

    def _convolve(self, x: torch.Tensor, *convs: nn.Module, rows: bool = True) -> Sequence[torch.Tensor]:
        """conv(x) of each. "dense" calls the modules: the other algorithms are compared with it."""
        return [conv(x) for conv in convs] if self.algorithm == "dense" else convolve(x, convs, rows=rows)

    @property
    def _is_plain(self) -> bool:
        return all(map(is_plain, (self.theta, self.phi, self.g, self.out)))

    @property
    def _pools_embeddings(self) -> bool:
        """Whether the max comes after phi and g, so that keys and values are not linear in x."""
        return self.subsample and not self.pool_first

    def _concatenation_terms(self, x: torch.Tensor, x_hat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """w_theta . theta(x) and w_phi . phi(x_hat), (N, 1, T, H, W) and (N, 1, T, H', W'), in float32 or wider."""
        w_theta, w_phi = self.concat.weight.flatten().chunk(2)
        theta = project_conv(x, self.theta, w_theta)
        if self._pools_embeddings:  # the max comes between phi and w_phi, so they cannot be folded
            return theta, project_channels(self.pool(self.phi(x_hat)), w_phi)
        return theta, project_conv(x_hat, self.phi, w_phi)


def _check_arguments(
    pairwise: str, algorithm: str, inner_channels: int, num_heads: int, relative_position: int
) -> None:
    check_one_of("pairwise", pairwise, PAIRWISE)
    embedded = pairwise in ("embedded_gaussian", "dot_product")
    if num_heads < 1 or inner_channels % num_heads or (num_heads > 1 and not embedded):
        divisors = [n for n in range(1, inner_channels + 1) if inner_channels % n == 0] if embedded else [1]
        raise one_of(f"num_heads with pairwise={pairwise!r} and {inner_channels} inner channels", num_heads, divisors)
    if relative_position < 0 or (relative_position and not embedded):
        allowed = "0 or more" if embedded else "0"
        raise ValueError(f"relative_position with pairwise={pairwise!r}: got {relative_position}, allowed: {allowed}")
    algorithms = [a for a in BLOCK_ALGORITHMS[pairwise] if a != "folded" or (num_heads == 1 and not relative_position)]
    check_one_of(f"algorithm with pairwise={pairwise!r}", algorithm, ("auto", *algorithms))
