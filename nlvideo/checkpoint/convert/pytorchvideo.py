"""PyTorchVideo's ``c2d_r50``, ``i3d_r50``, ``slow_r50`` and ``slowfast_r50``, and deeper ones of the same layout."""

from collections.abc import Mapping
from typing import Any

from nlvideo.checkpoint.convert import common
from nlvideo.checkpoint.convert.pyslowfast import read_recipe

NAME = "pytorchvideo"

_LATERAL = "blocks.{}.multipathway_fusion"


def _pathway(theirs: str, ours: str) -> dict[str, str]:
    block, our_block = f"blocks.{{stage}}.{theirs}res_blocks.{{block}}", f"{ours}.res{{stage}}.{{block}}"
    return {
        f"blocks.0.{theirs}conv": f"{ours}.stem.conv",
        f"blocks.0.{theirs}norm": f"{ours}.stem.bn",
        f"{block}.branch1_conv": f"{our_block}.shortcut.conv",
        f"{block}.branch1_norm": f"{our_block}.shortcut.bn",
        **{f"{block}.branch2.conv_{letter}": f"{our_block}.conv{n}" for n, letter in enumerate("abc", 1)},
        **{f"{block}.branch2.norm_{letter}": f"{our_block}.bn{n}" for n, letter in enumerate("abc", 1)},
    }


_PLAIN = _pathway("", "backbone")
_TWO = {
    **_pathway("multipathway_blocks.0.", "backbone"),
    **_pathway("multipathway_blocks.1.", "backbone.fast"),
    **{f"{_LATERAL}.{theirs}".format(n): f"backbone.lateral.{stage}.{ours}"
       for n, stage in enumerate(("stem", "res2", "res3", "res4"))
       for theirs, ours in (("conv_fast_to_slow", "conv"), ("norm", "bn"))},
}  # fmt: skip


def _names(modules: Mapping[str, str], stages: Mapping[int, int], head: int) -> common.ModuleNames:
    return common.ModuleNames({**modules, f"blocks.{head}.proj": "head.classifier"}, stages)


# Our stem, or backbone -> their names. The temporal pool after res2 and the pools before the classifier of SlowFast are
# blocks without weights: the numbers after them are higher.
NAMES = {
    "slowfast_8x8": _names(_PLAIN, {1: 2, 3: 3, 4: 4, 5: 5}, head=6),
    "slow": _names(_PLAIN, {1: 2, 2: 3, 3: 4, 4: 5}, head=5),
    "SlowFast": _names(_TWO, {1: 2, 2: 3, 3: 4, 4: 5}, head=6),
}

_TWO_PATHWAYS = "blocks.0.multipathway_blocks.0.conv.weight"
# What PySlowFast puts before the names of a PyTorchVideo network that it trains.
_PREFIX = "model."

_REASONS = {
    r"\.conv\.conv_t\.|\.norm_b\.1\.": common.NO_X3D,
    r"\.attn\.": "a vision transformer is not one of our ResNets",
}


def convert(content: Mapping[str, Any]) -> common.Converted:
    """Bring the weights of a C2D, I3D, Slow or SlowFast under our names; ValueError for another network.

    Where PySlowFast trained the network, `content` has its config as `CONFIG_TEXT`.
    """
    prefixed = {name.removeprefix(_PREFIX): name for name in content}
    kind = "slow" if any(name.startswith("blocks.2.") for name in prefixed) else "slowfast_8x8"
    kind = "SlowFast" if _TWO_PATHWAYS in prefixed else kind
    plain = {name: content[original] for name, original in prefixed.items()}
    converted = common.rename(NAME, plain, NAMES[kind].to_ours, _REASONS)
    converted.mapped = [(prefixed[theirs], ours) for theirs, ours in converted.mapped]
    settings = common.settings_of_authors(converted.weights, common.BOTTLENECK_DEPTHS)
    if kind != "SlowFast":
        settings["MODEL.BACKBONE.STEM"] = kind
    if isinstance(text := content.get(common.CONFIG_TEXT), str):
        with common.reading_recipe(NAME):
            recipe, converted.notes = read_recipe(text, settings, ())
        settings |= recipe
    else:
        difference = "their head averages logits over positions, ours probabilities"
        converted.notes = [f"{difference}: the same on crops of INPUT.CROP_SIZE"]
        common.leave_alpha_open(converted, settings)
    converted.overrides = settings
    return converted


def recognise(content: Mapping[str, Any]) -> bool:
    """Whether the names are of this framework, also of networks that `convert` refuses."""
    stems = ("blocks.0.conv.weight", "blocks.0.conv.conv_t.weight", _TWO_PATHWAYS)
    return any(prefix + stem in content for prefix in ("", _PREFIX) for stem in stems)
