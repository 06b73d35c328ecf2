"""Caffe2 checkpoints of the authors and of PySlowFast's zoo, and the names that all ResNets of that family share."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nlvideo.checkpoint.convert.architecture import IMAGE_NOTE, architecture_of, is_image_network
from nlvideo.checkpoint.convert.common import Converted, Source, register
from nlvideo.layers.norm import EPS
from nlvideo.utils.messages import some

_RESIDUAL = re.compile(r"res([2-5])_(\d+)_(branch1|branch2[abc])(_bn)?_(w|b|s|rm|riv)$")
_NONLOCAL = re.compile(r"nonlocal_conv([2-5])_(\d+)_(theta|phi|g|out|bn)_(w|b|s|rm|riv)$")
_STEM = re.compile(r"(conv1|res_conv1_bn)_(w|b|s|rm|riv)$")
_CLASSIFIER = re.compile(r"(?:pred|fc1000)_(w|b)$")

# "riv" is the running variance in spite of its name ("inverse"): a comment of the authors says so.
_LEAVES = {"w": "weight", "s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
_TRAINING_STATE = {"lr", "model_iter", "epoch", "cfg"}

# What the authors' code computes in every network. Their mean and deviation are those of the config's defaults, too.
COMMON_OVERRIDES = {
    "MODEL.PIXEL_MEAN": [114.75, 114.75, 114.75],
    "MODEL.PIXEL_STD": [57.375, 57.375, 57.375],
    "MODEL.BACKBONE.STRIDE_IN_1X1": False,
}
NONLOCAL_OVERRIDES = {
    "MODEL.NONLOCAL.PAIRWISE": "embedded_gaussian",
    "MODEL.NONLOCAL.ATTEND": "spacetime",
    "MODEL.NONLOCAL.SUBSAMPLE": True,
    "MODEL.NONLOCAL.POOL_FIRST": True,
    "MODEL.NONLOCAL.SCALE": True,
    "MODEL.NONLOCAL.TEMPORAL_GROUPS": 1,
}
# Stems of the authors' two network definitions and of PySlowFast's C2D and I3D, with and without the pool over time.
# The weights of all four have the same names and shapes.
STEMS = ["authors_32x2", "authors_8x8", "slowfast_8x8", "slow"]


def our_name(blob: str) -> str | None:
    """Return the name of a Caffe2 ResNet's blob in our `VideoClassifier`; None for anything but weights.

    The bias of a residual convolution, which our blocks do not have, gets the name it would have.
    """
    if match := _RESIDUAL.match(blob):
        stage, block, branch, norm, leaf = match.groups()
        kind = "bn" if norm else "conv"
        layer = f"shortcut.{kind}" if branch == "branch1" else f"{kind}{'abc'.index(branch[-1]) + 1}"
        return f"backbone.res{stage}.{block}.{layer}.{_LEAVES[leaf]}"
    if match := _NONLOCAL.match(blob):
        stage, block, layer, leaf = match.groups()
        return f"backbone.res{stage}.nl{block}.{layer}.{_LEAVES[leaf]}"
    if match := _STEM.match(blob):
        return f"backbone.stem.{'conv' if match[1] == 'conv1' else 'bn'}.{_LEAVES[match[2]]}"
    if match := _CLASSIFIER.match(blob):
        return f"head.classifier.{_LEAVES[match[1]]}"
    return None


def state_of_training(blob: str) -> str | None:
    """Return why a blob that belongs to the optimizer or the loop is dropped; None for others."""
    if blob.endswith("_momentum"):
        return "momentum of the optimizer"
    return "state of the training" if blob in _TRAINING_STATE else None


def rename(content: Mapping[str, Tensor], other: str | None = None) -> Converted:
    """Bring the blobs of a Caffe2 ResNet under our names; optimizer and training state are dropped.

    Args:
        content: blob -> tensor; the prefix ``gpu_0/`` of a device scope is ignored.
        other: why other blobs are dropped; None: they are an error, since a network with them is not ours.

    Raises:
        ValueError: other blobs, see above.
    """
    converted = Converted({})
    strange = []
    for blob, tensor in content.items():
        bare = blob.removeprefix("gpu_0/")
        name, reason = our_name(bare), state_of_training(bare)
        if name is not None:
            converted.weights[name] = tensor
            converted.mapped.append((blob, name))
        elif reason or other:
            converted.dropped.append((blob, reason or other))
        else:
            strange.append(blob)
    if strange:
        pathways = " (a second pathway: SlowFast)" if any(blob.startswith("t_") for blob in strange) else ""
        raise ValueError(f"blobs of another network than a ResNet with non-local blocks{pathways}: {some(strange)}")
    return converted


def tidy(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Give a renamed ResNet our form, in place: classifier as a matrix, affine layers as frozen norms, no biases.

    Returns:
        The config keys that say which norms there are.
    """
    if "head.classifier.weight" in weights:
        # A network for testing has a 1x1x1 convolution.
        weights["head.classifier.weight"] = weights["head.classifier.weight"].flatten(1)
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


def _recognise(content: Mapping[str, Any]) -> bool:
    names = {name.removeprefix("gpu_0/") for name in content}
    if not {"conv1_w", "res_conv1_bn_s", "res2_0_branch2a_w"} <= names:
        return False
    # Image networks without statistics are those of Detectron.
    first = content.get("conv1_w", content.get("gpu_0/conv1_w"))
    return first.ndim == 5 or "res_conv1_bn_rm" in names


def _convert(content: Mapping[str, Any]) -> Converted:
    converted = rename(content)
    norms = tidy(converted.weights)
    converted.overrides = {**COMMON_OVERRIDES, **architecture_of(converted.weights), **norms}
    if is_image_network(converted.weights):
        converted.notes.append(IMAGE_NOTE)
        return converted
    if converted.overrides["MODEL.BACKBONE.TEMPORAL"] == "slow":
        # Only PySlowFast has such networks, and they all have this stem.
        converted.overrides["MODEL.BACKBONE.STEM"] = "slow"
    else:
        converted.undecided["MODEL.BACKBONE.STEM"] = STEMS
    if converted.overrides["MODEL.NONLOCAL.ENABLED"]:
        converted.overrides = {**converted.overrides, **NONLOCAL_OVERRIDES}
        if norms["MODEL.NORM"] == "FrozenBN":
            # With affine layers the authors' res3 attends within runs of 4 frames: 4 runs in a long clip, 1 in a short.
            del converted.overrides["MODEL.NONLOCAL.TEMPORAL_GROUPS"]
            converted.overrides["MODEL.NONLOCAL.TEMPORAL_GROUP_STAGES"] = ["res3"]
            converted.undecided["MODEL.NONLOCAL.TEMPORAL_GROUPS"] = [4, 1]
            converted.notes.append("affine layers: res3 attends within 4 groups of frames of 32x4 and 128x1 clips")
    return converted


register(Source("caffe2", _recognise, _convert))
