"""Which network weights under our names belong to, read from their names and shapes."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

STAGES = ("res2", "res3", "res4", "res5")

# (residual blocks of each stage, whether they are bottlenecks) -> MODEL.BACKBONE.DEPTH
DEPTHS = {
    ((1, 1, 1, 1), False): 10,
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
# Residual blocks with a non-local block behind them where MODEL.NONLOCAL keeps STAGES and EVERY (authors' code).
USUAL_PLACES = {
    50: ["res3.1", "res3.3", "res4.1", "res4.3", "res4.5"],
    101: ["res3.1", "res3.3", "res4.6", "res4.13", "res4.20"],
}

IMAGE_NOTE = "weights of an image network: kernels get their time axis when a video network loads them"

_BLOCK = re.compile(r"backbone\.(res[2-5])\.(\d+)\.conv1\.weight$")
_NONLOCAL = re.compile(r"backbone\.(res[2-5])\.nl(\d+)\.g\.weight$")


def architecture_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the config keys that names and shapes of weights decide: depth, width, temporal kernels, blocks, classes.

    Strides, pools and pixel statistics leave no trace in weights; the source of a file knows them. For weights of an
    image network nothing is said about temporal kernels.

    Args:
        weights: under our names; kernels may be 4-D.

    Raises:
        ValueError: no network of ours has these shapes.
    """
    if "backbone.stem.conv.weight" not in weights:
        raise ValueError("the first convolution is missing")
    depth = _depth(weights)
    overrides = {"MODEL.BACKBONE.DEPTH": depth, "MODEL.BACKBONE.WIDTH": _width(weights, depth)}
    if weights["backbone.stem.conv.weight"].dim() == 5:
        overrides["MODEL.BACKBONE.TEMPORAL"] = _temporal(weights, depth)
    overrides |= _nonlocal(weights, depth)
    if "head.classifier.weight" in weights:
        overrides["MODEL.HEAD.NUM_CLASSES"] = len(weights["head.classifier.weight"])
    return overrides


def is_image_network(weights: Mapping[str, Tensor]) -> bool:
    """Whether the kernels have no time axis."""
    return weights["backbone.stem.conv.weight"].dim() == 4


def _depth(weights: Mapping[str, Tensor]) -> int:
    blocks = [0] * len(STAGES)
    for match in filter(None, map(_BLOCK.match, weights)):
        stage = STAGES.index(match[1])
        blocks[stage] = max(blocks[stage], int(match[2]) + 1)
    bottlenecks = "backbone.res2.0.conv3.weight" in weights
    if (tuple(blocks), bottlenecks) not in DEPTHS:
        kind = "bottlenecks" if bottlenecks else "basic blocks"
        raise ValueError(f"a ResNet of {blocks} {kind}, allowed: MODEL.BACKBONE.DEPTH {sorted(DEPTHS.values())}")
    return DEPTHS[tuple(blocks), bottlenecks]


def _width(weights: Mapping[str, Tensor], depth: int) -> float:
    width = len(weights["backbone.stem.conv.weight"]) / 64
    expansion = 1 if depth in (10, 18) else 4
    last = "conv2" if expansion == 1 else "conv3"
    for number, stage in enumerate(STAGES):
        inner, outer = (max(8, round(64 * 2**number * factor * width / 8) * 8) for factor in (1, expansion))
        middle = weights[f"backbone.{stage}.0.conv2.weight"].shape
        if middle[1] != len(weights[f"backbone.{stage}.0.conv1.weight"]):
            raise ValueError(f"grouped convolutions (ResNeXt) in {stage}: ours are ungrouped")
        found = middle[1], len(weights[f"backbone.{stage}.0.{last}.weight"])
        if found != (inner, outer):
            wanted = f"{inner} and {outer} behind a stem of {len(weights['backbone.stem.conv.weight'])}"
            raise ValueError(f"{stage} has {found[0]} inner and {found[1]} outer channels, allowed: {wanted}")
    return width


def _temporal(weights: Mapping[str, Tensor], depth: int) -> str:
    # Where exactly the kernels sit shows once the weights meet the network.
    kernels = [name for name in weights if re.search(r"\.res\d\.\d+\.conv\d\.weight$", name)]
    inflated = {name.split(".")[-2] for name in kernels if weights[name].shape[2] > 1}
    if not inflated:
        return "c2d"
    if inflated == {"conv1"}:
        if weights["backbone.stem.conv.weight"].shape[2] == 1:
            return "slow"
        return "i3d_3x1x1" if weights["backbone.res3.1.conv1.weight"].shape[2] == 1 else "i3d_3x1x1_all"
    if inflated == {"conv2"} and depth not in (10, 18):
        return "i3d_3x3x3"
    raise ValueError(f"temporal kernels in {' and '.join(sorted(inflated))}, allowed: in one convolution of a block")


def _nonlocal(weights: Mapping[str, Tensor], depth: int) -> dict[str, Any]:
    places = [f"{match[1]}.{match[2]}" for match in filter(None, map(_NONLOCAL.match, weights))]
    places.sort(key=lambda place: (place[:4], int(place[5:])))
    if not places:
        return {"MODEL.NONLOCAL.ENABLED": False}
    names = [f"backbone.{place.replace('.', '.nl')}" for place in places]
    for name in names:
        inner, outer = weights[f"{name}.g.weight"].shape[:2]
        if inner != max(1, outer // 2):
            raise ValueError(f"{name}: {inner} inner channels of {outer}, allowed: half of them")
    embedded = f"{names[0]}.theta.weight" in weights
    with_norm = f"{names[0]}.bn.weight" in weights
    return {
        "MODEL.NONLOCAL.ENABLED": True,
        "MODEL.NONLOCAL.BLOCKS": [] if places == USUAL_PLACES.get(depth) else places,
        "MODEL.NONLOCAL.NORM": "same" if with_norm else "none",
        **({} if embedded else {"MODEL.NONLOCAL.PAIRWISE": "gaussian"}),
    }
