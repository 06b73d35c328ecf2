"""mmaction2's I3D, SlowOnly, C2D and TSM, with and without non-local blocks (``.pth`` files)."""

import ast
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nlvideo.checkpoint.convert import common
from nlvideo.checkpoint.convert.torchvision import IMAGENET_NETWORK
from nlvideo.layers.norm import EPS
from nlvideo.utils.messages import check_one_of

NAME = "mmaction2"

_BLOCK, _OUR_BLOCK = "backbone.layer{stage}.{block}", "backbone.res{stage}.{block}"
_NONLOCAL, _OUR_NONLOCAL = f"{_BLOCK}.non_local_block", "backbone.res{stage}.nl{block}"

# TEMPORAL -> the stems that it comes with. "i3d_3x1x1_all" is their "heavy" I3D.
_POSSIBLE_STEMS = {
    "i3d_3x1x1": ["mmaction2_32x2", "slowfast_8x8"],
    "i3d_3x3x3": ["mmaction2_32x2", "slowfast_8x8"],
    "i3d_3x1x1_all": ["slowfast_8x8"],
    "slow": ["slow"],
    "c2d": ["slow", "slowfast_8x8", "mmaction2_32x2"],
}
# Of image networks: C2D, which pools as the authors do, and ResNet, whose only pool is the padded one of the stem.
IMAGE_STEMS = ["authors_8x8", "slow"]

_REASONS = {
    r"^backbone\.(slow|fast)_path": "its lateral connections have no norm and no ReLU, those of our SlowFast have both",
    r"layer2\.net\.": common.POOLED_TSM,
    r"\.conv_[st]\.": "an R(2+1)D network splits its kernels",
}


def names(subsample: bool) -> common.ModuleNames:
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
        **{f"{_BLOCK}.conv{n}.conv": f"{_OUR_BLOCK}.conv{n}" for n in (1, 2, 3)},
        **{f"{_BLOCK}.conv{n}.bn": f"{_OUR_BLOCK}.bn{n}" for n in (1, 2, 3)},
        "cls_head.fc_cls": "head.classifier",
    }
    return common.ModuleNames(modules, stages={1: 2, 2: 3, 3: 4, 4: 5})


def convert(content: Mapping[str, Any]) -> common.Converted:
    """Bring the weights of an I3D, SlowOnly, C2D or TSM network under our names; ValueError for another network.

    A training checkpoint carries its config as text. Where `content` has it as `CONFIG_TEXT`, it decides what names and
    shapes cannot show. Elsewhere `undecided` lists what the network could be, that of their recipes first.
    """
    with common.reading_recipe(NAME):
        recipe = read_recipe(content.get(common.CONFIG_TEXT))
    # Without pixel statistics, which their config and recipes say.
    content = {name: value for name, value in content.items() if not name.startswith("data_preprocessor.")}
    subsample = any(".non_local_block.g.0." in name for name in content)
    converted = common.rename_shifted(NAME, content, names(subsample).to_ours, _REASONS)
    # Their C2D and TSM are image networks that are given every frame.
    is_image = common.add_time_axis(converted.weights)
    settings = common.architecture_of(converted.weights, common.BOTTLENECK_DEPTHS) | IMAGENET_NETWORK
    temporal = settings["MODEL.BACKBONE.TEMPORAL"]
    # What names and shapes do not show, as their recipes have it.
    possible: dict[str, list[Any]] = {"MODEL.BACKBONE.STEM": IMAGE_STEMS if is_image else _POSSIBLE_STEMS[temporal]}
    if shifts := common.shift_settings(content, settings["MODEL.BACKBONE.DEPTH"]):
        possible = {}
        shifts["MODEL.BACKBONE.ARGS"] += recipe.pop("MODEL.BACKBONE.ARGS", [])
        settings |= shifts
        converted.notes += [] if recipe else [common.SEGMENTS_NOTE]
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
    converted.notes.append(common.WHOLE_MAP_NOTE)
    return converted


def _complete_nonlocal(weights: dict[str, Tensor]) -> None:
    """What our block has and theirs has not: a bias before the norm; and the third axis of w_f."""
    for name in [name for name in weights if ".nl" in name and name.endswith(".out.weight")]:
        block = name.removesuffix(".out.weight")
        weights.setdefault(f"{block}.out.bias", weights[name].new_zeros(weights[name].shape[0]))
        concat = weights.get(f"{block}.concat.weight")
        if concat is not None and concat.dim() == 4:
            weights[f"{block}.concat.weight"] = concat.unsqueeze(2)


def recognise(content: Mapping[str, Any]) -> bool:
    """Whether the names are of this framework, also of networks that `convert` refuses."""
    stems = ("conv1.conv", "conv1.conv.conv_s", "slow_path.conv1.conv")
    return any(f"backbone.{stem}.weight" in content for stem in stems)


# (conv1_stride_t, pool1_stride_t, with_pool2) -> our stem. Their pool1 is 1x3x3, padded in space.
STEMS = {(2, 2, True): "mmaction2_32x2", (1, 1, True): "slowfast_8x8", (1, 1, False): "slow"}

# Backbone -> what it has where the config does not say. ResNet3d's strides were 2 in version 0 and are 1 in version 1.
_STRIDES: dict[str, dict[str, Any]] = {
    "ResNet3d": {"conv1_stride_t": None, "pool1_stride_t": None, "with_pool2": True},
    "ResNet3dSlowOnly": {"conv1_stride_t": 1, "pool1_stride_t": 1, "with_pool2": False},
}

# Image networks that are given every frame -> our stem. C2D pools as the authors do, over time and without padding.
_IMAGE_BACKBONES = {"C2D": "authors_8x8", "ResNet": "slow", "ResNetTSM": "slow"}

_NORM = common.known("requires_grad momentum", type=["BN3d", "BN2d", "BN", "SyncBN"], eps=[EPS])
_CONV = common.known("", type=["Conv3d", "Conv2d", "Conv"])
_LAYERS = common.known(
    "type _scope_ depth pretrained in_channels style frozen_stages norm_eval with_cp init_cfg",
    num_stages=[4],
    out_indices=[[3]],
    dilations=[[1, 1, 1, 1]],
    conv_cfg=_CONV,
    norm_cfg=_NORM,
    act_cfg=common.known("inplace", type=["ReLU"]),
)
_IMAGE = _LAYERS | common.known("torchvision_pretrain partial_bn", strides=[[1, 2, 2, 2]])
_NONLOCAL_CFG = common.known(
    "reduction use_scale sub_sample zeros_init",
    mode=["gaussian", "embedded_gaussian", "dot_product", "concatenation"],
    conv_cfg=_CONV,
    norm_cfg=_NORM,
)
_TSM = _IMAGE | common.known(
    "num_segments shift_div non_local",
    is_shift=[True],
    shift_place=["block", "blockres"],
    temporal_pool=[False],
    non_local_cfg=_NONLOCAL_CFG,
)
_VIDEO = _LAYERS | common.known(
    "pretrained2d stage_blocks base_channels conv1_kernel conv1_stride_t pool1_stride_t with_pool2 inflate"
    " inflate_style non_local zero_init_residual",
    conv1_stride_s=[2],
    pool1_stride_s=[2],
    with_pool1=[True],
    spatial_strides=[[1, 2, 2, 2]],
    temporal_strides=[[1, 1, 1, 1]],
    non_local_cfg=_NONLOCAL_CFG,
)
# As a pathway of SlowFast its class has settings that it does not use by itself.
_SLOW = _VIDEO | common.known("speed_ratio channel_ratio fusion_kernel lateral_norm lateral_infl lateral_activate")
_BACKBONES = {"ResNet3d": _VIDEO, "ResNet3dSlowOnly": _SLOW, "C2D": _IMAGE, "ResNet": _IMAGE, "ResNetTSM": _TSM}

_MODEL = common.known(
    "_scope_ backbone train_cfg test_cfg pretrained init_cfg",
    type=["Recognizer3D", "Recognizer2D"],
    cls_head=common.known(
        "_scope_ num_classes in_channels dropout_ratio init_std init_cfg loss_cls multi_class label_smooth_eps topk"
        " average_clips num_segments is_shift",
        type=["I3DHead", "TSNHead", "TSMHead"],
        temporal_pool=[False],
        spatial_type=["avg"],
        consensus=common.known("", type=["AvgConsensus"], dim=[1]),
    ),
)
# Decoders give RGB: either flag makes it BGR.
_PIXELS = common.known("type _scope_ mean std blending format_shape to_float32", to_rgb=[False], to_bgr=[False])


def read_recipe(text: object) -> dict[str, Any]:
    """What the config in a file says that weights do not show: our keys -> values; none where ``text`` is no text.

    Raises:
        ValueError: it is not a config, or of a network that ours cannot express.
    """
    if not isinstance(text, str):
        return {}
    config = _evaluate(text)
    model = config.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("backbone"), dict):
        raise ValueError("the config in the file has no model with a backbone")
    # Version 1 has the pixels in the model, version 0 beside it.
    pixels = model.pop("data_preprocessor", None) or config.get("img_norm_cfg") or {}
    common.check_recipe("model", {key: value for key, value in model.items() if value is not None}, _MODEL)
    common.check_recipe("pixels", pixels, _PIXELS)
    head = model.get("cls_head") or {}
    ours = _backbone(model["backbone"]) | _clip(config)
    if head.get("multi_class"):
        ours["MODEL.HEAD.LOSS"] = "sigmoid"
    for name in ("mean", "std"):
        if pixels.get(name):
            ours[f"MODEL.PIXEL_{name.upper()}"] = [1.0 * value for value in pixels[name]]
    return ours


def _evaluate(text: str) -> dict[str, Any]:
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"the config in the file is not Python, line {error.lineno}") from error
    assignments = [(node.targets[0], node.value) for node in tree.body if isinstance(node, ast.Assign)]
    return {target.id: _plain(value) for target, value in assignments if isinstance(target, ast.Name)}


def _plain(node: ast.expr) -> Any:
    """The value of an expression of literals and ``dict(...)`` calls; the text of anything else."""
    if isinstance(node, ast.Call):
        is_dict = isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
        return {word.arg: _plain(word.value) for word in node.keywords} if is_dict else ast.unparse(node)
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_plain(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        items = zip(node.keys, node.values, strict=True)
        return {_plain(key): _plain(value) for key, value in items if key is not None}
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _backbone(backbone: Mapping[str, Any]) -> dict[str, Any]:
    kind = backbone.get("type", "")
    check_one_of("type of the backbone", kind, _BACKBONES)
    common.check_recipe("backbone", backbone, _BACKBONES[kind])
    ours: dict[str, Any] = {"MODEL.BACKBONE.STRIDE_IN_1X1": backbone.get("style", "pytorch") == "caffe"}
    if kind in _IMAGE_BACKBONES:
        ours |= {"MODEL.BACKBONE.TEMPORAL": "c2d", "MODEL.BACKBONE.STEM": _IMAGE_BACKBONES[kind]}
    if kind == "ResNetTSM" and backbone.get("shift_div", 8) != 8:
        ours["MODEL.BACKBONE.ARGS"] = [["shift_div", backbone["shift_div"]]]
    strides = tuple(backbone.get(name, default) for name, default in _STRIDES.get(kind, {}).items())
    if strides and None not in strides:
        check_one_of(", ".join(_STRIDES[kind]), strides, STEMS)
        ours["MODEL.BACKBONE.STEM"] = STEMS[strides]
    # Defaults of mmcv's NonLocal3d.
    block = backbone.get("non_local_cfg") or {}
    return ours | {
        "MODEL.NONLOCAL.PAIRWISE": block.get("mode", "embedded_gaussian"),
        "MODEL.NONLOCAL.SCALE": block.get("use_scale", True),
    }


def _clip(config: Mapping[str, Any]) -> dict[str, Any]:
    for step in config.get("train_pipeline") or []:
        kind = step.get("type") if isinstance(step, dict) and "clip_len" in step else None
        if kind not in ("SampleFrames", "DenseSampleFrames"):
            continue
        segments = step.get("num_clips", 1)
        if step["clip_len"] != 1 or segments <= 1:
            return {"INPUT.NUM_FRAMES": step["clip_len"], "INPUT.FRAME_STRIDE": step.get("frame_interval", 1)}
        if kind == "SampleFrames":  # TSN and TSM
            return common.SEGMENTS | {"INPUT.NUM_FRAMES": segments}
        # Each of so many frames is at the start of an equal part of this range.
        samplers = {"INPUT.CLIP_SAMPLER": "RandomClip", "TEST.CLIP_SAMPLER": "MMActionClips"}
        stride = step.get("sample_range", 64) // segments
        return {"INPUT.NUM_FRAMES": segments, "INPUT.FRAME_STRIDE": stride, **samplers}
    return {}
