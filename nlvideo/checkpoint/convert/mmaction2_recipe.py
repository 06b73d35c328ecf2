"""Config files of mmaction2, as their checkpoints carry them: Python text, read without being run."""

import ast
from collections.abc import Mapping
from typing import Any

from nlvideo.checkpoint.convert.recipe import check_recipe, known
from nlvideo.layers.norm import EPS
from nlvideo.utils.messages import one_of

# (conv1_stride_t, pool1_stride_t, with_pool2) -> our stem. Their pool1 is 1x3x3, padded in space.
STEMS = {(2, 2, True): "mmaction2_32x2", (1, 1, True): "slowfast_8x8", (1, 1, False): "slow"}

# Backbone -> what it has where the config does not say. ResNet3d's strides were 2 in version 0 and are 1 in version 1.
_STRIDES = {
    "ResNet3d": {"conv1_stride_t": None, "pool1_stride_t": None, "with_pool2": True},
    "ResNet3dSlowOnly": {"conv1_stride_t": 1, "pool1_stride_t": 1, "with_pool2": False},
}

# Image networks that are given every frame -> our stem. C2D pools as the authors do, over time and without padding.
_IMAGE_STEMS = {"C2D": "authors_8x8", "ResNet": "slow"}

_NORM = known("requires_grad momentum", type=["BN3d", "BN2d", "BN", "SyncBN"], eps=[EPS])
_CONV = known("", type=["Conv3d", "Conv2d", "Conv"])
_LAYERS = known(
    "type _scope_ depth pretrained in_channels style frozen_stages norm_eval with_cp init_cfg",
    num_stages=[4],
    out_indices=[[3]],
    dilations=[[1, 1, 1, 1]],
    conv_cfg=_CONV,
    norm_cfg=_NORM,
    act_cfg=known("inplace", type=["ReLU"]),
)
_IMAGE = _LAYERS | known("torchvision_pretrain partial_bn", strides=[[1, 2, 2, 2]])
_VIDEO = _LAYERS | known(
    "pretrained2d stage_blocks base_channels conv1_kernel conv1_stride_t pool1_stride_t with_pool2 inflate"
    " inflate_style non_local zero_init_residual",
    conv1_stride_s=[2],
    pool1_stride_s=[2],
    with_pool1=[True],
    spatial_strides=[[1, 2, 2, 2]],
    temporal_strides=[[1, 1, 1, 1]],
    non_local_cfg=known(
        "reduction use_scale sub_sample zeros_init",
        mode=["gaussian", "embedded_gaussian", "dot_product", "concatenation"],
        conv_cfg=_CONV,
        norm_cfg=_NORM,
    ),
)
# As a pathway of SlowFast its class has settings that it does not use by itself.
_SLOW = _VIDEO | known("speed_ratio channel_ratio fusion_kernel lateral_norm lateral_infl lateral_activate")
_BACKBONES = {"ResNet3d": _VIDEO, "ResNet3dSlowOnly": _SLOW, "C2D": _IMAGE, "ResNet": _IMAGE}

_MODEL = known(
    "_scope_ backbone train_cfg test_cfg pretrained init_cfg",
    type=["Recognizer3D", "Recognizer2D"],
    cls_head=known(
        "_scope_ num_classes in_channels dropout_ratio init_std init_cfg loss_cls multi_class label_smooth_eps topk"
        " average_clips",
        type=["I3DHead", "TSNHead"],
        spatial_type=["avg"],
        consensus=known("", type=["AvgConsensus"], dim=[1]),
    ),
)
# Decoders give RGB: either flag makes it BGR.
_PIXELS = known("type _scope_ mean std blending format_shape to_float32", to_rgb=[False], to_bgr=[False])


def read_recipe(text: object, source: str) -> dict[str, Any]:
    """What a config says that weights do not show, in our keys.

    Args:
        text: the config; None where the file carries none.
        source: for the error.

    Returns:
        Config keys of ours -> values; none without a config.

    Raises:
        ValueError: it is not a config, or of a network that ours cannot express.
    """
    if not isinstance(text, str):
        return {}
    config = _evaluate(text, source)
    model = config.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("backbone"), dict):
        raise ValueError(f"{source}: the config in the file has no model with a backbone")
    # Version 1 has the pixels in the model, version 0 beside it.
    pixels = model.pop("data_preprocessor", None) or config.get("img_norm_cfg") or {}
    check_recipe(f"{source}: model", {key: value for key, value in model.items() if value is not None}, _MODEL)
    check_recipe(f"{source}: pixels", pixels, _PIXELS)
    head = model.get("cls_head") or {}
    return {
        **_backbone(model["backbone"], source),
        **({"MODEL.HEAD.LOSS": "sigmoid"} if head.get("multi_class") else {}),
        **{key: [1.0 * value for value in pixels[name]] for key, name in
           (("MODEL.PIXEL_MEAN", "mean"), ("MODEL.PIXEL_STD", "std")) if pixels.get(name)},
        **_clip(config),
    }  # fmt: skip


def _evaluate(text: str, source: str) -> dict[str, Any]:
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{source}: the config in the file is not Python, line {error.lineno}") from error
    assignments = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    return {node.targets[0].id: _plain(node.value) for node in assignments}


def _plain(node: ast.expr) -> Any:
    """The value of an expression of literals and ``dict(...)`` calls; the text of anything else."""
    if isinstance(node, ast.Call):
        is_dict = isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
        return {word.arg: _plain(word.value) for word in node.keywords} if is_dict else ast.unparse(node)
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_plain(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        return {_plain(key): _plain(value) for key, value in zip(node.keys, node.values) if key is not None}
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _backbone(backbone: Mapping[str, Any], source: str) -> dict[str, Any]:
    kind = backbone.get("type")
    if kind not in _BACKBONES:
        raise one_of(f"{source}: type of the backbone", kind, _BACKBONES)
    check_recipe(f"{source}: backbone", backbone, _BACKBONES[kind])
    ours: dict[str, Any] = {"MODEL.BACKBONE.STRIDE_IN_1X1": backbone.get("style", "pytorch") == "caffe"}
    if kind in _IMAGE_STEMS:
        return ours | {"MODEL.BACKBONE.TEMPORAL": "c2d", "MODEL.BACKBONE.STEM": _IMAGE_STEMS[kind]}
    strides = tuple((_STRIDES[kind] | backbone)[name] for name in _STRIDES[kind])
    if None not in strides:
        if strides not in STEMS:
            raise one_of(f"{source}: {', '.join(_STRIDES[kind])}", strides, STEMS)
        ours["MODEL.BACKBONE.STEM"] = STEMS[strides]
    # Defaults of mmcv's NonLocal3d.
    block = backbone.get("non_local_cfg") or {}
    return ours | {
        "MODEL.NONLOCAL.PAIRWISE": block.get("mode", "embedded_gaussian"),
        "MODEL.NONLOCAL.SCALE": block.get("use_scale", True),
    }


def _clip(config: Mapping[str, Any]) -> dict[str, Any]:
    for step in config.get("train_pipeline") or []:
        if isinstance(step, dict) and step.get("type") in ("SampleFrames", "DenseSampleFrames") and "clip_len" in step:
            if step["clip_len"] == 1 and step.get("num_clips", 1) > 1:
                # TSN: one frame from each of so many segments.
                return {"INPUT.NUM_FRAMES": step["num_clips"], "INPUT.FRAME_STRIDE": 1,
                        "INPUT.CLIP_SAMPLER": "SegmentClip", "TEST.CLIP_SAMPLER": "SegmentClip"}  # fmt: skip
            return {"INPUT.NUM_FRAMES": step["clip_len"], "INPUT.FRAME_STRIDE": step.get("frame_interval", 1)}
    return {}
