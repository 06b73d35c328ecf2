"""ResNets for video: C2D, the inflated I3D styles and Slow, with optional non-local blocks (Table 1, Sec. 4)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from nlvideo.config import CfgNode, configurable
from nlvideo.config.configurable import build_registered
from nlvideo.layers.blocks import BasicBlock3d, Bottleneck3d, ShapeSpec, conv3d
from nlvideo.layers.norm import freeze_norms, get_norm
from nlvideo.modeling.backbone.layout import (
    BASIC_DEPTHS,
    NUM_BLOCKS,
    STAGES,
    STEMS,
    TEMPORAL_KERNELS,
    Pool,
    StemLayout,
    inflated_blocks,
    scale_channels,
    stage_channels,
)
from nlvideo.modeling.nonlocal_block.block import NonLocalBlock
from nlvideo.modeling.nonlocal_block.build import build_nonlocal_block, nonlocal_placement
from nlvideo.utils.messages import check_one_of
from nlvideo.utils.registry import Registry

BACKBONE = Registry(
    "BACKBONE",
    """Networks that turn clips into feature maps.

    Called as ``cls(cfg, input_shape: ShapeSpec, **args)``; ``args`` are the pairs of ``MODEL.BACKBONE.ARGS``. Returns
    an ``nn.Module`` with ``forward(video: float (N, C, T, H, W)) -> dict[str, Tensor]``, maps (N, C', T', H', W') by
    name in the order of the network, and ``output_shape() -> dict[str, ShapeSpec]`` with the same names. The head reads
    the last one. The backbone inserts the blocks of ``NONLOCAL`` where ``nonlocal_placement`` says.

    What freezes stages or gives each its own learning rate also needs ``stages() -> dict[str, list[nn.Module]]``: the
    modules of each stage, from the stem on. Together they hold every parameter of the backbone.
    """,
)


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> nn.Module:
    """The backbone that ``cfg.MODEL.BACKBONE.NAME`` names.

    Args:
        cfg: the whole config.
        input_shape: of the clips; None: RGB video.

    Raises:
        KeyError: the name is not registered.
        ValueError: a value of the config that the backbone does not allow.
    """
    shape = input_shape or ShapeSpec(channels=3)
    # The head reads the last feature, and `SlowFast` alone has lateral connections.
    return build_registered(BACKBONE, cfg, "MODEL.BACKBONE", shape, reserved=("out_features", "lateral_channels"))


def freeze_stages(backbone: nn.Module, count: int) -> None:
    """Keep the first `count` stages of a backbone, with the non-local blocks in them, from training.

    Raises:
        ValueError: more stages than it has.
    """
    stages = backbone.stages()  # type: ignore[operator]
    check_one_of("freeze_at", count, range(len(stages) + 1))
    for module in [module for modules in list(stages.values())[:count] for module in modules]:
        freeze_norms(module)
        module.requires_grad_(False)


def _max_pool(pool: Pool) -> nn.Module:
    if pool.kernel == pool.stride == (1, 1, 1):
        return nn.Identity()
    return nn.MaxPool3d(pool.kernel, pool.stride, pool.padding)


def _block_factory(depth: int, stride_in_1x1: bool, **keywords: Any) -> Callable[..., nn.Module]:
    if depth not in BASIC_DEPTHS:
        return partial(Bottleneck3d, stride_in_1x1=stride_in_1x1, **keywords)
    if stride_in_1x1:
        raise ValueError(f"stride_in_1x1: got True, but the basic blocks of depth {depth} have no 1x1 convolution")
    return partial(BasicBlock3d, **keywords)


def _temporal_kernels(stage: str, num_blocks: int, depth: int, temporal: str, most: int) -> list[tuple[int, int]]:
    bottleneck, basic = TEMPORAL_KERNELS[temporal]
    inflated = basic if depth in BASIC_DEPTHS else bottleneck
    chosen = inflated_blocks(stage, num_blocks, temporal)
    return [inflated if chosen[index] and index < (most or num_blocks) else (1, 1) for index in range(num_blocks)]


class Stem(nn.Module):
    """The first convolution, its norm, ReLU and pool1.

    Args:
        layout: one of `STEMS`.
        temporal: a style of `TEMPORAL_KERNELS`.
        in_channels: channels of the video.
        out_channels: channels of the output.
        norm: a name that `get_norm` knows.
    """

    norm_after: ClassVar = {"conv": "bn"}

    def __init__(
        self, layout: StemLayout, temporal: str, in_channels: int, out_channels: int, norm: str | None
    ) -> None:
        super().__init__()
        self.conv = conv3d(in_channels, out_channels, layout.conv_kernel(temporal), layout.conv_stride)
        self.bn = get_norm(norm, out_channels)
        self.pool1 = _max_pool(layout.pool1)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> (N, out_channels, T', H', W'), strided as the layout says."""
        return self.pool1(F.relu(self.bn(self.conv(video)), inplace=True))


class Stage(nn.Module):
    """Residual blocks ``0``, ``1``, ... and a non-local block ``nl<i>`` after block ``i`` where there is one.

    Args:
        blocks: the residual blocks.
        nonlocal_blocks: index of a residual block -> the module after it.

    Raises:
        ValueError: an index without a residual block.
    """

    def __init__(self, blocks: Sequence[nn.Module], nonlocal_blocks: Mapping[int, nn.Module]) -> None:
        super().__init__()
        for index in nonlocal_blocks:
            check_one_of("residual block of a non-local block", index, range(len(blocks)))
        for index, block in enumerate(blocks):
            self.add_module(str(index), block)
            if index in nonlocal_blocks:
                self.add_module(f"nl{index}", nonlocal_blocks[index])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> (N, C', T, H', W')."""
        # Not children(): it gives a module in two places, such as a shared non-local block, only once.
        for block in self._modules.values():
            assert block is not None
            x = block(x)
        return x


@BACKBONE.register()
class ResNet3d(nn.Module):
    """ResNet over clips. Sub-modules ``stem``, ``res2``, ``pool2``, ``res3``, ``res4``, ``res5``, in this order.

    Args:
        depth: 10, 18 (basic blocks), 50, 101 or 152 (bottlenecks).
        temporal: "c2d", "i3d_3x1x1" or "i3d_3x3x3" (Sec. 4), "i3d_3x1x1_all" (in every block) or "slow" (in res4 and
            res5 alone). A basic block has no 1x1 convolution to inflate: all styles inflate its first 3x3.
        stem: a name in `STEMS`.
        width: factor on every channel count, rounded to a multiple of 8.
        in_channels: channels of the video.
        norm: a name that `get_norm` knows.
        stride_in_1x1: put a bottleneck's stride into its first 1x1 (MSRA's weights) and not its 3x3 (authors' code).
        zero_init_residual: start the last norm of each residual branch with zero weight (authors' BN_INIT_GAMMA 0).
        freeze_at: how many of stem, res2, ... res5 do not train, with the non-local blocks in them.
        nonlocal_places: stage -> residual blocks that get a non-local block after them.
        make_nonlocal: called ``(channels, stage)`` for each of these places; None: a `NonLocalBlock` with its defaults.
        out_features: stages that `forward` returns.
        temporal_blocks: residual blocks of a stage, counted from its first, that may hold a temporal kernel; 0: all.
        lateral_channels: stage -> channels that it reads besides those of the stage before; see `SlowFast`.

    Raises:
        ValueError: an argument outside of what is allowed.
    """

    @configurable
    def __init__(
        self,
        *,
        depth: int = 50,
        temporal: str = "c2d",
        stem: str = "paper",
        width: float = 1.0,
        in_channels: int = 3,
        norm: str | None = "BN",
        stride_in_1x1: bool = False,
        zero_init_residual: bool = True,
        freeze_at: int = 0,
        nonlocal_places: Mapping[str, Sequence[int]] | None = None,
        make_nonlocal: Callable[[int, str], nn.Module] | None = None,
        out_features: Sequence[str] = ("res5",),
        temporal_blocks: int = 0,
        lateral_channels: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        nonlocal_places, lateral_channels = nonlocal_places or {}, lateral_channels or {}
        make_nonlocal = make_nonlocal or (lambda channels, stage: NonLocalBlock(channels))
        check_one_of("depth", depth, NUM_BLOCKS)
        check_one_of("temporal", temporal, TEMPORAL_KERNELS)
        check_one_of("stem", stem, STEMS)
        if temporal_blocks < 0:
            raise ValueError(f"temporal_blocks: got {temporal_blocks}, allowed: 0 or more")
        for stage in (*out_features, *nonlocal_places):
            check_one_of("stage", stage, STAGES)
        self._stem_name, self._layout, self._in_channels = stem, STEMS[stem], in_channels
        self._channels = stage_channels(depth, width)
        self._out_features = [stage for stage in STAGES if stage in out_features]
        make_block = _block_factory(depth, stride_in_1x1, norm=norm, zero_init=zero_init_residual)

        channels = scale_channels(64, width)
        self.stem = Stem(self._layout, temporal, in_channels, channels, norm)
        for stage, num_blocks in zip(STAGES, NUM_BLOCKS[depth], strict=True):
            inner, outer = self._channels[stage]
            kernels = _temporal_kernels(stage, num_blocks, depth, temporal, temporal_blocks)
            stride = 1 if stage == "res2" else 2
            channels += lateral_channels.get(stage, 0)
            blocks = [make_block(channels, inner, outer, stride=stride, temporal_kernels=kernels[0])]
            blocks += [make_block(outer, inner, outer, temporal_kernels=kernel) for kernel in kernels[1:]]
            places = nonlocal_places.get(stage, ())
            self.add_module(stage, Stage(blocks, {index: make_nonlocal(outer, stage) for index in places}))
            if stage == "res2":
                self.pool2 = _max_pool(self._layout.pool2)
            channels = outer
        if freeze_at:
            freeze_stages(self, freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Keyword arguments of the constructor from ``cfg.MODEL``."""
        node = cfg.MODEL.BACKBONE
        check_one_of("MODEL.BACKBONE.DEPTH", node.DEPTH, NUM_BLOCKS)
        # A forgotten NAME would give another network than ARCH says.
        check_one_of(f"MODEL.BACKBONE.ARCH with NAME {cls.__name__!r}", node.ARCH, ("",))
        return {
            "depth": node.DEPTH,
            "temporal": node.TEMPORAL,
            "stem": node.STEM,
            "width": node.WIDTH,
            "in_channels": input_shape.channels,
            "norm": cfg.MODEL.NORM,
            "stride_in_1x1": node.STRIDE_IN_1X1,
            "zero_init_residual": node.ZERO_INIT_RESIDUAL,
            # Freezing that ends is a hook's.
            "freeze_at": 0 if node.FREEZE_UNTIL else node.FREEZE_AT,
            "nonlocal_places": nonlocal_placement(cfg, dict(zip(STAGES, NUM_BLOCKS[node.DEPTH], strict=True))),
            "make_nonlocal": partial(build_nonlocal_block, cfg),
        }

    def stages(self) -> dict[str, list[nn.Module]]:
        """The stem and the stages, from the first on."""
        return {name: [getattr(self, name)] for name in ("stem", *STAGES)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides of what `forward` returns."""
        frames, space, _ = self._layout.stride()
        shapes = {}
        for stage in STAGES:
            if stage != "res2":
                space *= 2
            shapes[stage] = ShapeSpec(channels=self._channels[stage][1], stride=space, temporal_stride=frames)
            if stage == "res2":
                frames *= self._layout.pool2.stride[0]
        return {stage: shapes[stage] for stage in self._out_features}

    def forward(self, video: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, C, T, H, W) -> stage: (N, C', T', H', W'), sizes divided by the strides of `output_shape` and rounded.

        Raises:
            ValueError: the video has other channels than the network, or is too small for the pools of the stem.
        """
        self._check_video(video)
        features = {}
        x = self.stem(video)
        for stage in STAGES:
            x = getattr(self, stage)(x)
            if stage in self._out_features:
                features[stage] = x
            if stage == "res2":
                x = self.pool2(x)
        return features

    def _check_video(self, video: torch.Tensor) -> None:
        if video.dim() != 5 or video.shape[1] != self._in_channels:
            raise ValueError(f"video: expected (N, {self._in_channels}, T, H, W), got {tuple(video.shape)}")
        needed = self._layout.minimum_clip_size()
        if any(have < need for have, need in zip(video.shape[2:], needed, strict=True)):
            have, need = ("x".join(map(str, size)) for size in (tuple(video.shape[2:]), needed))
            size = f"clip of {have} (frames x height x width)"
            raise ValueError(f"{size}: stem {self._stem_name!r} needs at least {need}")
