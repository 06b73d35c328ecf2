"""torchvision's networks of images and of videos, and the ResNets of Tushar-N's pytorch-resnet3d under such names."""

import re
from collections.abc import Mapping
from typing import Any

from nlvideo.checkpoint.convert import common

_BLOCK, _OUR_BLOCK = "layer{stage}.{block}", "backbone.res{stage}.{block}"

# Modules of its ResNets -> ours.
RESNET = {
    "conv1": "backbone.stem.conv",
    "bn1": "backbone.stem.bn",
    f"{_BLOCK}.downsample.0": f"{_OUR_BLOCK}.shortcut.conv",
    f"{_BLOCK}.downsample.1": f"{_OUR_BLOCK}.shortcut.bn",
    **{f"{_BLOCK}.{layer}{n}": f"{_OUR_BLOCK}.{layer}{n}" for layer in ("conv", "bn") for n in (1, 2, 3)},
}
# The blocks ".nl" are those of resnet3d.py.
NAMES = common.ModuleNames(
    RESNET
    | {f"{_BLOCK}.nl.{layer}": f"backbone.res{{stage}}.nl{{block}}.{layer}"
       for layer in ("theta", "phi", "g", "out", "bn")}
    | {"fc": "head.classifier"},
    stages={1: 2, 2: 3, 3: 4, 4: 5},
)  # fmt: skip

# What names and shapes do not show: the statistics of ImageNet in torchvision's transforms, times 255, and the stride.
IMAGENET_NETWORK = {
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.BACKBONE.STRIDE_IN_1X1": False,
}

# Its classifiers: of ResNets, S3D, MViT and Swin.
_CLASSIFIER = re.compile(r"(?:fc|classifier\.1|head|head\.1)\.(weight|bias)")
# Names of its ResNets; with a time axis they are those of resnet3d.py.
_RESNET_NAMES = {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"}
# Start of a name -> frames and stride (in videos of 30 frames a second) of the clips that torchvision tested it with.
_CLIPS = {"s3d": (128, 2), "swin3d": (32, 2), "mvit": (16, 4), "": (16, 2)}


def recognise(content: Mapping[str, Any]) -> bool:
    """Whether the names are torchvision's, of its ResNets of images or of its video networks."""
    return bool(_video_network(content)) or (content.keys() >= _RESNET_NAMES and content["conv1.weight"].ndim < 5)


def convert(content: Mapping[str, Any]) -> common.Converted:
    """Bring a ResNet of images or a video network under our names; ValueError for another network."""
    if arch := _video_network(content):
        return _convert_video(content, arch)
    converted = common.rename("torchvision", content, NAMES.to_ours)
    if not common.is_image_network(converted.weights):
        raise ValueError("torchvision's ResNets are of images, but the first kernel has a time axis")
    settle_image_network(converted)
    return converted


def _convert_video(content: Mapping[str, Any], arch: str) -> common.Converted:
    def _to_ours(name: str) -> str:
        found = _CLASSIFIER.fullmatch(name)
        return f"head.classifier.{found[1]}" if found else f"backbone.{name}"

    converted = common.rename("torchvision", content, _to_ours)
    converted.overrides, converted.dataset = video_settings(arch), "kinetics400"
    if (classifier := converted.weights.get(common.CLASSIFIER)) is not None:
        # S3D has a convolution there.
        converted.weights[common.CLASSIFIER] = classifier.flatten(1)
        converted.overrides["MODEL.HEAD.NUM_CLASSES"] = len(classifier)
    # Training may start with other statistics; the log names both.
    converted.tolerated = {key: [None] for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")}
    return converted


def video_settings(arch: str) -> dict[str, Any]:
    """Return the config keys of a video network of torchvision, as the transforms of its Kinetics weights say.

    Args:
        arch: a name in ``nlvideo.modeling.backbone.torchvision_layout.ARCHITECTURES``.
    """
    # Imported here, because torchvision takes long to import and most runs do not need it.
    from torchvision.models import get_model_weights

    transforms = get_model_weights(arch)["DEFAULT"].transforms()
    crop, short_side = transforms.crop_size[0], min(transforms.resize_size)
    frames, stride = next(clip for start, clip in _CLIPS.items() if arch.startswith(start))
    return {
        "MODEL.BACKBONE.NAME": "TorchvisionVideo",
        "MODEL.BACKBONE.ARCH": arch,
        "MODEL.PIXEL_MEAN": [round(255 * value, 6) for value in transforms.mean],
        "MODEL.PIXEL_STD": [round(255 * value, 6) for value in transforms.std],
        "INPUT.NUM_FRAMES": frames,
        "INPUT.FRAME_STRIDE": stride,
        # The largest is to the smallest as 320 to 256 in the paper.
        "INPUT.SHORT_SIDE_RANGE": [short_side, short_side * 5 // 4],
        "INPUT.CROP_SIZE": crop,
        "TEST.SHORT_SIDE": short_side,
        "TEST.CROP_SIZE": crop,
    }


def settle_image_network(converted: common.Converted) -> None:
    """Say, in place, what the network of renamed ImageNet weights computes: torchvision's, and PySlowFast's as well."""
    converted.overrides = common.architecture_of(converted.weights) | IMAGENET_NETWORK
    # The authors started from ImageNet with their own statistics; the two differ by less than a fifth of a deviation.
    converted.tolerated = {"MODEL.PIXEL_MEAN": [[114.75] * 3], "MODEL.PIXEL_STD": [[57.375] * 3]}
    converted.notes.append(common.IMAGE_NOTE)


def _video_network(content: Mapping[str, Any]) -> str:
    """The name of torchvision's function for a video network; "" where the names are not those of one."""
    if "stem.0.weight" in content and any(name.startswith("layer1.0.conv1.0.") for name in content):
        if content["stem.0.weight"].shape[2] == 1:
            return "r2plus1d_18"
        second = next((tensor for name, tensor in content.items() if name.startswith("layer2.0.conv1.0.we")), None)
        return "mc3_18" if second is not None and second.shape[2] == 1 else "r3d_18"
    if "features.0.0.0.weight" in content and content["features.0.0.0.weight"].ndim == 5:
        return "s3d"
    if {"conv_proj.weight", "pos_encoding.class_token"} <= set(content):
        return "mvit_v1_b" if "pos_encoding.class_pos" in content else "mvit_v2_s"
    if {"patch_embed.proj.weight", "features.0.0.attn.relative_position_bias_table"} <= set(content):
        sizes = len(content["patch_embed.proj.weight"]), "features.4.17.norm1.weight" in content
        return {(96, False): "swin3d_t", (96, True): "swin3d_s", (128, True): "swin3d_b"}.get(sizes, "")
    return ""


def recognise_resnet3d(content: Mapping[str, Any]) -> bool:
    """Whether the names are torchvision's and the kernels have a time axis."""
    return content.keys() >= _RESNET_NAMES and content["conv1.weight"].ndim == 5


def convert_resnet3d(content: Mapping[str, Any]) -> common.Converted:
    """Bring the authors' I3D of 32x2 clips, with or without blocks, under our names; ValueError for another network."""
    converted = common.rename("pytorch-resnet3d", content, NAMES.to_ours)
    converted.overrides = common.settings_of_authors(converted.weights) | {"MODEL.BACKBONE.STEM": "authors_32x2"}
    clips = "taken to be for 32x2 clips, as in its code; the authors' 8x8 networks have the same names and shapes"
    converted.notes = [clips, common.WHOLE_MAP_NOTE]
    return converted
