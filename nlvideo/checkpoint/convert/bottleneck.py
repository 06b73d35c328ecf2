"""Networks of bottlenecks: which one a set of weights belongs to, and the shapes of all its tensors."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Residual blocks of res2 to res5 in the bottleneck networks.
NUM_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

STAGES = (2, 3, 4, 5)

# Style -> frames of the first two convolutions of an inflated block.
_FRAMES = {"c2d": (1, 1), "i3d_3x1x1": (3, 1), "i3d_3x3x3": (1, 3), "i3d_3x1x1_all": (3, 1), "slow": (3, 1)}

_BLOCK = re.compile(r"backbone\.res(\d)\.(\d+)\.")
_NONLOCAL = re.compile(r"backbone\.res(\d)\.nl(\d+)\.")

Shape = tuple[int, ...]


def describe(weights: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Config keys of the bottleneck network that weights under our names belong to.

    Depth, width, temporal style, the number of classes and the places of non-local blocks can be seen in them; stem
    and strides cannot.

    Args:
        weights: our names -> tensors.
        source: for the error.

    Raises:
        ValueError: no network of ours has such blocks.
    """
    counts = tuple(1 + max(_indices(weights, _BLOCK, stage), default=-1) for stage in STAGES)
    depths = [depth for depth, blocks in NUM_BLOCKS.items() if blocks == counts]
    if not depths:
        allowed = ", ".join(map(str, NUM_BLOCKS.values()))
        raise ValueError(f"{source}: got {counts} residual blocks in the stages, allowed: {allowed}")
    for name in ("backbone.stem.conv.weight", "backbone.res2.0.conv3.weight", "head.classifier.weight"):
        if name not in weights:
            raise ValueError(f"{source}: the file has nothing for {name}; allowed: whole bottleneck networks")
    base = weights["backbone.stem.conv.weight"].shape[0]
    if base % 8:
        raise ValueError(f"{source}: got {base} channels in the stem, allowed: multiples of 8")
    places = [f"res{stage}.{index}" for stage in STAGES for index in sorted(_indices(weights, _NONLOCAL, stage))]
    return {
        "MODEL.BACKBONE.DEPTH": depths[0],
        "MODEL.BACKBONE.WIDTH": base / 64,
        "MODEL.BACKBONE.TEMPORAL": _temporal_style(weights, counts, source),
        "MODEL.NONLOCAL.ENABLED": bool(places),
        "MODEL.NONLOCAL.BLOCKS": places,
        "MODEL.HEAD.NUM_CLASSES": weights["head.classifier.weight"].shape[0],
    }


def _indices(weights: Mapping[str, Tensor], pattern: re.Pattern, stage: int) -> set[int]:
    matches = filter(None, map(pattern.match, weights))
    return {int(match[2]) for match in matches if int(match[1]) == stage}


def _is_inflated(style: str, stage: int, index: int) -> bool:
    if style == "slow":
        return stage >= 4
    if style == "i3d_3x1x1_all":
        return True
    return stage == 2 or index % 2 == (stage == 5)


def _temporal_kernels(style: str, counts: Shape) -> dict[str, int]:
    first, second = _FRAMES[style]
    kernels = {"backbone.stem.conv": 1 if style in ("c2d", "slow") else 5}
    for stage, count in zip(STAGES, counts):
        for index in range(count):
            inflated = _is_inflated(style, stage, index)
            kernels[f"backbone.res{stage}.{index}.conv1"] = first if inflated else 1
            kernels[f"backbone.res{stage}.{index}.conv2"] = second if inflated else 1
    return kernels


def _temporal_style(weights: Mapping[str, Tensor], counts: Shape, source: str) -> str:
    found = {}
    for module in _temporal_kernels("c2d", counts):
        weight = weights.get(f"{module}.weight")
        if weight is None or weight.dim() != 5:
            shape = "no kernel" if weight is None else tuple(weight.shape)
            raise ValueError(f"{source}: got {shape} for {module}.weight, allowed: a kernel of 5 axes")
        found[module] = weight.shape[2]
    for style in _FRAMES:
        if found == _temporal_kernels(style, counts):
            return style
    inflated = [f"{module.removeprefix('backbone.')} ({frames})" for module, frames in found.items() if frames > 1]
    raise ValueError(
        f"{source}: temporal kernels in {', '.join(inflated)} are none of our styles: {', '.join(_FRAMES)}"
    )


def network_shapes(settings: Mapping[str, Any]) -> dict[str, Shape]:
    """Name -> shape of every tensor of a bottleneck network but the counters ``num_batches_tracked``.

    Args:
        settings: what `describe` gives, and of ``MODEL.NONLOCAL`` the keys ``PAIRWISE`` and ``NORM``; "none" means that
            there is no norm.
    """
    counts = NUM_BLOCKS[settings["MODEL.BACKBONE.DEPTH"]]
    kernels = _temporal_kernels(settings["MODEL.BACKBONE.TEMPORAL"], counts)
    base = round(settings["MODEL.BACKBONE.WIDTH"] * 64)
    shapes = {"backbone.stem.conv.weight": (base, 3, kernels["backbone.stem.conv"], 7, 7)}
    shapes |= _norm("backbone.stem.bn", base)
    before = base
    for stage, count in zip(STAGES, counts):
        inner = base * 2 ** (stage - 2)
        for index in range(count):
            name = f"backbone.res{stage}.{index}"
            shapes |= _bottleneck(name, before, inner, kernels[f"{name}.conv1"], kernels[f"{name}.conv2"], index == 0)
            before = 4 * inner
    for place in settings["MODEL.NONLOCAL.BLOCKS"]:
        stage, index = place.split(".")
        channels = 4 * base * 2 ** (int(stage[3:]) - 2)
        shapes |= _nonlocal(f"backbone.{stage}.nl{index}", channels, settings)
    classes = settings["MODEL.HEAD.NUM_CLASSES"]
    return shapes | {"head.classifier.weight": (classes, before), "head.classifier.bias": (classes,)}


def _norm(name: str, channels: int) -> dict[str, Shape]:
    return {f"{name}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def _bottleneck(name: str, before: int, inner: int, time1: int, time2: int, first: bool) -> dict[str, Shape]:
    shapes = {
        f"{name}.conv1.weight": (inner, before, time1, 1, 1),
        f"{name}.conv2.weight": (inner, inner, time2, 3, 3),
        f"{name}.conv3.weight": (4 * inner, inner, 1, 1, 1),
    }
    shapes |= _norm(f"{name}.bn1", inner) | _norm(f"{name}.bn2", inner) | _norm(f"{name}.bn3", 4 * inner)
    if first:
        shapes[f"{name}.shortcut.conv.weight"] = (4 * inner, before, 1, 1, 1)
        shapes |= _norm(f"{name}.shortcut.bn", 4 * inner)
    return shapes


def _nonlocal(name: str, channels: int, settings: Mapping[str, Any]) -> dict[str, Shape]:
    pairwise, inner = settings["MODEL.NONLOCAL.PAIRWISE"], channels // 2
    embeddings = ("g",) if pairwise == "gaussian" else ("theta", "phi", "g")
    shapes: dict[str, Shape] = {}
    for conv in embeddings:
        shapes |= {f"{name}.{conv}.weight": (inner, channels, 1, 1, 1), f"{name}.{conv}.bias": (inner,)}
    if pairwise == "concatenation":
        shapes[f"{name}.concat.weight"] = (1, channels, 1, 1, 1)
    shapes |= {f"{name}.out.weight": (channels, inner, 1, 1, 1), f"{name}.out.bias": (channels,)}
    return shapes if settings["MODEL.NONLOCAL.NORM"] == "none" else shapes | _norm(f"{name}.bn", channels)


def check_network(weights: Mapping[str, Tensor], settings: Mapping[str, Any], source: str) -> None:
    """Compare weights with the network that they shall be for, tensor by tensor.

    Args:
        weights: our names -> tensors.
        settings: as for `network_shapes`.
        source: for the error.

    Raises:
        ValueError: the first tensor that is missing, too many or of another shape, as with grouped convolutions.
    """
    expected = network_shapes(settings)
    found = {name: tuple(tensor.shape) for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    for name, shape in expected.items():
        if name not in found:
            raise ValueError(f"{source}: the file has nothing for {name} {shape}")
        if found[name] != shape:
            raise ValueError(f"{source}: got {found[name]} for {name}, allowed: {shape}")
    for name in found:
        if name not in expected:
            raise ValueError(f"{source}: our network has no {name} {found[name]}")
