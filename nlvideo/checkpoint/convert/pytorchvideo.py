"""PyTorchVideo's ResNets: ``c2d_r50``, ``i3d_r50`` and ``slow_r50`` of its hub, and deeper ones of the same layout."""

from collections.abc import Mapping
from typing import Any

from nlvideo.checkpoint.convert import common
from nlvideo.checkpoint.convert.pyslowfast import read_recipe

NAME = "pytorchvideo"

_BLOCK, _OUR_BLOCK = "blocks.{stage}.res_blocks.{block}", "backbone.res{stage}.{block}"


def _names(stages: Mapping[int, int], head: int) -> common.ModuleNames:
    modules = {
        "blocks.0.conv": "backbone.stem.conv",
        "blocks.0.norm": "backbone.stem.bn",
        f"{_BLOCK}.branch1_conv": f"{_OUR_BLOCK}.shortcut.conv",
        f"{_BLOCK}.branch1_norm": f"{_OUR_BLOCK}.shortcut.bn",
        **{f"{_BLOCK}.branch2.conv_{letter}": f"{_OUR_BLOCK}.conv{n}" for n, letter in enumerate("abc", 1)},
        **{f"{_BLOCK}.branch2.norm_{letter}": f"{_OUR_BLOCK}.bn{n}" for n, letter in enumerate("abc", 1)},
        f"blocks.{head}.proj": "head.classifier",
    }
    return common.ModuleNames(modules, stages)


# Our stem -> their names: the temporal pool after res2 is a block without weights that moves the numbers after it.
NAMES = {
    "slowfast_8x8": _names({1: 2, 3: 3, 4: 4, 5: 5}, head=6),
    "slow": _names({1: 2, 2: 3, 3: 4, 4: 5}, head=5),
}

# What PySlowFast puts before the names of a PyTorchVideo network that it trains.
_PREFIX = "model."

_REASONS = {
    "multipathway": common.TWO_PATHWAYS,
    r"\.conv\.conv_t\.|\.norm_b\.1\.": common.NO_X3D,
    r"\.attn\.": "a vision transformer is not one of our ResNets",
}


def convert(content: Mapping[str, Any]) -> common.Converted:
    """Bring the weights of a C2D, I3D or Slow network under our names; ValueError for another network.

    Where PySlowFast trained the network, `content` has its config as `CONFIG_TEXT`.
    """
    prefixed = {name.removeprefix(_PREFIX): name for name in content}
    stem = "slow" if any(name.startswith("blocks.2.") for name in prefixed) else "slowfast_8x8"
    plain = {name: content[original] for name, original in prefixed.items()}
    converted = common.rename(NAME, plain, NAMES[stem].to_ours, _REASONS)
    converted.mapped = [(prefixed[theirs], ours) for theirs, ours in converted.mapped]
    settings = common.settings_of_authors(converted.weights, common.BOTTLENECK_DEPTHS)
    settings["MODEL.BACKBONE.STEM"] = stem
    if isinstance(text := content.get(common.CONFIG_TEXT), str):
        with common.reading_recipe(NAME):
            recipe, converted.notes = read_recipe(text, settings, ())
        settings |= recipe
    else:
        difference = "their head averages logits over positions, ours probabilities"
        converted.notes = [f"{difference}: the same on crops of INPUT.CROP_SIZE"]
    converted.overrides = settings
    return converted


def recognise(content: Mapping[str, Any]) -> bool:
    """Whether the names are of this framework, also of networks that `convert` refuses."""
    stems = ("blocks.0.conv.weight", "blocks.0.conv.conv_t.weight", "blocks.0.multipathway_blocks.0.conv.weight")
    return any(prefix + stem in content for prefix in ("", _PREFIX) for stem in stems)
