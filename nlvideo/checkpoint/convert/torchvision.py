"""ResNets of images from torchvision; its video networks are refused."""

import re
from collections.abc import Mapping
from typing import Any

from nlvideo.checkpoint.convert.architecture import IMAGE_NOTE, architecture_of, is_image_network
from nlvideo.checkpoint.convert.common import Converted, Source, register

_RESIDUAL = re.compile(r"layer([1-4])\.(\d+)\.(conv\d|bn\d|downsample\.[01])\.(\w+)$")
_STEM = re.compile(r"(conv|bn)1\.(\w+)$")
_CLASSIFIER = re.compile(r"fc\.(weight|bias)$")
_SHORTCUT = {"downsample.0": "shortcut.conv", "downsample.1": "shortcut.bn"}

# The statistics of ImageNet that torchvision's transforms use, times 255.
PIXEL_MEAN = [123.675, 116.28, 103.53]
PIXEL_STD = [58.395, 57.12, 57.375]


def our_name(name: str) -> str | None:
    """Return the name of a torchvision ResNet's tensor in our `VideoClassifier`; None for anything else."""
    if match := _RESIDUAL.match(name):
        stage, block, layer, leaf = match.groups()
        return f"backbone.res{int(stage) + 1}.{block}.{_SHORTCUT.get(layer, layer)}.{leaf}"
    if match := _STEM.match(name):
        return f"backbone.stem.{match[1]}.{match[2]}"
    if match := _CLASSIFIER.match(name):
        return f"head.classifier.{match[1]}"
    return None


def rename(content: Mapping[str, Any]) -> Converted:
    """Bring the tensors of a torchvision ResNet under our names.

    Raises:
        ValueError: there are other tensors: this is another network.
    """
    strange = [name for name in content if our_name(name) is None]
    if strange:
        raise ValueError(f"tensors of another network than a ResNet: {', '.join(strange[:4])}")
    mapped = [(name, our_name(name)) for name in content]
    return Converted({ours: content[theirs] for theirs, ours in mapped}, mapped=mapped)


def _is_video(content: Mapping[str, Any]) -> bool:
    return "stem.0.weight" in content and any(name.startswith("layer1.0.conv1.0.") for name in content)


def _recognise(content: Mapping[str, Any]) -> bool:
    # With a time axis these names are those of resnet3d.py.
    names = {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"}
    return _is_video(content) or (names <= set(content) and content["conv1.weight"].ndim < 5)


def _convert(content: Mapping[str, Any]) -> Converted:
    if _is_video(content):
        raise ValueError(f"torchvision's {_video_network(content)}: ours has no such network")
    converted = rename(content)
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


register(Source("torchvision", _recognise, _convert))
