"""The base of all non-local blocks: z = x + bn(branch(x)), and which positions relate to each other."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recompute

from nlvideo.config import CfgNode
from nlvideo.config.configurable import constructor_arguments
from nlvideo.layers.norm import start_at_zero
from nlvideo.layers.precision import accumulation_dtype
from nlvideo.modeling.nonlocal_block.maps import CONVS, max_pool_space
from nlvideo.modeling.nonlocal_block.positions import ATTEND, fold, locate, num_groups, unfold, video_size
from nlvideo.utils.messages import check_one_of

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


class NonLocalBase(nn.Module):
    """z = x + bn(branch(x)), for maps of 1, 2 or 3 axes.

    A new block is a subclass with a constructor and ``context``. The constructor sets ``out``, the last convolution,
    and ``bn``, the norm after it. A block without ``bn`` overrides ``merge``. ``norm_after`` maps the name of a
    convolution to that of the norm after it; `fuse_for_inference` folds these norms.

    - ``context(x)`` computes the residual branch. All positions of one clip of ``x`` relate to each other. This class
      handles ``attend`` and ``temporal_groups``: it gives each frame, each place or each group of frames to ``context``
      as a clip of its own.
    - ``conv`` makes a convolution of ``dim`` axes. ``initialise`` sets the starting weights of all convolutions.
    - ``from_config`` gives the arguments that the constructor takes, by name, from ``MODEL.NONLOCAL``. Other arguments
      come from ``MODEL.NONLOCAL.ARGS``.
    - ``weights`` gives the weights of one query, for pictures. A block without them says in ``no_weights`` why.
    - A constructor passes ``**common`` on to this class.

    Args:
        in_channels: channels of x.
        dim: 1 for sequences (N, C, L), 2 for images (N, C, H, W), 3 for video (N, C, T, H, W).
        attend: positions relate to those of their own frame ("space"), to their own place in all frames ("time"), or
            to all ("spacetime"). Only with ``dim=3``.
        temporal_groups: number of equal groups of consecutive frames. Positions relate only inside their group. 1 with
            "space".
        checkpoint: save memory: keep only x and the input of the norm, and compute the rest again in the backward pass.

    Raises:
        ValueError: for a value that is not allowed.
    """

    #: values of ``dim`` that the block is defined for
    dims: tuple[int, ...] = (1, 2, 3)
    #: whether ``checkpoint`` is allowed; not where norms or statistics of ``branch`` count each batch
    recomputes = True
    #: whether ``pool`` makes the map of keys and values smaller
    subsample = False
    #: why ``weights`` has nothing to give
    no_weights = "it has no weight for a pair of positions"
    #: only in a block that has several: the name of one, such as "auto" or "dense"
    algorithm: str
    bn: nn.Module
    out: Conv
    norm_after: ClassVar = {"out": "bn"}

    def __init__(
        self,
        in_channels: int,
        *,
        dim: int = 3,
        attend: str = "spacetime",
        temporal_groups: int = 1,
        checkpoint: bool = False,
    ):
        super().__init__()
        check_one_of("dim", dim, self.dims)
        check_one_of(f"attend with dim={dim}", attend, ATTEND if dim == 3 else ("spacetime",))
        if temporal_groups < 1:
            raise ValueError(f"temporal_groups: got {temporal_groups}, allowed: 1 or more")
        if temporal_groups > 1 and (dim != 3 or attend == "space"):
            raise ValueError(f"temporal_groups: got {temporal_groups}, allowed: 1 with dim={dim} and attend={attend!r}")
        if checkpoint and not self.recomputes:
            name = type(self).__name__
            raise ValueError(f"checkpoint: got True, allowed for {name}, whose branch must run once per batch: False")
        self.in_channels, self.dim, self.attend, self.temporal_groups = in_channels, dim, attend, temporal_groups
        self.checkpoint = checkpoint

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int, stage: str = "res4") -> dict[str, Any]:
        """Constructor arguments from ``cfg.MODEL.NONLOCAL``, as far as this class takes them.

        Args:
            cfg: the whole config.
            in_channels: channels of x.
            stage: where the block stands.
        """
        node = cfg.MODEL.NONLOCAL
        grouped = not node.TEMPORAL_GROUP_STAGES or stage in node.TEMPORAL_GROUP_STAGES
        arguments = {
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
        return {name: value for name, value in arguments.items() if name in constructor_arguments(cls)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> (N, C, T, H, W); (N, C, H, W) or (N, C, L) likewise for ``dim`` 2 and 1.

        Raises:
            ValueError: for another number of axes or channels, or frames that do not split into the temporal groups.
        """
        self.check_map(x)
        if self.checkpoint and torch.is_grad_enabled():
            # Only the branch is computed again. The norm must count each batch once.
            y = recompute(self.branch, x, use_reentrant=False, preserve_rng_state=False)
        else:
            y = self.branch(x)
        return self.merge(x, y)

    def merge(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return x + bn(y), where y is the output of ``branch``."""
        return x + self.bn(y)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """The residual branch before its norm: ``context`` of each set of positions, put back on the map."""
        u = self.folded(x)
        y = self.context(u)
        if u is x:
            return y
        rows_BPD = y.expand(-1, -1, *u.shape[2:]).flatten(2).transpose(1, 2)
        return unfold(rows_BPD, x, self.attend, self.temporal_groups)

    def context(self, x: torch.Tensor) -> torch.Tensor:
        """The branch for positions that all relate to each other: (N, C, ...) -> (N, C, ...).

        An axis of the result may have length 1, if all positions along it get the same value.
        """
        raise NotImplementedError

    def folded(self, x: torch.Tensor) -> torch.Tensor:
        """The map with each set of positions as a clip: (N x sets, C, t, h, w); x itself where there is one set."""
        if self.attend == "spacetime" and self.temporal_groups == 1:
            return x
        T, H, W = video_size(x)
        frames = T // num_groups(self.attend, self.temporal_groups, T)
        size = (frames, 1, 1) if self.attend == "time" else (frames, H, W)
        return fold(x, self.attend, self.temporal_groups).transpose(1, 2).unflatten(2, size)

    def pool(self, u: torch.Tensor) -> torch.Tensor:
        """The map that keys and values come from: max-pooled over space where ``subsample`` is True."""
        return max_pool_space(u) if self.subsample else u

    @torch.no_grad()
    def attention(self, x: torch.Tensor, positions: Sequence[int | Sequence[int]]) -> torch.Tensor:
        """The weights with which chosen query positions sum the values: one for each key position.

        Args:
            x: (N, C, T, H, W), or fewer axes as in ``forward``.
            positions: query positions, as (t, h, w) or as indices into the flattened map.

        Returns:
            (N, len(positions), T, H', W') on the grid of the keys; zero for keys outside the set of the query.

        Raises:
            ValueError: for a position outside the map, or where the block has no such weights.
        """
        self.check_map(x)
        N, size = len(x), x.shape[2:]
        key_size = self.pool(torch.empty(1, 1, *size, device="meta")).shape[2:]
        flat_K = locate(positions, size).tolist()
        # Row s has the flat indices of the positions in set s, and those of its keys.
        query_SP, key_SQ = (self.folded(_numbered(lengths)).flatten(1) for lengths in (size, key_size))
        sets = self.folded(x).unflatten(0, (N, -1))
        found = x.new_zeros(N, len(flat_K), key_size.numel(), dtype=accumulation_dtype(x))
        for k, flat in enumerate(flat_K):
            s, p = (query_SP == flat).nonzero()[0].tolist()
            found[:, k, key_SQ[s]] = self.weights(sets[:, s], p).to(found.dtype)
        return found.unflatten(2, key_size)

    def weights(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """Weights of one query over all keys, for positions that all relate to each other: (N, keys).

        Args:
            x: (N, C, ...), as in ``context``.
            position: index into the flattened map.

        Raises:
            ValueError: the block has no weights.
        """
        raise ValueError(f"{type(self).__name__} cannot show where a position looks: {self.no_weights}")

    def count_inside(self, count: int | None, default: int, name: str = "inner_channels") -> int:
        """Return ``count``, a number of channels inside a block. If it is None: ``default``, but at least 1.

        Raises:
            ValueError: ``count`` is below 1.
        """
        default = max(1, default)
        if count is None:
            return default
        if count < 1:
            raise ValueError(f"{name}: got {count}, allowed: 1 or more, or None for {default}")
        return count

    def conv(self, in_channels: int, out_channels: int, kernel: int = 1, **options: Any) -> Conv:
        """A convolution over ``dim`` axes that keeps their lengths; ``options`` are those of ``nn.Conv3d``."""
        return CONVS[self.dim - 1](in_channels, out_channels, kernel, padding=kernel // 2, **options)

    def initialise(self, zero_init: bool, init_std: float | None) -> None:
        """Set the starting weights of all convolutions.

        Args:
            zero_init: start as the identity. The norm's weight is zero, or that of ``out`` if the norm does not train.
            init_std: standard deviation of the weights; None: He et al. Biases are zero.
        """
        for conv in self.modules():
            if not isinstance(conv, CONVS):
                continue
            if init_std is None:
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            else:
                nn.init.normal_(conv.weight, std=init_std)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        if zero_init and not start_at_zero(self.bn):
            nn.init.zeros_(self.out.weight)

    def check_map(self, x: torch.Tensor) -> None:
        """Raise ValueError where x is not a map of ``dim`` axes and ``in_channels`` channels."""
        if x.dim() != self.dim + 2 or x.shape[1] != self.in_channels:
            axes = ("(N, {}, L)", "(N, {}, H, W)", "(N, {}, T, H, W)")[self.dim - 1].format(self.in_channels)
            raise ValueError(f"x: expected a map {axes}, got {tuple(x.shape)}")


def _numbered(size: Sequence[int]) -> torch.Tensor:
    return torch.arange(torch.Size(size).numel()).view(1, 1, *size)
