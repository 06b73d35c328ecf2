"""Config files of mmaction2, as their checkpoints carry them: Python text, read without being run."""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from nlvideo.utils.errors import one_of

# (conv1_stride_t, pool1_stride_t, with_pool2) -> our stem. Their pool1 is 1x3x3, padded in space.
STEMS = {(2, 2, True): "mmaction2_32x2", (1, 1, True): "slowfast_8x8", (1, 1, False): "slow"}

# Type of the backbone -> what it has where the config does not say (conv1_stride_t, pool1_stride_t, with_pool2).
_DEFAULT_STRIDES = {"ResNet3d": (2, 2, True), "ResNet3dSlowOnly": (1, 1, False)}

# Of arguments that change what is computed, the values that our network has a counterpart for: their defaults.
_ONLY = {"spatial_strides": (1, 2, 2, 2), "temporal_strides": (1, 1, 1, 1), "dilations": (1, 1, 1, 1), "num_stages": 4}


def read_recipe(text: object, source: str) -> dict[str, Any] | None:
    """What a config says that weights do not show, in our keys.

    Args:
        text: the config; None where the file carries none.
        source: for the error.

    Returns:
        Config keys of ours -> values; None without a config.

    Raises:
        ValueError: it is not a config, or of a network that ours cannot express.
    """
    if not isinstance(text, str):
        return None
    config = _evaluate(text, source)
    model = config.get("model")
    backbone = model.get("backbone") if isinstance(model, dict) else None
    if not isinstance(backbone, dict):
        raise ValueError(f"{source}: the config in the file has no model with a backbone")
    return _backbone(backbone, source) | _head(model) | _pixels(model, config, source) | _clip(config)


def _evaluate(text: str, source: str) -> dict[str, Any]:
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{source}: the config in the file is not Python, line {error.lineno}") from error
    assignments = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    return {node.targets[0].id: _plain(node.value) for node in assignments}


def _plain(node: ast.expr) -> Any:
    """The value of an expression of literals and ``dict(...)`` calls; None where it is anything else."""
    if isinstance(node, ast.Call):
        is_dict = isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
        return {word.arg: _plain(word.value) for word in node.keywords} if is_dict else None
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_plain(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        return {_plain(key): _plain(value) for key, value in zip(node.keys, node.values) if key is not None}
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _backbone(backbone: Mapping[str, Any], source: str) -> dict[str, Any]:
    kind = backbone.get("type")
    if kind == "C2D":
        # Its pools have no padding, as the authors' have none.
        return {"MODEL.BACKBONE.TEMPORAL": "c2d", "MODEL.BACKBONE.STEM": "authors_8x8"} | _style(backbone)
    if kind not in _DEFAULT_STRIDES:
        raise one_of(f"{source}: type of the backbone", kind, ["C2D", *_DEFAULT_STRIDES])
    for key, allowed in _ONLY.items():
        value = backbone.get(key, allowed)
        if (tuple(value) if isinstance(value, Sequence) else value) != allowed:
            raise ValueError(f"{source}: {key}: got {value!r}, our network can only express {allowed!r}")
    arguments = ("conv1_stride_t", "pool1_stride_t", "with_pool2")
    strides = tuple(backbone.get(name, default) for name, default in zip(arguments, _DEFAULT_STRIDES[kind]))
    if strides not in STEMS:
        raise one_of(f"{source}: {', '.join(arguments)}", strides, STEMS)
    return {"MODEL.BACKBONE.STEM": STEMS[strides]} | _style(backbone) | _nonlocal(backbone.get("non_local_cfg") or {})


def _style(backbone: Mapping[str, Any]) -> dict[str, Any]:
    return {"MODEL.BACKBONE.STRIDE_IN_1X1": backbone.get("style", "pytorch") == "caffe"}


def _nonlocal(block: Mapping[str, Any]) -> dict[str, Any]:
    # Defaults of mmcv's NonLocal3d. Without blocks in the network nobody asks for them.
    return {
        "MODEL.NONLOCAL.PAIRWISE": block.get("mode", "embedded_gaussian"),
        "MODEL.NONLOCAL.SCALE": block.get("use_scale", True),
    }


def _head(model: Mapping[str, Any]) -> dict[str, Any]:
    head = model.get("cls_head") or {}
    return {"MODEL.HEAD.LOSS": "sigmoid"} if head.get("multi_class") else {}


def _pixels(model: Mapping[str, Any], config: Mapping[str, Any], source: str) -> dict[str, Any]:
    # Version 1 keeps them in the model, version 0 beside it. Decoders give RGB: either flag makes it BGR.
    node = model.get("data_preprocessor") or config.get("img_norm_cfg") or {}
    if node.get("to_bgr") or node.get("to_rgb"):
        raise ValueError(f"{source}: pixels are turned from RGB into BGR, our network can only express RGB")
    pairs = (("MODEL.PIXEL_MEAN", node.get("mean")), ("MODEL.PIXEL_STD", node.get("std")))
    return {key: [float(value) for value in values] for key, values in pairs if values}


def _clip(config: Mapping[str, Any]) -> dict[str, Any]:
    for step in config.get("train_pipeline") or []:
        if isinstance(step, dict) and step.get("type") in ("SampleFrames", "DenseSampleFrames") and "clip_len" in step:
            return {"INPUT.NUM_FRAMES": step["clip_len"], "INPUT.FRAME_STRIDE": step.get("frame_interval", 1)}
    return {}
