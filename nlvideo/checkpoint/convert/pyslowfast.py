"""PySlowFast's C2D, I3D, Slow and SlowFast, with and without non-local blocks (``.pyth`` files)."""

from collections.abc import Collection, Mapping
from typing import Any

from nlvideo.checkpoint.convert import common
from nlvideo.checkpoint.convert.torchvision import settle_image_network
from nlvideo.utils.files.safe_yaml import parse_yaml
from nlvideo.utils.messages import check_one_of

NAME = "pyslowfast"

_NONLOCAL, _OUR_NONLOCAL = "s{stage}.pathway0_nonlocal{block}", "backbone.res{stage}.nl{block}"


def _pathway(number: int, ours: str) -> dict[str, str]:
    block, our_block = f"s{{stage}}.pathway{number}_res{{block}}", f"{ours}.res{{stage}}.{{block}}"
    return {
        f"s1.pathway{number}_stem.conv": f"{ours}.stem.conv",
        f"s1.pathway{number}_stem.bn": f"{ours}.stem.bn",
        f"{block}.branch1": f"{our_block}.shortcut.conv",
        f"{block}.branch1_bn": f"{our_block}.shortcut.bn",
        **{f"{block}.branch2.{letter}": f"{our_block}.conv{n}" for n, letter in enumerate("abc", 1)},
        **{f"{block}.branch2.{letter}_bn": f"{our_block}.bn{n}" for n, letter in enumerate("abc", 1)},
    }


NAMES = common.ModuleNames(
    {
        **_pathway(0, "backbone"),
        **_pathway(1, "backbone.fast"),
        **{f"s{n}_fuse.{theirs}": f"backbone.lateral.{stage}.{ours}"
           for n, stage in enumerate(("stem", "res2", "res3", "res4"), 1)
           for theirs, ours in (("conv_f2s", "conv"), ("bn", "bn"))},
        **{f"{_NONLOCAL}.conv_{conv}": f"{_OUR_NONLOCAL}.{conv}" for conv in ("theta", "phi", "g", "out")},
        f"{_NONLOCAL}.bn": f"{_OUR_NONLOCAL}.bn",
        # Its name in files of 2019 and early 2020.
        f"{_NONLOCAL}.norm": f"{_OUR_NONLOCAL}.bn",
        "head.projection": "head.classifier",
    },
    stages={2: 2, 3: 3, 4: 4, 5: 5},
)  # fmt: skip

_REASONS = {r"^s1\.pathway0_stem\.conv_xy": common.NO_X3D}


def convert(content: Mapping[str, Any]) -> common.Converted:
    """Bring the weights of a C2D, I3D, Slow or SlowFast under our names; ValueError for another network.

    A training checkpoint carries its config as text. Where `content` has it as `CONFIG_TEXT`, it decides what names and
    shapes cannot show. Elsewhere the values are those of their published recipes, and `undecided` lists the others.
    """
    converted = common.rename(NAME, content, NAMES.to_ours, _REASONS)
    if common.is_image_network(converted.weights):
        # Their ImageNet ResNet, from which their recipes "IN1K" start; 1 x 7 x 7 kernels would be a C2D.
        settle_image_network(converted)
        return converted
    settings = common.settings_of_authors(converted.weights, common.BOTTLENECK_DEPTHS)
    if isinstance(text := content.get(common.CONFIG_TEXT), str):
        with common.reading_recipe(NAME):
            recipe, notes = read_recipe(text, settings, common.nonlocal_places(converted.weights))
        settings |= recipe
        converted.notes += notes
    else:
        _assume(converted, settings)
    converted.overrides = settings
    return converted


def _assume(converted: common.Converted, settings: dict[str, Any]) -> None:
    """Where the file does not say: what their published recipes have first, and what else it could be."""
    slow = settings.get("MODEL.BACKBONE.TEMPORAL", "slow") == "slow"
    if "MODEL.BACKBONE.NAME" in settings:
        common.leave_alpha_open(converted, settings)
    elif slow:
        settings["MODEL.BACKBONE.STEM"] = "slow"
    else:
        converted.undecided["MODEL.BACKBONE.STEM"] = ["slowfast_8x8", "slow"]
        converted.notes.append("MODEL.BACKBONE.STEM: 'slow' for their 'slow_c2d' and 'slow_i3d', once called 'nopool'")
    if settings["MODEL.NONLOCAL.ENABLED"]:
        del settings["MODEL.NONLOCAL.PAIRWISE"]
        forms = ["embedded_gaussian", "dot_product"]
        converted.undecided["MODEL.NONLOCAL.PAIRWISE"] = forms[::-1] if slow else forms
        converted.notes.append(
            "MODEL.NONLOCAL.PAIRWISE: their recipes have 'embedded_gaussian' for C2D and I3D, 'dot_product' for others"
        )


def recognise(content: Mapping[str, Any]) -> bool:
    """Whether the names are of this framework, also of networks that `convert` refuses."""
    return "s1.pathway0_stem.conv.weight" in content or "s1.pathway0_stem.conv_xy.weight" in content


# MODEL.ARCH -> our TEMPORAL and STEM. Only "c2d" and "i3d" have the temporal pool after res2. The networks without it
# have had two names: "slow_c2d" today, "c2d_nopool" in 2020.
ARCHITECTURES = {
    "2d": ("c2d", "slow"),
    "c2d": ("c2d", "slowfast_8x8"),
    "slow_c2d": ("c2d", "slow"),
    "c2d_nopool": ("c2d", "slow"),
    "i3d": ("i3d_3x1x1", "slowfast_8x8"),
    "slow_i3d": ("i3d_3x1x1", "slow"),
    "i3d_nopool": ("i3d_3x1x1", "slow"),
    "slow": ("slow", "slow"),
}
_TWO_PATHWAYS = "slowfast"

# NONLOCAL.INSTANTIATION -> our PAIRWISE.
INSTANTIATIONS = {"softmax": "embedded_gaussian", "dot_product": "dot_product"}

# The sections that make the network. Of DETECTION and DATA one key each does, see `_OFF`.
_SECTIONS = {
    "MODEL": common.known(
        "ARCH MODEL_NAME NUM_CLASSES LOSS_FUNC SINGLE_PATHWAY_ARCH MULTI_PATHWAY_ARCH DROPOUT_RATE DROPCONNECT_RATE"
        " FC_INIT_STD ACT_CHECKPOINT DETACH_FINAL_FC FROZEN_BN FP16_ALLREDUCE",
        HEAD_ACT=["softmax", "sigmoid"],
    ),
    "RESNET": common.known(
        "NUM_GROUPS WIDTH_PER_GROUP INPLACE_RELU STRIDE_1X1 ZERO_INIT_FINAL_BN ZERO_INIT_FINAL_CONV DEPTH"
        " NUM_BLOCK_TEMP_KERNEL",
        TRANS_FUNC=["bottleneck_transform"],
        SPATIAL_STRIDES=[[[1], [2], [2], [2]], [[1, 1], [2, 2], [2, 2], [2, 2]]],
        SPATIAL_DILATIONS=[[[1], [1], [1], [1]], [[1, 1], [1, 1], [1, 1], [1, 1]]],
    ),
    "NONLOCAL": common.known("LOCATION GROUP INSTANTIATION POOL"),
    "BN": common.known(
        "USE_PRECISE_STATS NUM_BATCHES_PRECISE WEIGHT_DECAY NUM_SPLITS NUM_SYNC_DEVICES GLOBAL_SYNC MOMENTUM",
        NORM_TYPE=["batchnorm", "sub_batchnorm", "sync_batchnorm", "sync_batchnorm_apex"],
        EPSILON=[1e-5],
    ),
}
_OFF = ("DETECTION.ENABLE", "DATA.REVERSE_INPUT_CHANNEL")


def read_recipe(text: str, settings: Mapping[str, Any], places: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """What a config says that weights do not show: our keys -> values, and notes for the log.

    Args:
        text: the config.
        settings: what names and shapes show, in our keys.
        places: the residual blocks with a non-local block after them, e.g. "res3.1".

    Raises:
        ValueError: it is not YAML, or of another network than `settings` or than ours can express.
    """
    try:
        recipe = parse_yaml(text)
    except ValueError:
        recipe = None
    if not isinstance(recipe, dict):
        raise ValueError(f"the config in the file is not YAML: {text[:40]!r}")
    arch = _value(recipe, "MODEL.ARCH", None)
    check_one_of("MODEL.ARCH", arch, (*ARCHITECTURES, _TWO_PATHWAYS))
    keys = ("MODEL.BACKBONE.NAME", "MODEL.BACKBONE.TEMPORAL", "MODEL.BACKBONE.STEM")
    names = ("SlowFast",) if arch == _TWO_PATHWAYS else ("ResNet3d", *ARCHITECTURES[arch])
    for key, value in zip(keys, names, strict=False):
        shown = settings.get(key, "ResNet3d" if key == keys[0] else value)
        if shown != value:
            raise ValueError(f"MODEL.ARCH is {arch!r} ({key} {value}), but the weights are of {shown!r}")
    ours: dict[str, Any] = dict(zip(keys[1:], names[1:], strict=False))
    if arch == _TWO_PATHWAYS:
        alpha = _value(recipe, "SLOWFAST.ALPHA", 8)
        ours["MODEL.BACKBONE.ARGS"] = [["alpha", alpha], *settings["MODEL.BACKBONE.ARGS"]]
    for name, table in _SECTIONS.items():
        common.check_recipe(name, recipe.get(name) or {}, table)
    for key in _OFF:
        check_one_of(key, bool(_value(recipe, key, False)), [False])
    ours["MODEL.BACKBONE.STRIDE_IN_1X1"] = bool(_value(recipe, "RESNET.STRIDE_1X1", False))
    if places:
        ours |= _read_nonlocal(recipe, sorted({place.split(".")[0] for place in places}))
    if _value(recipe, "MODEL.HEAD_ACT", "softmax") == "sigmoid":
        ours["MODEL.HEAD.LOSS"] = "sigmoid"
    clip, notes = _read_clip(recipe)
    return ours | clip, notes


def _value(recipe: dict[str, Any], key: str, default: Any) -> Any:
    section, name = key.split(".")
    return (recipe.get(section) or {}).get(name, default)


def _read_nonlocal(recipe: dict[str, Any], stages: list[str]) -> dict[str, Any]:
    form = _value(recipe, "NONLOCAL.INSTANTIATION", "dot_product")
    check_one_of("NONLOCAL.INSTANTIATION", form, INSTANTIATIONS)
    # Per stage and pathway; defaults as in their config.
    pools = _value(recipe, "NONLOCAL.POOL", [[[1, 2, 2]]] * 4)
    groups = _value(recipe, "NONLOCAL.GROUP", [[1]] * 4)
    pool_of = {stage: pools[int(stage[3:]) - 2][0] for stage in stages}
    group_of = {stage: groups[int(stage[3:]) - 2][0] for stage in stages}
    pool = pool_of[stages[0]]
    if pool not in ([1, 2, 2], [1, 1, 1]) or any(other != pool for other in pool_of.values()):
        raise ValueError(f"NONLOCAL.POOL: got {pool_of}, allowed: [1, 2, 2] or [1, 1, 1] in every stage")
    grouped = [stage for stage in stages if group_of[stage] > 1]
    if len({group_of[stage] for stage in grouped}) > 1:
        raise ValueError(f"NONLOCAL.GROUP: got {group_of}, allowed: one number besides 1")
    return {
        "MODEL.NONLOCAL.PAIRWISE": INSTANTIATIONS[form],
        "MODEL.NONLOCAL.SUBSAMPLE": pool == [1, 2, 2],
        "MODEL.NONLOCAL.TEMPORAL_GROUPS": group_of[grouped[0]] if grouped else 1,
        "MODEL.NONLOCAL.TEMPORAL_GROUP_STAGES": grouped if len(grouped) < len(stages) else [],
    }


def _read_clip(recipe: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Pixels, clips and crops, of training and of tests. Their statistics are of pixels from 0 to 1."""
    train, test = _value(recipe, "DATA.TRAIN_CROP_SIZE", 224), _value(recipe, "DATA.TEST_CROP_SIZE", 256)
    # Their head averages windows of size // 32, ours of size / 32 rounded up.
    crop = train // 32 * 32
    notes = [] if crop == train else [f"INPUT.CROP_SIZE {crop}: the windows of their head for crops of {train} pixels"]
    if _value(recipe, "MULTIGRID.SHORT_CYCLE", False):
        notes.append(common.WHOLE_MAP_NOTE)
    scaled = {"MODEL.PIXEL_MEAN": ("DATA.MEAN", [0.45] * 3), "MODEL.PIXEL_STD": ("DATA.STD", [0.225] * 3)}
    ours: dict[str, Any] = {
        key: [round(255 * value, 6) for value in _value(recipe, *theirs)] for key, theirs in scaled.items()
    }
    ours |= {
        "INPUT.NUM_FRAMES": _value(recipe, "DATA.NUM_FRAMES", 8),
        "INPUT.FRAME_STRIDE": _value(recipe, "DATA.SAMPLING_RATE", 8),
        "INPUT.SHORT_SIDE_RANGE": _value(recipe, "DATA.TRAIN_JITTER_SCALES", [256, 320]),
        "INPUT.CROP_SIZE": crop,
        "TEST.SHORT_SIDE": test,
        "TEST.CROP_SIZE": test,
    }
    return ours, notes
