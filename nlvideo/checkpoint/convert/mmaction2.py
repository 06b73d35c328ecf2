"""mmaction2's I3D, SlowOnly and C2D, with and without non-local blocks (``.pth`` files)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nlvideo.checkpoint.convert.architecture import BOTTLENECK_DEPTHS, architecture_of
from nlvideo.checkpoint.convert.common import Converted, Source, register
from nlvideo.checkpoint.convert.mmaction2_recipe import read_recipe
from nlvideo.checkpoint.convert.names import ModuleNames, rename
from nlvideo.checkpoint.convert.recipe import reading_recipe
from nlvideo.checkpoint.convert.torchvision import PIXEL_MEAN, PIXEL_STD
from nlvideo.checkpoint.read.read_file import CONFIG_TEXT

NAME = "mmaction2"

_BLOCK, _OUR_BLOCK = "backbone.layer{stage}.{block}", "backbone.res{stage}.{block}"
_NONLOCAL, _OUR_NONLOCAL = f"{_BLOCK}.non_local_block", "backbone.res{stage}.nl{block}"

# TEMPORAL -> the stems that it comes with. "i3d_3x1x1_all" is their "heavy" I3D.
_STEMS = {
    "i3d_3x1x1": ["mmaction2_32x2", "slowfast_8x8"],
    "i3d_3x3x3": ["mmaction2_32x2", "slowfast_8x8"],
    "i3d_3x1x1_all": ["slowfast_8x8"],
    "slow": ["slow"],
    "c2d": ["slow", "slowfast_8x8", "mmaction2_32x2"],
}
# Of image networks: C2D, which pools as the authors do, and ResNet, whose only pool is the padded one of the stem.
IMAGE_STEMS = ["authors_8x8", "slow"]


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

    Their training checkpoints carry the config as text. Where `content` has it as `CONFIG_TEXT`, it decides what names
    and shapes cannot show. Elsewhere `undecided` lists what the network could be, that of their recipes first.

    Args:
        content: name -> tensor, and possibly `CONFIG_TEXT`.

    Raises:
        ValueError: a network that ours cannot express.
    """
    with reading_recipe(NAME):
        recipe = read_recipe(content.get(CONFIG_TEXT), NAME)
    # Without pixel statistics, which their config and recipes say.
    content = {name: value for name, value in content.items() if not name.startswith("data_preprocessor.")}
    subsample = any(".non_local_block.g.0." in name for name in content)
    converted = rename(NAME, content, names(subsample), _explain)
    is_image = _add_time_axis(converted.weights)
    settings = {"MODEL.PIXEL_MEAN": PIXEL_MEAN, "MODEL.PIXEL_STD": PIXEL_STD, "MODEL.BACKBONE.STRIDE_IN_1X1": False}
    settings |= architecture_of(converted.weights, BOTTLENECK_DEPTHS)
    temporal = settings["MODEL.BACKBONE.TEMPORAL"]
    # What names and shapes do not show, as their recipes have it.
    possible: dict[str, list[Any]] = {"MODEL.BACKBONE.STEM": IMAGE_STEMS if is_image else _STEMS[temporal]}
    if temporal == "i3d_3x1x1_all":
        settings |= {"INPUT.NUM_FRAMES": 32, "INPUT.FRAME_STRIDE": 2}
    shown = {key: value for key, value in recipe.items() if not key.startswith("MODEL.NONLOCAL.")}
    if settings["MODEL.NONLOCAL.ENABLED"]:
        _complete_nonlocal(converted.weights)
        # They pool phi(x) and g(x), not x.
        settings |= {"MODEL.NONLOCAL.ATTEND": "spacetime", "MODEL.NONLOCAL.SUBSAMPLE": subsample}
        settings["MODEL.NONLOCAL.POOL_FIRST"] = False
        pairwise = settings.get("MODEL.NONLOCAL.PAIRWISE")
        if pairwise == "gaussian":
            settings["MODEL.NONLOCAL.SCALE"] = False
        elif pairwise is None:
            possible["MODEL.NONLOCAL.PAIRWISE"] = ["embedded_gaussian", "dot_product"]
            possible["MODEL.NONLOCAL.SCALE"] = [True, False] if temporal == "slow" else [False, True]
            shown = recipe
    settings |= {key: values[0] for key, values in possible.items()} | shown
    converted.undecided = {key: values for key, values in possible.items() if len(values) > 1 and key not in shown}
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


def _add_time_axis(weights: dict[str, Tensor]) -> bool:
    """Their C2D is an image network that is given every frame: whether it is one, now with kernels of one frame."""
    is_image = weights.get("backbone.stem.conv.weight", Tensor()).dim() == 4
    for name, tensor in weights.items():
        if is_image and tensor.dim() == 4:
            weights[name] = tensor.unsqueeze(2)
    return is_image


def _complete_nonlocal(weights: dict[str, Tensor]) -> None:
    """What our block has and theirs has not: a bias before the norm; and the third axis of w_f."""
    for name in [name for name in weights if ".nl" in name and name.endswith(".out.weight")]:
        block = name.removesuffix(".out.weight")
        weights.setdefault(f"{block}.out.bias", weights[name].new_zeros(weights[name].shape[0]))
        concat = weights.get(f"{block}.concat.weight")
        if concat is not None and concat.dim() == 4:
            weights[f"{block}.concat.weight"] = concat.unsqueeze(2)


def _recognise(content: Mapping[str, Any]) -> bool:
    stems = ("backbone.conv1.conv.weight", "backbone.conv1.conv.conv_s.weight", "backbone.slow_path.conv1.conv.weight")
    return any(stem in content for stem in stems)


register(Source(NAME, _recognise, convert))
