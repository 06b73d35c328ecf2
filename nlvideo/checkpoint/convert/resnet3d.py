"""Tushar-N's pytorch-resnet3d: the authors' I3D of 32x2 clips, with and without blocks, under torchvision's names."""

from collections.abc import Mapping
from typing import Any

from nlvideo.checkpoint.convert.architecture import architecture_of
from nlvideo.checkpoint.convert.caffe2 import COMMON_OVERRIDES, NONLOCAL_OVERRIDES
from nlvideo.checkpoint.convert.common import Converted, Source, register
from nlvideo.checkpoint.convert.names import rename
from nlvideo.checkpoint.convert.torchvision import NAMES

NAME = "pytorch-resnet3d"


def _recognise(content: Mapping[str, Any]) -> bool:
    return {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"} <= set(content) and content["conv1.weight"].ndim == 5


def _convert(content: Mapping[str, Any]) -> Converted:
    converted = rename(NAME, content, NAMES)
    settings = COMMON_OVERRIDES | architecture_of(converted.weights)
    if settings["MODEL.NONLOCAL.ENABLED"]:
        settings |= NONLOCAL_OVERRIDES
    converted.overrides = settings | {"MODEL.BACKBONE.STEM": "authors_32x2"}
    converted.notes = [
        "taken to be for 32x2 clips, as in its code; the authors' 8x8 networks have the same names and shapes",
        "their head averages the whole map, ours windows of INPUT.CROP_SIZE: the same on crops of that size",
    ]
    return converted


register(Source(NAME, _recognise, _convert))
