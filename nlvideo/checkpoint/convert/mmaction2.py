"""mmaction2's I3D, SlowOnly and C2D, with and without non-local blocks (``.pth`` files)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nlvideo.checkpoint.convert.architecture import BOTTLENECK_DEPTHS, architecture_of
from nlvideo.checkpoint.convert.common import Converted, Source, register
from nlvideo.checkpoint.convert.mmaction2_recipe import read_recipe
from nlvideo.checkpoint.convert.names import ModuleNames, rename
from nlvideo.checkpoint.convert.read import CONFIG_TEXT

NAME = "mmaction2"

# Of pixels from 0 to 255, RGB.
PIXEL_MEAN, PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]

_BLOCK, _OUR_BLOCK = "backbone.layer{stage}.{block}", "backbone.res{stage}.{block}"
_NONLOCAL, _OUR_NONLOCAL = f"{_BLOCK}.non_local_block", "backbone.res{stage}.nl{block}"


def names(subsample: bool) -> ModuleNames:
    """The table of names; the max pool of a subsampling block makes a sequence of phi and of g."""
    sequence = ".0" if subsample else ""
    modules = {
        "backbone.conv1.conv": "backbone.stem.conv",
        "backbone.conv1.bn": "backbone.stem.bn",
        f"{_BLOCK}.downsample.conv": f"{_OUR_BLOCK}.shortcut.conv",
        f"{_BLOCK}.downsample.bn": f"{_OUR_BLOCK}.shortcut.bn",
        f"{_NONLOCAL}.theta.conv": f"{_OUR_NONLOCAL}.theta",
        f"{_NONLOCAL}.phi{sequence}.conv": f"{_OUR_NONLOCAL}.phi",
        f"{_NONLOCAL}.g{sequence}.conv": f"{_OUR_NONLOCAL}.g",
        f"{_NONLOCAL}.concat_project.conv": f"{_OUR_NONLOCAL}.concat",
        f"{_NONLOCAL}.conv_out.conv": f"{_OUR_NONLOCAL}.out",
        f"{_NONLOCAL}.conv_out.bn": f"{_OUR_NONLOCAL}.bn",
        "cls_head.fc_cls": "head.classifier",
    }
    for number in (1, 2, 3):
        modules[f"{_BLOCK}.conv{number}.conv"] = f"{_OUR_BLOCK}.conv{number}"
        modules[f"{_BLOCK}.conv{number}.bn"] = f"{_OUR_BLOCK}.bn{number}"
    return ModuleNames(modules, stages={1: 2, 2: 3, 3: 4, 4: 5})


def convert(content: Mapping[str, Any]) -> Converted:
    """Bring the weights of an I3D, SlowOnly or C2D network under our names.

    Their training checkpoints carry the config as text; where `content` has it as `CONFIG_TEXT`, it decides what names and
    shapes cannot show. Elsewhere the values are those of their published recipes, and `undecided` lists the others.

    Args:
        content: name -> tensor, and possibly `CONFIG_TEXT`.

    Raises:
        ValueError: a network that ours cannot express.
    """
    recipe = read_recipe(content.get(CONFIG_TEXT), NAME)
    subsample = any(".non_local_block.g.0." in name for name in content)
    converted = rename(NAME, content, names(subsample), _explain)
    _add_time_axis(converted.weights, recipe)
    settings = architecture_of(converted.weights, BOTTLENECK_DEPTHS)
    if settings["MODEL.NONLOCAL.ENABLED"]:
        _complete_nonlocal(converted.weights)
        settings |= _nonlocal(converted, settings.get("MODEL.NONLOCAL.PAIRWISE"), subsample, recipe)
    settings |= {
        "MODEL.BACKBONE.STRIDE_IN_1X1": False,
        "MODEL.PIXEL_MEAN": PIXEL_MEAN,
        "MODEL.PIXEL_STD": PIXEL_STD,
        **_strides(converted, settings["MODEL.BACKBONE.TEMPORAL"]),
    }
    if recipe is not None:
        for key in recipe:
            converted.undecided.pop(key, None)
        settings |= {key: value for key, value in recipe.items() if not key.startswith("MODEL.NONLOCAL.")}
    converted.overrides = {key: value for key, value in settings.items() if key not in converted.undecided}
    converted.notes += [f"{key}: the weights do not show it" for key in converted.undecided]
    converted.notes.append(
        "their head averages the whole map, ours windows of INPUT.CROP_SIZE: the same on crops of that size"
    )
    return converted


def _explain(name: str) -> str | None:
    if name.startswith(("backbone.slow_path", "backbone.fast_path")):
        return "a SlowFast network has two pathways, ours have one"
    if ".net." in name:
        return "a TSM network shifts channels over time"
    if ".conv_s." in name or ".conv_t." in name:
        return "an R(2+1)D network splits its kernels"
    return None


def _add_time_axis(weights: dict[str, Tensor], recipe: Mapping[str, Any] | None) -> None:
    """C2D is an image network over there; TSN is too, with the same names, and knows nothing of time."""
    if weights.get("backbone.stem.conv.weight", Tensor()).dim() != 4:
        return
    if recipe is None or recipe.get("MODEL.BACKBONE.TEMPORAL") != "c2d":
        raise ValueError(f"{NAME}: C2D, TSN and others have the same names and kernels; allowed: files with their config")
    for name, tensor in weights.items():
        if tensor.dim() == 4:
            weights[name] = tensor.unsqueeze(2)


def _complete_nonlocal(weights: dict[str, Tensor]) -> None:
    """What our block has and theirs has not: a bias before the norm; and the third axis of w_f."""
    for name in [name for name in weights if ".nl" in name and name.endswith(".out.weight")]:
        block = name.removesuffix(".out.weight")
        weights.setdefault(f"{block}.out.bias", weights[name].new_zeros(weights[name].shape[0]))
        concat = weights.get(f"{block}.concat.weight")
        if concat is not None and concat.dim() == 4:
            weights[f"{block}.concat.weight"] = concat.unsqueeze(2)


def _nonlocal(
    converted: Converted, pairwise: str | None, subsample: bool, recipe: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Settings of the blocks: of names first, of the config next, and else what their recipes have."""
    settings: dict[str, Any] = {
        "MODEL.NONLOCAL.ATTEND": "spacetime",
        "MODEL.NONLOCAL.SUBSAMPLE": subsample,
        # They pool phi(x) and g(x), not x.
        "MODEL.NONLOCAL.POOL_FIRST": False,
    }
    if pairwise is not None:
        return settings | ({"MODEL.NONLOCAL.SCALE": False} if pairwise == "gaussian" else {})
    keys = ("MODEL.NONLOCAL.PAIRWISE", "MODEL.NONLOCAL.SCALE")
    if recipe is not None and all(key in recipe for key in keys):
        return settings | {key: recipe[key] for key in keys}
    # All their recipes have use_scale False; mmcv's default is True.
    converted.undecided |= dict(zip(keys, (["embedded_gaussian", "dot_product"], [False, True])))
    return settings


def _strides(converted: Converted, temporal: str) -> dict[str, Any]:
    """Stem and clip of their published recipes."""
    if temporal == "i3d_3x1x1_all":
        stem, clip = "slowfast_8x8", (32, 2)  # their "heavy" I3D
    elif temporal in ("slow", "c2d"):
        stem, clip = "slow", (8, 8)
        if temporal == "c2d":
            converted.undecided["MODEL.BACKBONE.STEM"] = ["slow", "slowfast_8x8", "mmaction2_32x2"]
    else:
        stem, clip = "mmaction2_32x2", (32, 2)
        converted.undecided["MODEL.BACKBONE.STEM"] = ["mmaction2_32x2", "slowfast_8x8"]
    return {"MODEL.BACKBONE.STEM": stem, "INPUT.NUM_FRAMES": clip[0], "INPUT.FRAME_STRIDE": clip[1]}


def _recognise(content: Mapping[str, Any]) -> bool:
    stems = ("backbone.conv1.conv.weight", "backbone.conv1.conv.conv_s.weight", "backbone.slow_path.conv1.conv.weight")
    return any(stem in content for stem in stems)


register(Source(NAME, _recognise, convert))
