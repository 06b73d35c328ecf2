"""ResNets with Caffe's names: the authors', PySlowFast's, and those of images from MSRA that Detectron uses."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nlvideo.checkpoint.convert import common
from nlvideo.checkpoint.convert.torchvision import NAMES
from nlvideo.layers.norm import EPS

# "riv" is the running variance in spite of its name ("inverse"): a comment of the authors says so.
_LEAVES = {"w": "weight", "s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
_BLOBS = {"conv1_w", "res_conv1_bn_s", "res2_0_branch2a_w"}
_TRAINING_STATE = {"lr", "model_iter", "epoch", "cfg"}

# Stems of the authors' two network definitions and of PySlowFast's C2D and I3D, with and without the pool over time.
# The weights of all four have the same names and shapes.
STEMS = ["authors_32x2", "authors_8x8", "slowfast_8x8", "slow"]


def _pathway(theirs: str, ours: str) -> dict[str, str]:
    block, our_block = f"{theirs}res{{stage}}_{{block}}_branch", f"{ours}.res{{stage}}.{{block}}"
    return {
        f"{theirs}conv1": f"{ours}.stem.conv",
        f"{theirs}res_conv1_bn": f"{ours}.stem.bn",
        f"{block}1": f"{our_block}.shortcut.conv",
        f"{block}1_bn": f"{our_block}.shortcut.bn",
        **{f"{block}2{letter}": f"{our_block}.conv{n}" for n, letter in enumerate("abc", 1)},
        **{f"{block}2{letter}_bn": f"{our_block}.bn{n}" for n, letter in enumerate("abc", 1)},
    }


# PySlowFast's SlowFast: after the stem of the fast pathway, and after the last block of each of its stages.
_LATERAL = {"t_pool1_subsample": "stem", "t_res{stage}_{block}_branch2c_bn_subsample": "res{stage}"}
_MODULES = common.ModuleNames(
    {
        **_pathway("", "backbone"),
        **_pathway("t_", "backbone.fast"),
        **{f"{theirs}{bn}": f"backbone.lateral.{ours}.{bn.strip('_') or 'conv'}"
           for theirs, ours in _LATERAL.items() for bn in ("", "_bn")},
        **{f"nonlocal_conv{{stage}}_{{block}}_{layer}": f"backbone.res{{stage}}.nl{{block}}.{layer}"
           for layer in ("theta", "phi", "g", "out", "bn")},
        "pred": "head.classifier",
        "fc1000": "head.classifier",
    },
    stages={2: 2, 3: 3, 4: 4, 5: 5},
)  # fmt: skip


def _our_name(blob: str) -> str | None:
    """Our name of a blob; the bias of a residual convolution, which our blocks lack, gets the name it would have."""
    module, _, leaf = blob.removeprefix("gpu_0/").rpartition("_")
    return _MODULES.to_ours(f"{module}.{_LEAVES.get(leaf)}")


def _state_of_training(blob: str) -> str:
    if blob.endswith("_momentum"):
        return "momentum of the optimizer"
    return "state of the training" if blob.removeprefix("gpu_0/") in _TRAINING_STATE else ""


def _tidy(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Give a renamed ResNet our form, in place: classifier as a matrix, affine layers as frozen norms, no biases.

    Returns the config keys that say which norms there are.
    """
    if common.CLASSIFIER in weights:
        # A network for testing has a 1x1x1 convolution.
        weights[common.CLASSIFIER] = weights[common.CLASSIFIER].flatten(1)
    norms = [name.removesuffix(".weight") for name in weights if re.search(r"\.bn\d?\.weight$", name)]
    frozen = [norm for norm in norms if f"{norm}.running_mean" not in weights]
    for norm in frozen:
        # y = s x + b: with this variance the division is by exactly 1.
        weights[f"{norm}.running_mean"] = torch.zeros_like(weights[f"{norm}.weight"])
        weights[f"{norm}.running_var"] = torch.full_like(weights[f"{norm}.weight"], 1 - EPS)
    for norm in norms:
        bias = re.sub(r"bn(\d?)$", r"conv\1.bias", norm)
        if ".nl" not in norm and bias in weights:
            # A bias in front of a norm moves the mean that the norm subtracts.
            weights[f"{norm}.running_mean"] = weights[f"{norm}.running_mean"] - weights.pop(bias)
    backbone = {norm in frozen for norm in norms if ".nl" not in norm}
    blocks = {norm in frozen for norm in norms if ".nl" in norm}
    overrides = {"MODEL.NORM": "FrozenBN" if backbone == {True} else "BN"}
    if blocks and blocks != backbone:
        overrides["MODEL.NONLOCAL.NORM"] = "FrozenBN" if blocks == {True} else "BN"
    return overrides


def recognise(content: Mapping[str, Any]) -> bool:
    """Whether the names are those of the authors' or PySlowFast's networks in Caffe2."""
    blobs = {name.removeprefix("gpu_0/"): value for name, value in content.items()}
    return blobs.keys() >= _BLOBS and not _is_detectron(blobs)


def convert(content: Mapping[str, Any]) -> common.Converted:
    """Bring the blobs of the authors' or PySlowFast's networks under our names; ValueError for another network."""
    converted = common.rename("caffe2", content, _our_name, drop=_state_of_training)
    norms = _tidy(converted.weights)
    converted.overrides = common.settings_of_authors(converted.weights) | norms
    if common.is_image_network(converted.weights):
        converted.notes.append(common.IMAGE_NOTE)
        return converted
    if "MODEL.BACKBONE.NAME" in converted.overrides:
        common.leave_alpha_open(converted, converted.overrides)
    elif converted.overrides["MODEL.BACKBONE.TEMPORAL"] == "slow":
        # Only PySlowFast has such networks, and they all have this stem.
        converted.overrides["MODEL.BACKBONE.STEM"] = "slow"
    else:
        converted.undecided["MODEL.BACKBONE.STEM"] = STEMS
    if converted.overrides["MODEL.NONLOCAL.ENABLED"] and norms["MODEL.NORM"] == "FrozenBN":
        # With affine layers the authors' res3 attends within runs of 4 frames: 4 runs in a long clip, 1 in a short.
        del converted.overrides["MODEL.NONLOCAL.TEMPORAL_GROUPS"]
        converted.overrides["MODEL.NONLOCAL.TEMPORAL_GROUP_STAGES"] = ["res3"]
        converted.undecided["MODEL.NONLOCAL.TEMPORAL_GROUPS"] = [4, 1]
        converted.notes.append("affine layers: res3 attends within 4 groups of frames of 32x4 and 128x1 clips")
    return converted


# Detectron's PIXEL_MEANS are 102.9801, 115.9465, 122.7717 for blue, green, red. It does not divide by a deviation.
PIXEL_MEAN = [122.7717, 115.9465, 102.9801]
PIXEL_STD = [1.0, 1.0, 1.0]


def recognise_detectron(content: Mapping[str, Any]) -> bool:
    """Whether the names are those of Detectron's pickles; its copies under torchvision's names need to be named."""
    return content.keys() >= _BLOBS and _is_detectron(content)


def _is_detectron(blobs: Mapping[str, Any]) -> bool:
    return blobs["conv1_w"].ndim == 4 and "res_conv1_bn_rm" not in blobs


def convert_detectron(content: Mapping[str, Any]) -> common.Converted:
    """Bring a ResNet of MSRA's under our names, from either form; ValueError for another network."""
    if "conv1_w" in content:
        other = "no part of a classifier of images"
        converted = common.rename("detectron", content, _our_name, drop=lambda blob: _state_of_training(blob) or other)
    else:
        converted = common.rename("detectron", content, NAMES.to_ours)
    norms = _tidy(converted.weights)
    converted.overrides = common.architecture_of(converted.weights) | norms
    if not common.is_image_network(converted.weights):
        raise ValueError("Detectron's networks are of images, but the first kernel has a time axis")
    converted.weights[common.STEM] = converted.weights[common.STEM].flip(1)
    converted.overrides |= {"MODEL.PIXEL_MEAN": PIXEL_MEAN, "MODEL.PIXEL_STD": PIXEL_STD}
    converted.overrides["MODEL.BACKBONE.STRIDE_IN_1X1"] = True
    converted.notes += ["the first kernel is turned from blue, green, red to red, green, blue", common.IMAGE_NOTE]
    return converted
