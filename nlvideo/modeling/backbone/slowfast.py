"""SlowFast (Feichtenhofer et al., ICCV 2019): two ResNets over frames at two rates, with lateral connections."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nlvideo.config import CfgNode, configurable
from nlvideo.layers.blocks import ShapeSpec, conv3d
from nlvideo.layers.norm import get_norm
from nlvideo.modeling.backbone.layout import STAGES, scale_channels, stage_channels
from nlvideo.modeling.backbone.resnet3d import BACKBONE, ResNet3d, freeze_stages
from nlvideo.utils.messages import check_one_of

SAMPLINGS = ("linspace", "stride")


@BACKBONE.register()
class SlowFast(ResNet3d):
    """A slow pathway of few frames, and beside it ``fast``, of all frames and few channels, which feeds it.

    The slow pathway is the `ResNet3d` "slow" under its own names, with non-local blocks where they are asked for.
    ``fast`` is a `ResNet3d` with a temporal kernel in every block. Neither has a stride in time. ``lateral`` has a
    convolution for the stem and for each stage but the last. It turns the map of ``fast`` into one at the frames of
    the slow pathway, whose next stage reads it beside its own map.

    A feature is one map at the frames of the slow pathway: its channels, then those of ``fast``, averaged over each run
    of alpha frames. So the mean of the last one is the two pathways' means, which the paper classifies.

    Args:
        depth: as for `ResNet3d`, for both pathways.
        width: factor on every channel count of both pathways.
        norm: a name that `get_norm` knows.
        freeze_at: how many of stem, res2, ... res5 do not train, of both pathways and with the lateral convolution.
        nonlocal_places: residual blocks of the slow pathway, as for `ResNet3d`.
        make_nonlocal: as for `ResNet3d`.
        alpha: frames of ``fast`` for one of the slow pathway (8 in 4x16; 4 in 8x8 and 16x8).
        beta: channels of ``fast`` for one of the slow pathway.
        lateral_kernel: frames that a lateral convolution spans, an odd number.
        lateral_ratio: channels that a lateral convolution makes of one.
        sampling: frames of the slow pathway: "linspace", from the first to the last (PySlowFast, PyTorchVideo), or
            "stride", every alpha-th (mmaction2).
        num_frames: frames of a clip, to refuse them early; None: not known.
        resnet: other arguments of `ResNet3d`, for both pathways.

    Raises:
        ValueError: an argument outside of what is allowed.
    """

    @configurable
    def __init__(
        self,
        *,
        depth: int = 50,
        width: float = 1.0,
        norm: str | None = "BN",
        freeze_at: int = 0,
        nonlocal_places: Mapping[str, Sequence[int]] | None = None,
        make_nonlocal: Callable[[int, str], nn.Module] | None = None,
        alpha: int = 8,
        beta: float = 0.125,
        lateral_kernel: int = 5,
        lateral_ratio: int = 2,
        sampling: str = "linspace",
        num_frames: int | None = None,
        **resnet: Any,
    ) -> None:
        for name, value in (("alpha", alpha), ("lateral_kernel", lateral_kernel), ("lateral_ratio", lateral_ratio)):
            if value < 1 or (name == "lateral_kernel" and value % 2 == 0):
                raise ValueError(f"{name}: got {value}, allowed: {'odd numbers' if value > 0 else '1 or more'}")
        if not 0 < beta <= 1:
            raise ValueError(f"beta: got {beta}, allowed: above 0, up to 1")
        check_one_of("sampling", sampling, SAMPLINGS)
        if num_frames and num_frames % alpha:
            raise ValueError(f"num_frames: got {num_frames}, allowed: multiples of alpha = {alpha}")
        resnet = {"temporal": "slow", "stem": "slow", "depth": depth, "norm": norm, **resnet}
        # Stage -> channels of the fast pathway after it.
        given = {stage: outer for stage, (_, outer) in stage_channels(depth, width * beta).items()}
        given = {"stem": scale_channels(64, width * beta), **given}
        read = {stage: lateral_ratio * count for stage, count in zip(STAGES, given.values(), strict=False)}
        slow = {"nonlocal_places": nonlocal_places, "make_nonlocal": make_nonlocal, "lateral_channels": read}
        super().__init__(width=width, **(resnet | slow))
        self.alpha, self.sampling, self._fast_channels = alpha, sampling, given
        self.fast = ResNet3d(width=width * beta, **(resnet | {"temporal": "i3d_3x1x1_all", "lateral_channels": None}))
        kernel, stride = (lateral_kernel, 1, 1), (alpha, 1, 1)
        self.lateral = nn.ModuleDict()
        for stage, count in zip(given, read.values(), strict=False):
            conv, bn = conv3d(given[stage], count, kernel, stride), get_norm(norm, count)
            self.lateral[stage] = nn.Sequential(OrderedDict(conv=conv, bn=bn, relu=nn.ReLU(inplace=True)))
        freeze_stages(self, freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Keyword arguments of the constructor from ``cfg.MODEL``; TEMPORAL and STEM do not count."""
        fast = [place for place in cfg.MODEL.NONLOCAL.BLOCKS if place.startswith("fast.")]
        if fast:
            allowed = "blocks of the slow pathway, such as 'res3.1'; the fast one has none"
            raise ValueError(f"MODEL.NONLOCAL.BLOCKS: got {fast[0]!r}, allowed: {allowed}")
        arguments = super().from_config(cfg, input_shape)
        return arguments | {"temporal": "slow", "stem": "slow", "num_frames": cfg.INPUT.NUM_FRAMES}

    def stages(self) -> dict[str, list[nn.Module]]:
        """The stem and the stages of both pathways, each with the lateral convolution after it."""
        fast, lateral = self.fast.stages(), {name: [module] for name, module in self.lateral.items()}
        return {name: [*modules, *fast[name], *lateral.get(name, [])] for name, modules in super().stages().items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides of what `forward` returns."""
        shapes = super().output_shape().items()
        return {
            stage: ShapeSpec(slow.channels + self._fast_channels[stage], slow.stride, slow.temporal_stride * self.alpha)
            for stage, slow in shapes
        }

    def forward(self, video: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, C, T, H, W) -> stage: (N, C', T / alpha, H', W').

        Raises:
            ValueError: the video has other channels than the network, or its frames are no multiple of alpha.
        """
        self._check_video(video)
        if video.shape[2] % self.alpha:
            raise ValueError(f"clip of {video.shape[2]} frames, allowed: multiples of alpha = {self.alpha}")
        features = {}
        slow, fast = self.stem(self._slow_frames(video)), self.fast.stem(video)
        for before, stage in zip(("stem", *STAGES), STAGES, strict=False):
            slow = torch.cat([slow, self.lateral[before](fast)], dim=1)
            slow, fast = getattr(self, stage)(slow), getattr(self.fast, stage)(fast)
            if stage in self._out_features:
                features[stage] = torch.cat([slow, F.avg_pool3d(fast, (self.alpha, 1, 1))], dim=1)
        return features

    def _slow_frames(self, video: torch.Tensor) -> torch.Tensor:
        frames = video.shape[2]
        if self.sampling == "stride":
            return video[:, :, :: self.alpha]
        # As they compute it: rounded down, in float32, on the CPU. Other devices may round to another frame.
        chosen = torch.linspace(0, frames - 1, frames // self.alpha, device="cpu").long()
        return video.index_select(2, chosen.to(video.device))
