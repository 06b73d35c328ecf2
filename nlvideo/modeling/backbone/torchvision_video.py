"""torchvision's own video networks as backbones: its modules without their classifiers, with non-local blocks."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from nlvideo.config import CfgNode, configurable
from nlvideo.config.validate import ALLOWED
from nlvideo.layers.blocks import ShapeSpec
from nlvideo.layers.norm import freeze_norms, sync_norms
from nlvideo.modeling.backbone.resnet3d import BACKBONE, freeze_stages
from nlvideo.modeling.backbone.torchvision_layout import ARCHITECTURES, CLASS_TOKEN
from nlvideo.modeling.nonlocal_block.block import NonLocalBlock
from nlvideo.modeling.nonlocal_block.build import build_nonlocal_block
from nlvideo.modeling.nonlocal_block.insert import insert_nonlocal
from nlvideo.utils.messages import check_one_of

# What torchvision's networks call the layers after their maps, which are the head's here.
_CLASSIFIER = ("avgpool", "fc", "classifier", "head")


@BACKBONE.register()
class TorchvisionVideo(nn.Module):
    """A video network of torchvision without its classifier, its sub-modules under their own names.

    Features are maps (N, C, T, H, W), for MViT without the class token. The last feature is what torchvision
    classifies: the last map, or MViT's class token as a map of one position. Weights start as torchvision's do.
    Stochastic depth stays as torchvision trains it; dropout before the classifier is the head's.

    Args:
        arch: a name in `ARCHITECTURES`.
        in_channels: channels of the video; these networks take 3.
        norm: "BN", "SyncBN" or "FrozenBN"; networks with layer norms take "BN" and keep them.
        freeze_at: how many of the stages do not train, counted from the stem, with the non-local blocks in them.
        blocks: sub-modules that get a non-local block after them, such as "layer3.1".
        make_nonlocal: called ``(channels, stage)`` for each of them; None: a `NonLocalBlock` with its defaults.
        out_features: stages that `forward` returns, and "class_token" for MViT; empty: the last feature.

    Raises:
        ValueError: an argument outside of what is allowed.
    """

    @configurable
    def __init__(
        self,
        *,
        arch: str,
        in_channels: int = 3,
        norm: str = "BN",
        freeze_at: int = 0,
        blocks: Sequence[str] = (),
        make_nonlocal: Callable[[int, str], nn.Module] | None = None,
        out_features: Sequence[str] = (),
    ) -> None:
        # Imported here, because torchvision takes long to import and most runs do not need it.
        from torchvision.models import get_model

        super().__init__()
        check_one_of("arch", arch, ARCHITECTURES)
        check_one_of("in_channels", in_channels, (3,))
        _check_norm("norm", norm, arch)
        self._arch, self._layout = arch, ARCHITECTURES[arch]
        names = [*self._layout.stages, *([CLASS_TOKEN] if self._layout.clip_size else [])]
        for name in out_features:
            check_one_of("stage", name, names)
        self._out_features = [name for name in names if name in (out_features or names[-1:])]

        for name, module in get_model(arch, weights=None).named_children():
            if name not in _CLASSIFIER:
                self.add_module(name, module)
        if norm != "BN":
            (sync_norms if norm == "SyncBN" else freeze_norms)(self)
        self._insert(blocks, make_nonlocal or (lambda channels, stage: NonLocalBlock(channels)))
        freeze_stages(self, freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Keyword arguments of the constructor from ``cfg.MODEL``."""
        node, arch = cfg.MODEL.NONLOCAL, cfg.MODEL.BACKBONE.ARCH
        check_one_of("MODEL.BACKBONE.ARCH", arch, ARCHITECTURES)
        _check_norm("MODEL.NORM", cfg.MODEL.NORM, arch)
        if size := ARCHITECTURES[arch].clip_size:
            for key, allowed in zip(("INPUT.NUM_FRAMES", "INPUT.CROP_SIZE", "TEST.CROP_SIZE"), size, strict=True):
                check_one_of(f"{key} with {arch}", cfg.value_at(key), (allowed,))
        if node.ENABLED and not node.BLOCKS:
            what = "MODEL.NONLOCAL.ENABLED is True but BLOCKS is []"
            raise ValueError(f"{what}: with {arch} it must name sub-modules; STAGES and EVERY do not count")
        return {
            "arch": arch,
            "in_channels": input_shape.channels,
            "norm": cfg.MODEL.NORM,
            # Freezing that ends is a hook's.
            "freeze_at": 0 if cfg.MODEL.BACKBONE.FREEZE_UNTIL else cfg.MODEL.BACKBONE.FREEZE_AT,
            "blocks": node.BLOCKS if node.ENABLED else (),
            "make_nonlocal": partial(build_nonlocal_block, cfg),
        }

    def _insert(self, blocks: Sequence[str], make_nonlocal: Callable[[int, str], nn.Module]) -> None:
        if blocks and self._layout.clip_size:
            reason = "its modules pass on sequences with a class token, not maps"
            raise ValueError(f"blocks: got {list(blocks)}, allowed with {self._arch}: []; {reason}")
        # A stage and, where it is a plain sequence, its residual blocks -> arguments of make_nonlocal.
        places: dict[str, tuple[int, str]] = {}
        for stage, modules in self._layout.stages.items():
            for name, channels in modules.items():
                module = self.get_submodule(name)
                inside = [f"{name}.{index}" for index in range(len(module))] if type(module) is nn.Sequential else []
                places |= dict.fromkeys([name, *inside], (channels, stage))
        for number, name in enumerate(blocks):
            check_one_of("blocks", name, places)
            if name in blocks[:number]:
                raise ValueError(f"blocks: {name!r} is given twice")
        made = {name: make_nonlocal(*places[name]) for name in blocks}
        insert_nonlocal(self, {n: OnLastAxis(b) if self._layout.channels_last else b for n, b in made.items()})

    def stages(self) -> dict[str, list[nn.Module]]:
        """The modules of each stage, from the stem on."""
        return {stage: [self.get_submodule(name) for name in names] for stage, names in self._layout.stages.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides of what `forward` returns."""
        layout = self._layout
        channels = {stage: list(modules.values())[-1] for stage, modules in layout.stages.items()}
        rows = zip(channels, layout.space, layout.time, strict=True)
        shapes = {stage: ShapeSpec(channels[stage], space, time) for stage, space, time in rows}
        if layout.clip_size:
            frames, side, _ = layout.clip_size
            shapes[CLASS_TOKEN] = ShapeSpec(channels["stage4"], side, frames)
        return {name: shapes[name] for name in self._out_features}

    def has_channels_last(self, name: str) -> bool:
        """Whether a module of this backbone gives (N, T', H', W', C), as those of Swin do."""
        parts = name.split(".")
        outer = (self.get_submodule(".".join(parts[:count])) for count in range(1, len(parts)))
        inside_block = any(isinstance(module, OnLastAxis) for module in outer)
        return self._layout.channels_last and not inside_block and not isinstance(self.get_submodule(name), nn.Conv3d)

    def forward(self, video: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, 3, T, H, W) -> name: (N, C, T', H', W'), sizes divided by the strides of `output_shape`, rounded up
        (by the last pool of S3D: down).

        Raises:
            ValueError: the video has other channels, or a size that the network does not take.
        """
        self._check_video(video)
        features = {}
        # MViT's blocks are told the size of the map that their sequence stands for.
        x, size = video, ()
        for stage, names in self._layout.stages.items():
            for name in names:
                module = self.get_submodule(name)
                x, size = module(x, size) if name.startswith("blocks.") else (module(x), size)
                if name == "conv_proj":
                    x, size = x.flatten(2).transpose(1, 2), tuple(x.shape[2:])
            if stage in self._out_features:
                features[stage] = self._as_map(x, size)
        if CLASS_TOKEN in self._out_features:
            features[CLASS_TOKEN] = x[:, 0, :, None, None, None]
        return features

    def _as_map(self, x: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
        if size:
            return x[:, 1:].transpose(1, 2).unflatten(2, size)
        return x.permute(0, 4, 1, 2, 3) if self._layout.channels_last else x

    def _check_video(self, video: torch.Tensor) -> None:
        if video.dim() != 5 or video.shape[1] != 3:
            raise ValueError(f"video: expected (N, 3, T, H, W), got {tuple(video.shape)}")
        have, only, least = tuple(video.shape[2:]), self._layout.clip_size, self._layout.minimum
        if have != (only or have) or any(size < needed for size, needed in zip(have, least, strict=True)):
            given, needed = ("x".join(map(str, size)) for size in (have, only or least))
            takes = f"takes {needed} alone" if only else f"needs at least {needed}"
            raise ValueError(f"clip of {given} (frames x height x width): {self._arch} {takes}")


class OnLastAxis(nn.Module):
    """A non-local block on a map whose channels are its last axis, as Swin's modules pass them on.

    Args:
        block: takes and returns (N, C, T, H, W).
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T, H, W, C) -> the same."""
        return self.block(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1).contiguous()


def _check_norm(name: str, norm: str, arch: str) -> None:
    if ARCHITECTURES[arch].batch_norms:
        check_one_of(name, norm, ALLOWED["MODEL.NORM"])
    elif norm != "BN":
        raise ValueError(f"{name}: got {norm!r}, allowed with {arch}, which has layer norms and keeps them: 'BN'")
