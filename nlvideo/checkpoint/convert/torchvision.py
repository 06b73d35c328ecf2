"""ResNets under torchvision's names: its own, of images, and those of Tushar-N's pytorch-resnet3d, of videos."""

from collections.abc import Mapping
from typing import Any

from nlvideo.checkpoint.convert.common import (
    AUTHORS_BLOCKS,
    AUTHORS_NETWORK,
    IMAGE_NOTE,
    Converted,
    ModuleNames,
    architecture_of,
    is_image_network,
    rename,
)

_BLOCK, _OUR_BLOCK = "layer{stage}.{block}", "backbone.res{stage}.{block}"

# The blocks ".nl" are those of resnet3d.py.
NAMES = ModuleNames(
    {
        "conv1": "backbone.stem.conv",
        "bn1": "backbone.stem.bn",
        f"{_BLOCK}.downsample.0": f"{_OUR_BLOCK}.shortcut.conv",
        f"{_BLOCK}.downsample.1": f"{_OUR_BLOCK}.shortcut.bn",
        **{f"{_BLOCK}.{layer}{n}": f"{_OUR_BLOCK}.{layer}{n}" for layer in ("conv", "bn") for n in (1, 2, 3)},
        **{f"{_BLOCK}.nl.{layer}": f"backbone.res{{stage}}.nl{{block}}.{layer}"
           for layer in ("theta", "phi", "g", "out", "bn")},
        "fc": "head.classifier",
    },
    stages={1: 2, 2: 3, 3: 4, 4: 5},
)  # fmt: skip

# The statistics of ImageNet that torchvision's transforms use, times 255.
PIXEL_MEAN = [123.675, 116.28, 103.53]
PIXEL_STD = [58.395, 57.12, 57.375]


def _is_video(content: Mapping[str, Any]) -> bool:
    return "stem.0.weight" in content and any(name.startswith("layer1.0.conv1.0.") for name in content)


def recognise(content: Mapping[str, Any]) -> bool:
    """Whether the names are torchvision's, of images, or of its video networks, which `convert` refuses."""
    # With a time axis these names are those of resnet3d.py.
    names = {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"}
    return _is_video(content) or (names <= set(content) and content["conv1.weight"].ndim < 5)


def convert(content: Mapping[str, Any]) -> Converted:
    """Bring a ResNet of images under our names; ValueError for another network."""
    if _is_video(content):
        raise ValueError(f"torchvision's {_video_network(content)}: ours has no such network")
    converted = rename("torchvision", content, NAMES.to_ours)
    if not is_image_network(converted.weights):
        raise ValueError("torchvision's ResNets are of images, but the first kernel has a time axis")
    settle_image_network(converted)
    return converted


def settle_image_network(converted: Converted) -> None:
    """Say, in place, what the network of renamed ImageNet weights computes: torchvision's, and PySlowFast's as well."""
    converted.overrides = {
        **architecture_of(converted.weights),
        "MODEL.PIXEL_MEAN": PIXEL_MEAN,
        "MODEL.PIXEL_STD": PIXEL_STD,
        "MODEL.BACKBONE.STRIDE_IN_1X1": False,
    }
    # The authors started from ImageNet with their own statistics; the two differ by less than a fifth of a deviation.
    converted.tolerated = {"MODEL.PIXEL_MEAN": [[114.75] * 3], "MODEL.PIXEL_STD": [[57.375] * 3]}
    converted.notes.append(IMAGE_NOTE)


def _video_network(content: Mapping[str, Any]) -> str:
    if content["stem.0.weight"].shape[2] == 1:
        return "r2plus1d_18 (kernels split into space and time)"
    second = next(tensor for name, tensor in content.items() if name.startswith("layer2.0.conv1.0.we"))
    name = "r3d_18" if second.shape[2] == 3 else "mc3_18"
    return f"{name} (no pool after the first convolution, a temporal kernel in every convolution of a stage)"


def recognise_resnet3d(content: Mapping[str, Any]) -> bool:
    """Whether the names are torchvision's and the kernels have a time axis."""
    return {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"} <= set(content) and content["conv1.weight"].ndim == 5


def convert_resnet3d(content: Mapping[str, Any]) -> Converted:
    """Bring the authors' I3D of 32x2 clips, with or without blocks, under our names; ValueError for another network."""
    converted = rename("pytorch-resnet3d", content, NAMES.to_ours)
    settings = AUTHORS_NETWORK | architecture_of(converted.weights)
    if settings["MODEL.NONLOCAL.ENABLED"]:
        settings |= AUTHORS_BLOCKS
    converted.overrides = settings | {"MODEL.BACKBONE.STEM": "authors_32x2"}
    converted.notes = [
        "taken to be for 32x2 clips, as in its code; the authors' 8x8 networks have the same names and shapes",
        "their head averages the whole map, ours windows of INPUT.CROP_SIZE: the same on crops of that size",
    ]
    return converted
