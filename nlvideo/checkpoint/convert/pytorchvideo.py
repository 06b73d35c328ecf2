"""PyTorchVideo's ResNets: ``c2d_r50``, ``i3d_r50`` and ``slow_r50`` of its hub, and deeper ones of the same layout."""

from collections.abc import Mapping
from typing import Any

from nlvideo.checkpoint.convert.common import (
    AUTHORS_NETWORK,
    BOTTLENECK_DEPTHS,
    CONFIG_TEXT,
    Converted,
    ModuleNames,
    architecture_of,
    reading_recipe,
    rename,
)
from nlvideo.checkpoint.convert.pyslowfast import read_recipe

NAME = "pytorchvideo"

_BLOCK, _OUR_BLOCK = "blocks.{stage}.res_blocks.{block}", "backbone.res{stage}.{block}"


def _names(stages: Mapping[int, int], head: int) -> ModuleNames:
    modules = {
        "blocks.0.conv": "backbone.stem.conv",
        "blocks.0.norm": "backbone.stem.bn",
        f"{_BLOCK}.branch1_conv": f"{_OUR_BLOCK}.shortcut.conv",
        f"{_BLOCK}.branch1_norm": f"{_OUR_BLOCK}.shortcut.bn",
        f"blocks.{head}.proj": "head.classifier",
    }
    for number, letter in enumerate("abc", 1):
        modules[f"{_BLOCK}.branch2.conv_{letter}"] = f"{_OUR_BLOCK}.conv{number}"
        modules[f"{_BLOCK}.branch2.norm_{letter}"] = f"{_OUR_BLOCK}.bn{number}"
    return ModuleNames(modules, stages)


# Our stem -> their names: the temporal pool after res2 is a block without weights that moves the numbers after it.
NAMES = {
    "slowfast_8x8": _names({1: 2, 3: 3, 4: 4, 5: 5}, head=6),
    "slow": _names({1: 2, 2: 3, 3: 4, 4: 5}, head=5),
}

# What PySlowFast puts before the names of a PyTorchVideo network that it trains.
_PREFIX = "model."


def convert(content: Mapping[str, Any]) -> Converted:
    """Bring the weights of a C2D, I3D or Slow network under our names.

    Args:
        content: name -> tensor, and `CONFIG_TEXT` where PySlowFast trained the network.

    Raises:
        ValueError: a network that ours cannot express.
    """
    prefixed = {name.removeprefix(_PREFIX): name for name in content}
    stem = "slow" if any(name.startswith("blocks.2.") for name in prefixed) else "slowfast_8x8"
    plain = {name: content[original] for name, original in prefixed.items()}
    converted = rename(NAME, plain, NAMES[stem].to_ours, _explain)
    converted.mapped = [(prefixed[theirs], ours) for theirs, ours in converted.mapped]
    settings = {
        **AUTHORS_NETWORK, **architecture_of(converted.weights, BOTTLENECK_DEPTHS), "MODEL.BACKBONE.STEM": stem
    }  # fmt: skip
    if isinstance(text := content.get(CONFIG_TEXT), str):
        with reading_recipe(NAME):
            recipe, converted.notes = read_recipe(text, NAME, settings, ())
        settings |= recipe
    else:
        difference = "their head averages logits over positions, ours probabilities"
        converted.notes = [f"{difference}: the same on crops of INPUT.CROP_SIZE"]
    converted.overrides = settings
    return converted


def _explain(name: str) -> str:
    if "multipathway" in name:
        return "a SlowFast network has two pathways, ours have one"
    if ".conv.conv_t." in name or ".norm_b.1." in name:
        return "an X3D network is not one of our ResNets"
    if ".attn." in name:
        return "a vision transformer is not one of our ResNets"
    return ""


def recognise(content: Mapping[str, Any]) -> bool:
    """Whether the names are of this framework, also of networks that `convert` refuses."""
    stems = ("blocks.0.conv.weight", "blocks.0.conv.conv_t.weight", "blocks.0.multipathway_blocks.0.conv.weight")
    return any(prefix + stem in content for prefix in ("", _PREFIX) for stem in stems)
