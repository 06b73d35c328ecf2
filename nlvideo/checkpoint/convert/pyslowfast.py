"""PySlowFast's single-pathway networks: C2D, I3D and Slow, with and without non-local blocks (``.pyth`` files)."""

from collections.abc import Mapping
from typing import Any

from nlvideo.checkpoint.convert.architecture import BOTTLENECK_DEPTHS, architecture_of, nonlocal_places
from nlvideo.checkpoint.convert.common import Converted, Source, register
from nlvideo.checkpoint.convert.names import ModuleNames, rename
from nlvideo.checkpoint.convert.read import CONFIG_TEXT
from nlvideo.utils.errors import one_of
from nlvideo.utils.safe_yaml import parse_yaml

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
        f"{_NONLOCAL}.norm": f"{_OUR_NONLOCAL}.bn",
        "head.projection": "head.classifier",
    },
    stages={2: 2, 3: 3, 4: 4, 5: 5},
)

# MODEL.ARCH -> our TEMPORAL and STEM. Only "c2d" and "i3d" have the temporal pool behind res2.
ARCHITECTURES = {
    "2d": ("c2d", "slow"),
    "c2d": ("c2d", "slowfast_8x8"),
    "c2d_nopool": ("c2d", "slow"),
    "i3d": ("i3d_3x1x1", "slowfast_8x8"),
    "i3d_nopool": ("i3d_3x1x1", "slow"),
    "slow": ("slow", "slow"),
}

# NONLOCAL.INSTANTIATION -> our PAIRWISE.
INSTANTIATIONS = {"softmax": "embedded_gaussian", "dot_product": "dot_product"}

# The values of keys that change what is computed and that our network has no counterpart for, as in their defaults.
_ONLY = {
    "RESNET.SPATIAL_STRIDES": [[1], [2], [2], [2]],
    "RESNET.SPATIAL_DILATIONS": [[1], [1], [1], [1]],
    "DETECTION.ENABLE": False,
    "DATA.REVERSE_INPUT_CHANNEL": False,
}


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
    settings = architecture_of(converted.weights, BOTTLENECK_DEPTHS)
    recipe = _recipe(content.get(CONFIG_TEXT))
    if recipe is None:
        _assume(converted, settings)
    else:
        settings |= _read(recipe, settings, nonlocal_places(converted.weights))
    settings["MODEL.BACKBONE.STRIDE_IN_1X1"] = bool(_value(recipe, "RESNET.STRIDE_1X1", False))
    settings |= _input(recipe)
    if settings["MODEL.NONLOCAL.ENABLED"]:
        # Their block pools what goes into phi and g, and scales the logits.
        settings |= dict.fromkeys(("MODEL.NONLOCAL.POOL_FIRST", "MODEL.NONLOCAL.SCALE"), True)
        settings["MODEL.NONLOCAL.ATTEND"] = "spacetime"
    converted.overrides = settings
    return converted


def _explain(name: str) -> str | None:
    if "pathway1_" in name or "_fuse." in name:
        return "a SlowFast network has two pathways, ours have one"
    if name.startswith("s1.pathway0_stem.conv_xy"):
        return "an X3D network is not one of our ResNets"
    return None


def _recipe(text: object) -> dict | None:
    if not isinstance(text, str):
        return None
    try:
        recipe = parse_yaml(text)
    except ValueError:
        recipe = None
    if not isinstance(recipe, dict):
        raise ValueError(f"{NAME}: the config in the file is not YAML: {text[:40]!r}")
    return recipe


def _value(recipe: dict | None, key: str, default: Any) -> Any:
    value: Any = recipe or {}
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return default
        value = value[part]
    return value


def _assume(converted: Converted, settings: dict[str, Any]) -> None:
    """Where the file does not say: what their published recipes have first, and what else it could be."""
    temporal = settings["MODEL.BACKBONE.TEMPORAL"]
    if temporal == "slow":
        settings["MODEL.BACKBONE.STEM"] = "slow"
    else:
        converted.undecided["MODEL.BACKBONE.STEM"] = ["slowfast_8x8", "slow"]
        converted.notes.append("MODEL.BACKBONE.STEM: 'slow' for their 'nopool' networks, 'slowfast_8x8' for the others")
    if settings["MODEL.NONLOCAL.ENABLED"]:
        settings["MODEL.NONLOCAL.SUBSAMPLE"] = True
        forms = ["embedded_gaussian", "dot_product"]
        converted.undecided["MODEL.NONLOCAL.PAIRWISE"] = forms[::-1] if temporal == "slow" else forms
        converted.notes.append(
            "MODEL.NONLOCAL.PAIRWISE: their recipes have 'dot_product' for Slow, 'embedded_gaussian' for C2D and I3D"
        )
    converted.notes.append("the clip is taken to be 8 frames with stride 8; of Slow there is a 4x16 recipe as well")


def _read(recipe: dict, settings: dict[str, Any], places: list[str]) -> dict[str, Any]:
    """What their config says of the network, in our keys."""
    arch = _value(recipe, "MODEL.ARCH", None)
    if arch not in ARCHITECTURES:
        raise one_of(f"{NAME}: MODEL.ARCH", arch, ARCHITECTURES)
    temporal, stem = ARCHITECTURES[arch]
    if temporal != settings["MODEL.BACKBONE.TEMPORAL"]:
        found = settings["MODEL.BACKBONE.TEMPORAL"]
        raise ValueError(f"{NAME}: MODEL.ARCH is {arch!r}, but the kernels are those of {found!r}")
    for key, allowed in _ONLY.items():
        value = _value(recipe, key, allowed)
        if value != allowed:
            raise ValueError(f"{NAME}: {key}: got {value!r}, our network can only express {allowed!r}")
    ours = {"MODEL.BACKBONE.STEM": stem}
    if places:
        ours |= _read_nonlocal(recipe, sorted({place.split(".")[0] for place in places}))
    if _value(recipe, "MODEL.HEAD_ACT", "softmax") == "sigmoid":
        ours["MODEL.HEAD.LOSS"] = "sigmoid"
    return ours


def _read_nonlocal(recipe: dict, stages: list[str]) -> dict[str, Any]:
    form = _value(recipe, "NONLOCAL.INSTANTIATION", "dot_product")
    if form not in INSTANTIATIONS:
        raise one_of(f"{NAME}: NONLOCAL.INSTANTIATION", form, INSTANTIATIONS)
    # Per stage and pathway; defaults as in their config.
    pools = _value(recipe, "NONLOCAL.POOL", [[[1, 2, 2]]] * 4)
    groups = _value(recipe, "NONLOCAL.GROUP", [[1]] * 4)
    pool_of = {stage: pools[int(stage[3:]) - 2][0] for stage in stages}
    group_of = {stage: groups[int(stage[3:]) - 2][0] for stage in stages}
    pool = pool_of[stages[0]]
    if pool not in ([1, 2, 2], [1, 1, 1]) or any(other != pool for other in pool_of.values()):
        raise ValueError(f"{NAME}: NONLOCAL.POOL: got {pool_of}, allowed: [1, 2, 2] or [1, 1, 1] in every stage")
    grouped = [stage for stage in stages if group_of[stage] > 1]
    if len({group_of[stage] for stage in grouped}) > 1:
        raise ValueError(f"{NAME}: NONLOCAL.GROUP: got {group_of}, allowed: one number besides 1")
    return {
        "MODEL.NONLOCAL.PAIRWISE": INSTANTIATIONS[form],
        "MODEL.NONLOCAL.SUBSAMPLE": pool == [1, 2, 2],
        "MODEL.NONLOCAL.TEMPORAL_GROUPS": group_of[grouped[0]] if grouped else 1,
        "MODEL.NONLOCAL.TEMPORAL_GROUP_STAGES": grouped if len(grouped) < len(stages) else [],
    }


def _input(recipe: dict | None) -> dict[str, Any]:
    # Their statistics are of pixels from 0 to 1.
    mean, std = _value(recipe, "DATA.MEAN", [0.45] * 3), _value(recipe, "DATA.STD", [0.225] * 3)
    return {
        "MODEL.PIXEL_MEAN": [round(255 * value, 6) for value in mean],
        "MODEL.PIXEL_STD": [round(255 * value, 6) for value in std],
        "INPUT.NUM_FRAMES": _value(recipe, "DATA.NUM_FRAMES", 8),
        "INPUT.FRAME_STRIDE": _value(recipe, "DATA.SAMPLING_RATE", 8),
    }


def _recognise(content: Mapping[str, Any]) -> bool:
    return "s1.pathway0_stem.conv.weight" in content or "s1.pathway0_stem.conv_xy.weight" in content


register(Source(NAME, _recognise, convert))
