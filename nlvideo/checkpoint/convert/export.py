"""Our weights for other frameworks: PySlowFast, PyTorchVideo, mmaction2 and the code of TSM's authors."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from nlvideo.checkpoint.convert import common, mmaction2, pyslowfast, pytorchvideo, tsm
from nlvideo.config import CfgNode
from nlvideo.utils.messages import check_one_of, some

_NETWORK = {
    "MODEL.META_ARCHITECTURE": ("VideoClassifier",),
    "MODEL.BACKBONE.NAME": ("ResNet3d", "SlowFast"),
    "MODEL.HEAD.NAME": ("PoolLinearHead",),
    "MODEL.BACKBONE.DEPTH": common.BOTTLENECK_DEPTHS,
}
# Both heads give the logits of the average of the last map.
_SEGMENTS = _NETWORK | {
    "MODEL.HEAD.NAME": ("PoolLinearHead", "ConsensusHead"),
    "MODEL.HEAD.ARGS": ([], [["consensus", "logits"]]),
}
_NETWORKS = {
    mmaction2.NAME: _SEGMENTS | {"MODEL.BACKBONE.NAME": ("ResNet3d", "TSM")},
    tsm.NAME: _SEGMENTS | {"MODEL.BACKBONE.NAME": ("TSM",), "MODEL.BACKBONE.STRIDE_IN_1X1": (False,)},
}

# What a non-local block must be: for both frameworks, for PySlowFast, and for mmaction2 (mmcv).
_BLOCK = {"NAME": ("NonLocalBlock",), "ARGS": ([],), "ATTEND": ("spacetime",)}
_PYSLOWFAST_BLOCK = {
    **_BLOCK,
    "PAIRWISE": tuple(pyslowfast.INSTANTIATIONS.values()),
    "SCALE": (True,),
    "POOL_FIRST": (True,),
    "NORM": ("same", "BN", "SyncBN", "FrozenBN"),
}
_MMACTION2_BLOCK = {**_BLOCK, "POOL_FIRST": (False,), "TEMPORAL_GROUPS": (1,)}


def export_weights(weights: Mapping[str, Tensor], cfg: CfgNode, to: str) -> dict[str, Tensor]:
    """Give weights of ours the names that another framework loads, without the entry in which its files keep them.

    Tensors do not change, with one exception: mmaction2's output convolution has no bias before its norm. A bias moves
    into the norm's running mean. The result is the same in eval mode; while a norm trains, the bias has no effect.

    Args:
        weights: state dict of the model that `cfg` describes.
        cfg: the config of the model.
        to: "pyslowfast", "pytorchvideo", "mmaction2" or "temporal-shift-module".

    Raises:
        ValueError: an unknown framework, weights of another network than `cfg`, or a network that the framework cannot
            express, with the key that it fails on.
    """
    check_one_of("framework to export to", to, _EXPORTERS)
    for key, allowed in _NETWORKS.get(to, _NETWORK).items():
        _check(to, key, cfg.value_at(key), allowed)
    # Weights do not show that TSM shifts.
    name = "TSM" if cfg.MODEL.BACKBONE.NAME == "TSM" else "ResNet3d"
    settings = {"MODEL.BACKBONE.NAME": name} | common.architecture_of(weights)
    keys = ["MODEL.BACKBONE.NAME", "MODEL.BACKBONE.DEPTH", "MODEL.NONLOCAL.ENABLED", "MODEL.HEAD.NUM_CLASSES"]
    keys += [] if cfg.MODEL.BACKBONE.NAME == "SlowFast" else ["MODEL.BACKBONE.TEMPORAL"]
    for key in keys:
        if settings.get(key) != cfg.value_at(key):
            raise ValueError(f"{key}: the config says {cfg.value_at(key)!r}, the weights are of {settings.get(key)!r}")
    return _EXPORTERS[to](weights, cfg)


def _check(to: str, key: str, value: object, allowed: Sequence | Mapping) -> None:
    check_one_of(f"{to} cannot express {key}", value, allowed)


def _check_block(to: str, cfg: CfgNode, allowed: Mapping[str, tuple]) -> None:
    for key, values in allowed.items():
        name = f"MODEL.NONLOCAL.{key}"
        if common.has_effect(name, cfg):
            _check(to, name, cfg.value_at(name), values)


def _to_pyslowfast(weights: Mapping[str, Tensor], cfg: CfgNode) -> dict[str, Tensor]:
    _check_architecture(pyslowfast.NAME, cfg)
    if cfg.MODEL.NONLOCAL.ENABLED:
        _check_block(pyslowfast.NAME, cfg, _PYSLOWFAST_BLOCK)
    return _rename(pyslowfast.NAME, weights, pyslowfast.NAMES)


def _check_architecture(to: str, cfg: CfgNode) -> None:
    node = cfg.MODEL.BACKBONE
    _check(to, "MODEL.BACKBONE.DEPTH", node.DEPTH, (50, 101))
    if node.NAME == "SlowFast":
        _check(to, "sampling of MODEL.BACKBONE.ARGS", dict(node.ARGS).get("sampling", "linspace"), ("linspace",))
        return
    architectures = dict.fromkeys(pyslowfast.ARCHITECTURES.values())
    _check(to, "(MODEL.BACKBONE.TEMPORAL, MODEL.BACKBONE.STEM)", (node.TEMPORAL, node.STEM), architectures)


def _to_pytorchvideo(weights: Mapping[str, Tensor], cfg: CfgNode) -> dict[str, Tensor]:
    _check_architecture(pytorchvideo.NAME, cfg)
    for key in ("MODEL.BACKBONE.STRIDE_IN_1X1", "MODEL.NONLOCAL.ENABLED"):
        _check(pytorchvideo.NAME, key, cfg.value_at(key), (False,))
    node = cfg.MODEL.BACKBONE
    return _rename(pytorchvideo.NAME, weights, pytorchvideo.NAMES["SlowFast" if node.NAME == "SlowFast" else node.STEM])


def _to_mmaction2(weights: Mapping[str, Tensor], cfg: CfgNode) -> dict[str, Tensor]:
    to, node, backbone = mmaction2.NAME, cfg.MODEL.NONLOCAL, cfg.MODEL.BACKBONE
    shifts = backbone.NAME == "TSM"
    if shifts or (backbone.TEMPORAL == "c2d" and backbone.STEM in mmaction2.IMAGE_STEMS and not node.ENABLED):
        # Their C2D, ResNet and TSM are image networks that are given every frame.
        weights = _of_frames(weights)
    else:
        _check(to, "MODEL.BACKBONE.STEM", backbone.STEM, tuple(mmaction2.STEMS.values()))
    if node.ENABLED:
        _check_block(to, cfg, _MMACTION2_BLOCK)
        if node.PAIRWISE == "gaussian":
            _check(to, "MODEL.NONLOCAL.SCALE of the Gaussian form", node.SCALE, (False,))
        if node.NORM != "none":
            weights = _without_output_bias(weights)
        # Their w_f is a convolution over the P x Q plane of pairs.
        weights = {n: tensor.squeeze(2) if n.endswith(".concat.weight") else tensor for n, tensor in weights.items()}
    renamed = _rename(to, weights, mmaction2.names(node.SUBSAMPLE))
    return _with_shifts(to, renamed, "non_local_block.", cfg) if shifts else renamed


def _to_tsm(weights: Mapping[str, Tensor], cfg: CfgNode) -> dict[str, Tensor]:
    if cfg.MODEL.NONLOCAL.ENABLED:
        # The only places of their code.
        _check(tsm.NAME, "MODEL.BACKBONE.DEPTH with non-local blocks", cfg.MODEL.BACKBONE.DEPTH, (50,))
        _check(tsm.NAME, "places of non-local blocks", common.nonlocal_places(weights), (tsm.PLACES,))
        allowed = {key.rpartition(".")[2]: (value,) for key, value in tsm.BLOCKS.items()}
        _check_block(tsm.NAME, cfg, {**_BLOCK, **allowed, "NORM": _PYSLOWFAST_BLOCK["NORM"]})
    renamed = _with_shifts(tsm.NAME, _rename(tsm.NAME, _of_frames(weights), tsm.NAMES), "nl.", cfg)
    # Their code drops the first part of a name.
    return {f"module.{name}": tensor for name, tensor in renamed.items()}


def _of_frames(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the kernels of an image network; those of non-local blocks keep their time axis."""
    return {n: tensor.squeeze(2) if tensor.dim() == 5 and ".nl" not in n else tensor for n, tensor in weights.items()}


def _with_shifts(to: str, weights: Mapping[str, Tensor], nonlocal_block: str, cfg: CfgNode) -> dict[str, Tensor]:
    in_place = dict(cfg.MODEL.BACKBONE.ARGS).get("in_place", False)
    if in_place:
        _check(to, "MODEL.NONLOCAL.ENABLED with shifts in place", cfg.MODEL.NONLOCAL.ENABLED, (False,))
    names = common.with_shifts(weights, nonlocal_block, cfg.MODEL.BACKBONE.DEPTH, in_place)
    return {names[name]: tensor for name, tensor in weights.items()}


def _without_output_bias(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kept = dict(weights)
    for name in [name for name in weights if name.endswith(".out.bias")]:
        bias, mean = kept.pop(name), f"{name.removesuffix('out.bias')}bn.running_mean"
        if bias.any():
            # norm(u + bias) subtracts the mean: norm'(u) with mean - bias is the same.
            kept[mean] = kept[mean] - bias
    return kept


def _rename(to: str, weights: Mapping[str, Tensor], names: common.ModuleNames) -> dict[str, Tensor]:
    theirs = {name: names.to_theirs(name) for name in weights}
    lost = [f"{name} {tuple(weights[name].shape)}" for name, other in theirs.items() if other is None]
    if lost:
        raise ValueError(f"{to} has no name for {some(lost)}")
    return {other: weights[name] for name, other in theirs.items() if other is not None}


_EXPORTERS = {
    pyslowfast.NAME: _to_pyslowfast, pytorchvideo.NAME: _to_pytorchvideo, mmaction2.NAME: _to_mmaction2,
    tsm.NAME: _to_tsm,
}  # fmt: skip
