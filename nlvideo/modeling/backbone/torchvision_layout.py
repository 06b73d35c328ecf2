"""How torchvision's video networks are put together: stages, channels, strides, and the clips that they take."""

from collections.abc import Mapping
from dataclasses import dataclass

from nlvideo.layers.blocks import Triple

# Sub-modules of a stage, in the order in which they run -> channels of what they give.
_Stage = Mapping[str, int]

# What MViT's class token is called among the features.
CLASS_TOKEN = "class_token"


@dataclass(frozen=True)
class Layout:
    """How a network of torchvision is put together."""

    stages: Mapping[str, _Stage]
    """Stage -> its sub-modules, in the order of the network."""
    time: tuple[int, ...]
    """Input frames per position of the map of each stage."""
    space: tuple[int, ...]
    """Input pixels per position, along height and width."""
    batch_norms: bool = True
    """Whether its norms are batch norms; otherwise layer norms."""
    channels_last: bool = False
    """Whether its sub-modules pass on maps (N, T, H, W, C)."""
    clip_size: Triple | None = None
    """The only frames, height and width that it takes; None: any from `minimum` on."""
    minimum: Triple = (1, 1, 1)
    """The least frames, height and width."""


def _resnet(time: tuple[int, ...]) -> Layout:
    channels = {"stem": 64, "layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}
    return Layout({name: {name: count} for name, count in channels.items()}, time, (2, 2, 4, 8, 16))


def _s3d() -> Layout:
    # The module after which each stage ends, and the channels of the 16 modules: pools keep them.
    ends = {"stem": 1, "stage1": 4, "stage2": 7, "stage3": 13, "stage4": 16}
    channels = (64, 64, 64, 192, 192, 256, 480, 480, 512, 512, 512, 528, 832, 832, 832, 1024)
    starts = (0, *ends.values())
    stages = {
        stage: {f"features.{i}": channels[i] for i in range(start, end)}
        for start, (stage, end) in zip(starts, ends.items(), strict=False)
    }
    # The last pool has no padding: it needs a map of 2 x 2 x 2, of strides 4, 16 and 16.
    return Layout(stages, (2, 2, 2, 4, 8), (2, 4, 8, 16, 32), minimum=(5, 17, 17))


def _swin(channels: int) -> Layout:
    stages: dict[str, dict[str, int]] = {"stem": {"patch_embed": channels, "pos_drop": channels}}
    for number in range(4):
        # A layer that merges patches goes before the blocks of stages 2 to 4.
        names = [f"features.{i}" for i in (2 * number - 1, 2 * number) if i >= 0]
        stages[f"stage{number + 1}"] = dict.fromkeys(names, channels * 2**number)
    stages["stage4"]["norm"] = 8 * channels
    return Layout(stages, (2,) * 5, (4, 4, 8, 16, 32), batch_norms=False, channels_last=True)


def _mvit(channels: tuple[int, int, int, int]) -> Layout:
    # Blocks 1, 3 and 14 halve the map.
    starts = (0, 1, 3, 14, 16)
    stages: dict[str, dict[str, int]] = {"stem": {"conv_proj": 96, "pos_encoding": 96}}
    for number, count in enumerate(channels):
        names = [f"blocks.{i}" for i in range(starts[number], starts[number + 1])]
        stages[f"stage{number + 1}"] = dict.fromkeys(names, count)
    stages["stage4"]["norm"] = channels[-1]
    return Layout(stages, (2,) * 5, (4, 4, 8, 16, 32), batch_norms=False, clip_size=(16, 224, 224))


#: name of torchvision's function -> how its network is put together
ARCHITECTURES: dict[str, Layout] = {
    "r3d_18": _resnet((1, 1, 2, 4, 8)),
    "mc3_18": _resnet((1, 1, 1, 1, 1)),
    "r2plus1d_18": _resnet((1, 1, 2, 4, 8)),
    "s3d": _s3d(),
    "mvit_v1_b": _mvit((192, 384, 768, 768)),
    "mvit_v2_s": _mvit((96, 192, 384, 768)),
    "swin3d_t": _swin(96),
    "swin3d_s": _swin(96),
    "swin3d_b": _swin(128),
}
