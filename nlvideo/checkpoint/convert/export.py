"""Our weights for other frameworks: PySlowFast and mmaction2."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from nlvideo.checkpoint.convert import mmaction2, pyslowfast
from nlvideo.checkpoint.convert.architecture import BOTTLENECK_DEPTHS, architecture_of
from nlvideo.checkpoint.convert.mmaction2_recipe import STEMS as MMACTION2_STEMS
from nlvideo.checkpoint.convert.names import ModuleNames
from nlvideo.checkpoint.weights import some
from nlvideo.config import CfgNode
from nlvideo.utils.errors import one_of

_PARTS = {
    "MODEL.META_ARCHITECTURE": "VideoClassifier",
    "MODEL.BACKBONE.NAME": "ResNet3d",
    "MODEL.HEAD.NAME": "PoolLinearHead",
}

# What a block must be for PySlowFast's, and for mmaction2's (mmcv's).
_PYSLOWFAST_BLOCK = {
    "NAME": ("NonLocalBlock",),
    "PAIRWISE": tuple(pyslowfast.INSTANTIATIONS.values()),
    "ATTEND": ("spacetime",),
    "NORM": ("same", "BN", "SyncBN", "FrozenBN"),
}
_MMACTION2_BLOCK = {
    "NAME": ("NonLocalBlock",),
    "ATTEND": ("spacetime",),
    "TEMPORAL_GROUPS": (1,),
}


def export_weights(weights: Mapping[str, Tensor], cfg: CfgNode, to: str) -> dict[str, Tensor]:
    """Give weights of ours the names that another framework loads.

    The tensors stay what they are, with one exception: mmaction2's output convolution has no bias before its norm. A
    bias other than zero moves into the norm's running mean, which is the same in eval mode; while a norm trains, such a
    bias is without effect.

    Args:
        weights: state dict of the model that `cfg` describes.
        cfg: the config of the model.
        to: "pyslowfast" or "mmaction2".

    Returns:
        Their name -> tensor: what belongs under ``"model_state"`` and ``"state_dict"`` in their files.

    Raises:
        ValueError: an unknown framework, weights of another network than `cfg`, or a network that the framework cannot
            express, with the key that it fails on.
    """
    if to not in _EXPORTERS:
        raise one_of("framework to export to", to, _EXPORTERS)
    for key, allowed in _PARTS.items():
        _check(to, key, cfg.value_at(key), (allowed,))
    _check(to, "MODEL.BACKBONE.DEPTH", cfg.MODEL.BACKBONE.DEPTH, BOTTLENECK_DEPTHS)
    settings = architecture_of(weights)
    for key in ("MODEL.BACKBONE.DEPTH", "MODEL.BACKBONE.TEMPORAL", "MODEL.NONLOCAL.ENABLED", "MODEL.HEAD.NUM_CLASSES"):
        if settings.get(key) != cfg.value_at(key):
            raise ValueError(f"{key}: the config says {cfg.value_at(key)!r}, the weights are of {settings.get(key)!r}")
    return _EXPORTERS[to](weights, cfg)


def _check(to: str, key: str, value: object, allowed: Sequence | Mapping) -> None:
    if value not in allowed:
        raise one_of(f"{to} cannot express {key}", value, allowed)


def _check_block(to: str, cfg: CfgNode, allowed: Mapping[str, tuple]) -> None:
    for key, values in allowed.items():
        _check(to, f"MODEL.NONLOCAL.{key}", cfg.MODEL.NONLOCAL[key], values)


def _to_pyslowfast(weights: Mapping[str, Tensor], cfg: CfgNode) -> dict[str, Tensor]:
    to, node = pyslowfast.NAME, cfg.MODEL.BACKBONE
    depths = (50, 101)
    _check(to, "MODEL.BACKBONE.DEPTH", node.DEPTH, depths)
    architectures = tuple(pyslowfast.ARCHITECTURES.values())
    _check(to, "(MODEL.BACKBONE.TEMPORAL, MODEL.BACKBONE.STEM)", (node.TEMPORAL, node.STEM), architectures)
    if cfg.MODEL.NONLOCAL.ENABLED:
        _check_block(to, cfg, _PYSLOWFAST_BLOCK)
        if cfg.MODEL.NONLOCAL.PAIRWISE == "embedded_gaussian":
            _check(to, "MODEL.NONLOCAL.SCALE", cfg.MODEL.NONLOCAL.SCALE, (True,))
        if cfg.MODEL.NONLOCAL.SUBSAMPLE:
            _check(to, "MODEL.NONLOCAL.POOL_FIRST", cfg.MODEL.NONLOCAL.POOL_FIRST, (True,))
    return _rename(to, weights, pyslowfast.NAMES)


def _to_mmaction2(weights: Mapping[str, Tensor], cfg: CfgNode) -> dict[str, Tensor]:
    to, node = mmaction2.NAME, cfg.MODEL.NONLOCAL
    _check(to, "MODEL.BACKBONE.STEM", cfg.MODEL.BACKBONE.STEM, tuple(MMACTION2_STEMS.values()))
    if node.ENABLED:
        _check_block(to, cfg, _MMACTION2_BLOCK)
        if node.PAIRWISE == "gaussian":
            _check(to, "MODEL.NONLOCAL.SCALE of the Gaussian form", node.SCALE, (False,))
        if node.SUBSAMPLE:
            _check(to, "MODEL.NONLOCAL.POOL_FIRST", node.POOL_FIRST, (False,))
        if node.NORM != "none":
            weights = _without_output_bias(weights)
        weights = {name: _as_image_kernel(name, tensor) for name, tensor in weights.items()}
    return _rename(to, weights, mmaction2.names(node.SUBSAMPLE))


def _without_output_bias(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kept = dict(weights)
    for name in [name for name in weights if name.endswith(".out.bias")]:
        bias, mean = kept.pop(name), f"{name.removesuffix('out.bias')}bn.running_mean"
        if bias.any():
            # norm(u + bias) subtracts the mean: norm'(u) with mean - bias is the same.
            kept[mean] = kept[mean] - bias
    return kept


def _as_image_kernel(name: str, tensor: Tensor) -> Tensor:
    # Their w_f is a convolution over the P x Q plane of pairs.
    return tensor.squeeze(2) if name.endswith(".concat.weight") else tensor


def _rename(to: str, weights: Mapping[str, Tensor], names: ModuleNames) -> dict[str, Tensor]:
    lost = [f"{name} {tuple(tensor.shape)}" for name, tensor in weights.items() if names.to_theirs(name) is None]
    if lost:
        raise ValueError(f"{to} has no name for {some(lost)}")
    return {names.to_theirs(name): tensor for name, tensor in weights.items()}


_EXPORTERS = {pyslowfast.NAME: _to_pyslowfast, mmaction2.NAME: _to_mmaction2}
