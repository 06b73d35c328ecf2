"""The TSM authors' ResNets (mit-han-lab/temporal-shift-module), with and without non-local blocks, and their TSN."""

from collections.abc import Mapping
from typing import Any

from nlvideo.checkpoint.convert import common
from nlvideo.checkpoint.convert.torchvision import IMAGENET_NETWORK, RESNET

NAME = "temporal-shift-module"
PREFIX = "base_model."

_NONLOCAL, _OUR_NONLOCAL = "layer{stage}.{block}.nl", "backbone.res{stage}.nl{block}"
_BLOCK_LAYERS = {"theta": "theta", "phi.0": "phi", "g.0": "g", "W.0": "out", "W.1": "bn"}
NAMES = common.ModuleNames(
    {f"{PREFIX}{theirs}": ours for theirs, ours in RESNET.items()}
    | {f"{PREFIX}{_NONLOCAL}.{theirs}": f"{_OUR_NONLOCAL}.{ours}" for theirs, ours in _BLOCK_LAYERS.items()}
    # The first where they trained with dropout.
    | {"new_fc": "head.classifier", f"{PREFIX}fc": "head.classifier"},
    stages={1: 2, 2: 3, 3: 4, 4: 5},
)
PLACES = ["res3.0", "res3.2", "res4.0", "res4.2", "res4.4"]
# Their blocks are those of AlexHex7/Non-local_pytorch.
BLOCKS = common.AUTHORS_BLOCKS | {"MODEL.NONLOCAL.POOL_FIRST": False, "MODEL.NONLOCAL.SCALE": False}

_REASONS = {r"layer2\.net\.": common.POOLED_TSM}


def convert(content: Mapping[str, Any]) -> common.Converted:
    """Bring the weights of a TSM or TSN network under our names; ValueError for another network."""
    converted = common.rename_shifted(NAME, content, NAMES.to_ours, _REASONS)
    common.add_time_axis(converted.weights)
    settings = common.architecture_of(converted.weights) | IMAGENET_NETWORK | {"MODEL.BACKBONE.STEM": "slow"}
    settings |= common.SEGMENTS | common.shift_settings(content, settings["MODEL.BACKBONE.DEPTH"])
    if settings["MODEL.NONLOCAL.ENABLED"]:
        settings |= BLOCKS
    converted.overrides = settings
    converted.notes = [common.SEGMENTS_NOTE, common.WHOLE_MAP_NOTE]
    return converted


def recognise(content: Mapping[str, Any]) -> bool:
    """Whether the names are of this framework, also of networks that `convert` refuses."""
    return f"{PREFIX}conv1.weight" in content
