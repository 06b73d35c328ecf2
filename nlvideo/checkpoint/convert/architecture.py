"""Which network weights under our names belong to, read from their names and shapes."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from nlvideo.utils.messages import some

STAGES = ("res2", "res3", "res4", "res5")

# (residual blocks of each stage, whether they are bottlenecks) -> MODEL.BACKBONE.DEPTH
DEPTHS = {
    ((1, 1, 1, 1), False): 10,
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
BOTTLENECK_DEPTHS = (50, 101, 152)
# Temporal style -> the convolution of its inflated blocks that spans several frames (of basic blocks always the first).
_INFLATED = {"c2d": "", "i3d_3x1x1": "conv1", "i3d_3x3x3": "conv2", "i3d_3x1x1_all": "conv1", "slow": "conv1"}
_FLAT_STEM = ("c2d", "slow")
# Residual blocks with a non-local block after them where MODEL.NONLOCAL keeps STAGES and EVERY (authors' code).
USUAL_PLACES = {
    50: ["res3.1", "res3.3", "res4.1", "res4.3", "res4.5"],
    101: ["res3.1", "res3.3", "res4.6", "res4.13", "res4.20"],
}

IMAGE_NOTE = "weights of an image network: kernels get their time axis when a video network loads them"

_BLOCK = re.compile(r"backbone\.(res[2-5])\.(\d+)\.conv1\.weight$")
_KERNEL = re.compile(r"backbone\.(res[2-5])\.(\d+)\.(conv[123])\.weight$")
_NONLOCAL = re.compile(r"backbone\.(res[2-5])\.nl(\d+)\.g\.weight$")
_STEM = "backbone.stem.conv.weight"


def architecture_of(weights: Mapping[str, Tensor], depths: Collection[int] = tuple(DEPTHS.values())) -> dict[str, Any]:
    """Return the config keys that names and shapes of weights decide: depth, width, temporal kernels, blocks, classes.

    Strides, pools and pixel statistics leave no trace in weights; the source of a file knows them. For weights of an
    image network nothing is said about temporal kernels. Whether every tensor is there and of the right shape shows
    once the weights meet the network (`foreign.check_fit`).

    Args:
        weights: under our names; kernels may be 4-D.
        depths: those that the source of the weights has.

    Raises:
        ValueError: no network of ours has these shapes.
    """
    if _STEM not in weights:
        raise ValueError("the first convolution is missing")
    if (channels := _channels(weights, _STEM)[1]) != 3:
        raise ValueError(f"the first convolution reads {channels} channels, such as optical flow; ours reads RGB")
    depth = _depth(weights, depths)
    overrides = {"MODEL.BACKBONE.DEPTH": depth, "MODEL.BACKBONE.WIDTH": _width(weights, depth)}
    if not is_image_network(weights):
        overrides["MODEL.BACKBONE.TEMPORAL"] = _temporal(weights)
    overrides |= _nonlocal(weights, depth)
    if "head.classifier.weight" in weights:
        overrides["MODEL.HEAD.NUM_CLASSES"] = len(weights["head.classifier.weight"])
    return overrides


def is_image_network(weights: Mapping[str, Tensor]) -> bool:
    """Whether the kernels have no time axis."""
    return _STEM in weights and weights[_STEM].dim() == 4


def nonlocal_places(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the residual blocks with a non-local block after them, e.g. ``["res3.1", "res4.5"]``, in their order."""
    found = sorted((match[1], int(match[2])) for match in filter(None, map(_NONLOCAL.match, weights)))
    return [f"{stage}.{index}" for stage, index in found]


def _depth(weights: Mapping[str, Tensor], depths: Collection[int]) -> int:
    blocks = [0] * len(STAGES)
    for match in filter(None, map(_BLOCK.match, weights)):
        stage = STAGES.index(match[1])
        blocks[stage] = max(blocks[stage], int(match[2]) + 1)
    bottlenecks = "backbone.res2.0.conv3.weight" in weights
    depth = DEPTHS.get((tuple(blocks), bottlenecks))
    if depth not in depths:
        kind = "bottlenecks" if bottlenecks else "basic blocks"
        raise ValueError(f"a ResNet of {blocks} {kind}, allowed: MODEL.BACKBONE.DEPTH {sorted(depths)}")
    return depth


def _channels(weights: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """Output and input channels of a convolution."""
    if name not in weights or weights[name].dim() not in (4, 5):
        raise ValueError(f"there is no kernel {name}")
    return tuple(weights[name].shape[:2])


def _width(weights: Mapping[str, Tensor], depth: int) -> float:
    base = _channels(weights, _STEM)[0]
    expansion = 4 if depth in BOTTLENECK_DEPTHS else 1
    last = "conv2" if expansion == 1 else "conv3"
    for number, stage in enumerate(STAGES):
        inner, outer = (max(8, round(2**number * factor * base / 8) * 8) for factor in (1, expansion))
        block = f"backbone.{stage}.0"
        middle = _channels(weights, f"{block}.conv2.weight")[1]
        if middle != _channels(weights, f"{block}.conv1.weight")[0]:
            raise ValueError(f"grouped convolutions (ResNeXt) in {stage}: ours are ungrouped")
        found = middle, _channels(weights, f"{block}.{last}.weight")[0]
        if found != (inner, outer):
            wanted = f"{inner} and {outer} after a stem of {base}"
            raise ValueError(f"{stage} has {found[0]} inner and {found[1]} outer channels, allowed: {wanted}")
    return base / 64


def _temporal(weights: Mapping[str, Tensor]) -> str:
    found = {}
    for match in filter(None, map(_KERNEL.match, weights)):
        if weights[match[0]].dim() != 5:
            raise ValueError(f"{match[0]} {tuple(weights[match[0]].shape)} has no time axis, but the first kernel has")
        found[match[1], int(match[2]), match[3]] = weights[match[0]].shape[2] > 1
    stem = weights[_STEM].shape[2] > 1
    for style, conv in _INFLATED.items():
        wanted = {(*key, name): name == conv and _is_inflated(style, *key) for *key, name in found}
        if (found, stem) == (wanted, style not in _FLAT_STEM):
            return style
    names = [".".join(map(str, key)) for key, inflated in found.items() if inflated]
    raise ValueError(
        f"temporal kernels in {some(names) or 'no block'} after a stem of {weights[_STEM].shape[2]} frames are "
        f"none of our styles: {', '.join(_INFLATED)}"
    )


def _is_inflated(style: str, stage: str, index: int) -> bool:
    if style == "slow":
        return stage in ("res4", "res5")
    return style == "i3d_3x1x1_all" or stage == "res2" or index % 2 == (stage == "res5")


def _nonlocal(weights: Mapping[str, Tensor], depth: int) -> dict[str, Any]:
    places = nonlocal_places(weights)
    if not places:
        return {"MODEL.NONLOCAL.ENABLED": False}
    names = [f"backbone.{place.replace('.', '.nl')}" for place in places]
    for name in names:
        inner, outer = _channels(weights, f"{name}.g.weight")
        if inner != max(1, outer // 2):
            raise ValueError(f"{name}: {inner} inner channels of {outer}, allowed: half of them")
    overrides = {
        "MODEL.NONLOCAL.ENABLED": True,
        "MODEL.NONLOCAL.BLOCKS": [] if places == USUAL_PLACES.get(depth) else places,
        "MODEL.NONLOCAL.NORM": "same" if f"{names[0]}.bn.weight" in weights else "none",
    }
    # Names show these two forms; the other two have the same.
    if f"{names[0]}.theta.weight" not in weights:
        overrides["MODEL.NONLOCAL.PAIRWISE"] = "gaussian"
    elif f"{names[0]}.concat.weight" in weights:
        overrides["MODEL.NONLOCAL.PAIRWISE"] = "concatenation"
    return overrides
