"""PySlowFast's single-pathway networks: C2D, I3D and Slow, with and without non-local blocks (``.pyth`` files)."""

from collections.abc import Mapping
from typing import Any

from nlvideo.checkpoint.convert.architecture import (
    BOTTLENECK_DEPTHS,
    architecture_of,
    is_image_network,
    nonlocal_places,
)  # fmt: skip
from nlvideo.checkpoint.convert.caffe2 import COMMON_OVERRIDES, NONLOCAL_OVERRIDES
from nlvideo.checkpoint.convert.common import Converted, Source, register
from nlvideo.checkpoint.convert.names import ModuleNames, rename
from nlvideo.checkpoint.convert.pyslowfast_recipe import read_recipe
from nlvideo.checkpoint.convert.recipe import reading_recipe
from nlvideo.checkpoint.convert.torchvision import settle_image_network
from nlvideo.checkpoint.read.read_file import CONFIG_TEXT

NAME = "pyslowfast"

_BLOCK, _NONLOCAL = "s{stage}.pathway0_res{block}", "s{stage}.pathway0_nonlocal{block}"
_OUR_BLOCK, _OUR_NONLOCAL = "backbone.res{stage}.{block}", "backbone.res{stage}.nl{block}"

NAMES = ModuleNames(
    {
        "s1.pathway0_stem.conv": "backbone.stem.conv",
        "s1.pathway0_stem.bn": "backbone.stem.bn",
        f"{_BLOCK}.branch1": f"{_OUR_BLOCK}.shortcut.conv",
        f"{_BLOCK}.branch1_bn": f"{_OUR_BLOCK}.shortcut.bn",
        **{f"{_BLOCK}.branch2.{letter}": f"{_OUR_BLOCK}.conv{n}" for n, letter in enumerate("abc", 1)},
        **{f"{_BLOCK}.branch2.{letter}_bn": f"{_OUR_BLOCK}.bn{n}" for n, letter in enumerate("abc", 1)},
        **{f"{_NONLOCAL}.conv_{conv}": f"{_OUR_NONLOCAL}.{conv}" for conv in ("theta", "phi", "g", "out")},
        f"{_NONLOCAL}.bn": f"{_OUR_NONLOCAL}.bn",
        # Its name in files of 2019 and early 2020.
        f"{_NONLOCAL}.norm": f"{_OUR_NONLOCAL}.bn",
        "head.projection": "head.classifier",
    },
    stages={2: 2, 3: 3, 4: 4, 5: 5},
)


def convert(content: Mapping[str, Any]) -> Converted:
    """Bring the weights of a C2D, I3D or Slow network under our names.

    A training checkpoint carries its config as text; where `content` has it as `CONFIG_TEXT`, it decides what names and
    shapes cannot show. Elsewhere the values are those of their published recipes, and `undecided` lists the others.

    Args:
        content: name -> tensor, and possibly `CONFIG_TEXT`.

    Raises:
        ValueError: a network that ours cannot express.
    """
    converted = rename(NAME, content, NAMES, _explain)
    if is_image_network(converted.weights):
        # Their ImageNet ResNet, from which their recipes "IN1K" start; 1 x 7 x 7 kernels would be a C2D.
        settle_image_network(converted)
        return converted
    settings = COMMON_OVERRIDES | architecture_of(converted.weights, BOTTLENECK_DEPTHS)
    if settings["MODEL.NONLOCAL.ENABLED"]:
        settings |= NONLOCAL_OVERRIDES
    if isinstance(text := content.get(CONFIG_TEXT), str):
        with reading_recipe(NAME):
            recipe, notes = read_recipe(text, NAME, settings, nonlocal_places(converted.weights))
        settings |= recipe
        converted.notes += notes
    else:
        _assume(converted, settings)
    converted.overrides = settings
    return converted


def _explain(name: str) -> str | None:
    if "pathway1_" in name or "_fuse." in name:
        return "a SlowFast network has two pathways, ours have one"
    if name.startswith("s1.pathway0_stem.conv_xy"):
        return "an X3D network is not one of our ResNets"
    return None


def _assume(converted: Converted, settings: dict[str, Any]) -> None:
    """Where the file does not say: what their published recipes have first, and what else it could be."""
    slow = settings["MODEL.BACKBONE.TEMPORAL"] == "slow"
    if slow:
        settings["MODEL.BACKBONE.STEM"] = "slow"
    else:
        converted.undecided["MODEL.BACKBONE.STEM"] = ["slowfast_8x8", "slow"]
        converted.notes.append("MODEL.BACKBONE.STEM: 'slow' for their 'slow_c2d' and 'slow_i3d', once called 'nopool'")
    if settings["MODEL.NONLOCAL.ENABLED"]:
        del settings["MODEL.NONLOCAL.PAIRWISE"]
        forms = ["embedded_gaussian", "dot_product"]
        converted.undecided["MODEL.NONLOCAL.PAIRWISE"] = forms[::-1] if slow else forms
        converted.notes.append(
            "MODEL.NONLOCAL.PAIRWISE: their recipes have 'dot_product' for Slow, 'embedded_gaussian' for C2D and I3D"
        )


def _recognise(content: Mapping[str, Any]) -> bool:
    return "s1.pathway0_stem.conv.weight" in content or "s1.pathway0_stem.conv_xy.weight" in content


register(Source(NAME, _recognise, convert))
