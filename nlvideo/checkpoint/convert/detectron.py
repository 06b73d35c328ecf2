"""ResNets of images as MSRA trained them in Caffe: Detectron's pickles, and copies under torchvision's names."""

from collections.abc import Mapping
from typing import Any

from nlvideo.checkpoint.convert import caffe2, torchvision
from nlvideo.checkpoint.convert.architecture import IMAGE_NOTE, architecture_of, is_image_network
from nlvideo.checkpoint.convert.common import Converted, Source, register
from nlvideo.checkpoint.convert.names import rename

NAME = "detectron"

# Detectron's PIXEL_MEANS are 102.9801, 115.9465, 122.7717 for blue, green, red; nothing is divided by.
PIXEL_MEAN = [122.7717, 115.9465, 102.9801]
PIXEL_STD = [1.0, 1.0, 1.0]


def _recognise(content: Mapping[str, Any]) -> bool:
    # Caffe's copies under torchvision's names cannot be told from torchvision's own; they need to be named.
    return {"conv1_w", "res_conv1_bn_s", "res2_0_branch2a_w"} <= set(content) and (
        content["conv1_w"].ndim == 4 and "res_conv1_bn_rm" not in content
    )


def _convert(content: Mapping[str, Any]) -> Converted:
    if "conv1_w" in content:
        converted = caffe2.rename(content, other="no part of a classifier of images")
    else:
        converted = rename(NAME, content, torchvision.NAMES)
    norms = caffe2.tidy(converted.weights)
    architecture = architecture_of(converted.weights)
    if not is_image_network(converted.weights):
        raise ValueError("Detectron's networks are of images, but the first kernel has a time axis")
    stem = "backbone.stem.conv.weight"
    converted.weights[stem] = converted.weights[stem].flip(1)
    converted.overrides = {
        **architecture,
        **norms,
        "MODEL.PIXEL_MEAN": PIXEL_MEAN,
        "MODEL.PIXEL_STD": PIXEL_STD,
        "MODEL.BACKBONE.STRIDE_IN_1X1": True,
    }
    converted.notes.append("the first kernel is turned from blue, green, red to red, green, blue")
    converted.notes.append(IMAGE_NOTE)
    return converted


register(Source(NAME, _recognise, _convert))
