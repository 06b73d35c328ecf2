"""What the converters of foreign weights share: what they give, tables of names, foreign configs, architectures."""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType
from typing import Any

from torch import Tensor

from nlvideo.config import CfgNode
from nlvideo.config.configurable import constructor_arguments
from nlvideo.data.datasets.kinetics_names import kinetics400_classes
from nlvideo.modeling.backbone import TSM, SlowFast, layout
from nlvideo.utils.messages import one_of, some

#: name under which `weights.flatten` hands on the text of the config that a file carries
CONFIG_TEXT = "cfg"
#: tensors that show that names are ours: of our ResNets, and of any network with our head
STEM, CLASSIFIER = "backbone.stem.conv.weight", "head.classifier.weight"
# Of `SlowFast`: the first kernel of the fast pathway, and what the first stage of the slow one reads from it.
_FAST, _LATERAL = "backbone.fast.stem.conv.weight", "backbone.lateral.stem.conv.weight"
_ARGS = "MODEL.BACKBONE.ARGS"


@dataclass
class Converted:
    """The weights of a foreign file under the names of our `VideoClassifier`, and what they belong to.

    Kernels of image networks stay 4-D; loading inflates them.
    """

    weights: dict[str, Tensor]  #: name in our model's state dict -> tensor
    #: config key -> the value with which our network computes what the source computed
    overrides: dict[str, Any] = field(default_factory=dict)
    mapped: list[tuple[str, str]] = field(default_factory=list)  #: (their name, our name)
    dropped: list[tuple[str, str]] = field(default_factory=list)  #: (their name, why it has no place here)
    notes: list[str] = field(default_factory=list)  #: what a reader of the log should know
    undecided: dict[str, list[Any]] = field(default_factory=dict)  #: config key -> values that the file could mean
    tolerated: dict[str, list[Any]] = field(default_factory=dict)  #: config key -> others to train from; None: any
    source: str = "nlvideo"  #: whose names the file has: a name in `SOURCES`, or "nlvideo"
    dataset: str = ""  #: what the network was trained on: "kinetics400", or "" for another dataset or an unknown one
    classes: list[str] = field(default_factory=list)  #: their names in the order of the scores; empty if not known

    def name_classes(self, given: list[str]) -> None:
        """Set the names of the classes: those given, or those of Kinetics-400 for its 400 classes."""
        self.classes = given
        if self.dataset == "kinetics400" and len(self.weights.get(CLASSIFIER, ())) == 400 != len(given):
            self.classes = list(kinetics400_classes())
            self.notes.append("its classes are those of Kinetics-400, in alphabetical order")

    def summary(self) -> str:
        """Return in one line how many tensors were taken over, how many were dropped, and why."""
        reasons = Counter(reason for _, reason in self.dropped)
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        return f"{len(self.mapped)} tensors taken over, {len(self.dropped)} dropped{f' ({why})' if why else ''}"


def has_effect(key: str, cfg: CfgNode) -> bool:
    """Return whether a key changes what a network computes, beside the other keys of its config."""
    node = cfg.MODEL.NONLOCAL
    idle = {
        "MODEL.NONLOCAL.SCALE": node.PAIRWISE not in ("gaussian", "embedded_gaussian"),
        "MODEL.NONLOCAL.POOL_FIRST": not node.SUBSAMPLE,
        "MODEL.NONLOCAL.TEMPORAL_GROUP_STAGES": node.TEMPORAL_GROUPS == 1,
    }
    return not idle.get(key, False)


# What the authors' code computes in every network. Their mean and deviation are those of the config's defaults, too.
AUTHORS_NETWORK = {
    "MODEL.PIXEL_MEAN": [114.75, 114.75, 114.75],
    "MODEL.PIXEL_STD": [57.375, 57.375, 57.375],
    "MODEL.BACKBONE.STRIDE_IN_1X1": False,
}
AUTHORS_BLOCKS = {
    "MODEL.NONLOCAL.PAIRWISE": "embedded_gaussian",
    "MODEL.NONLOCAL.ATTEND": "spacetime",
    "MODEL.NONLOCAL.SUBSAMPLE": True,
    "MODEL.NONLOCAL.POOL_FIRST": True,
    "MODEL.NONLOCAL.SCALE": True,
    "MODEL.NONLOCAL.TEMPORAL_GROUPS": 1,
    "MODEL.NONLOCAL.ARGS": [],
}

# One frame from each of 8 segments of the video: the usual clips of TSN and TSM.
SEGMENTS = {
    "INPUT.NUM_FRAMES": 8,
    "INPUT.FRAME_STRIDE": 1,
    "INPUT.CLIP_SAMPLER": "SegmentClip",
    "TEST.CLIP_SAMPLER": "SegmentClip",
}
SEGMENTS_NOTE = (
    "taken to be for 8 segments and, with shifts, for the usual 1/8 of the channels: the weights do not show it"
)

POOLED_TSM = "a TSM network with a pool over time"
NO_X3D = "an X3D network is not one of our ResNets"

_LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
# More than any stage of a known ResNet has.
_MOST_BLOCKS = 64


class ModuleNames:
    """A table of module names that is read in both directions.

    Names may hold ``{stage}`` and ``{block}``, which stand for a number; blocks have the same number on both sides.
    """

    def __init__(self, modules: Mapping[str, str], stages: Mapping[int, int]) -> None:
        """Prepare the table from their modules -> ours, and their numbers of stages -> ours (2 to 5).

        Where two of their modules are one of ours, `to_theirs` gives the first.
        """
        self._ours: dict[str, str] = {}
        for theirs, ours in modules.items():
            for (their_stage, our_stage), block in product(stages.items() or [(0, 0)], range(_MOST_BLOCKS)):
                their_name = theirs.format(stage=their_stage, block=block)
                self._ours[their_name] = ours.format(stage=our_stage, block=block)
        self._theirs = {ours: theirs for theirs, ours in reversed(self._ours.items())}

    def to_ours(self, name: str) -> str | None:
        """Our name of a tensor that they call `name`; None: the table has no such module."""
        return _translate(name, self._ours)

    def to_theirs(self, name: str) -> str | None:
        """Their name of a tensor that we call `name`; None: the table has no such module."""
        return _translate(name, self._theirs)


def _translate(name: str, table: Mapping[str, str]) -> str | None:
    module, _, leaf = name.rpartition(".")
    return f"{table[module]}.{leaf}" if module in table and leaf in _LEAVES else None


def rename(
    source: str,
    content: Mapping[str, Any],
    to_ours: Callable[[str], str | None],
    reasons: Mapping[str, str] = MappingProxyType({}),
    drop: Callable[[str], str] = lambda name: "",
) -> Converted:
    """Give the tensors of a file our names.

    Args:
        source: name of the source, for the error.
        content: name -> tensor; what is not a tensor is dropped.
        to_ours: their name -> ours; None for a name without a place.
        reasons: part of a name, as a pattern -> why such a name has no place.
        drop: why a name without a place is dropped; it returns "" where that is an error.

    Raises:
        ValueError: a tensor has no place in our network, or two have the same.
    """
    converted = Converted({}, source=source)
    for theirs, value in content.items():
        ours = to_ours(theirs)
        if not isinstance(value, Tensor):
            converted.dropped.append((theirs, "not a tensor"))
        elif ours is None and (reason := drop(theirs)):
            converted.dropped.append((theirs, reason))
        elif ours is None:
            known = (reason for part, reason in reasons.items() if re.search(part, theirs))
            reason = next(known, "our ResNets have no such layer")
            raise ValueError(f"{source}: cannot express {theirs} {tuple(value.shape)}: {reason}")
        elif ours in converted.weights:
            raise ValueError(f"{source}: {theirs} is a second tensor for {ours}")
        else:
            converted.weights[ours] = value
            converted.mapped.append((theirs, ours))
    return converted


# A setting that is read elsewhere, that names and shapes of the weights show, or that changes no scores.
_ANY = object()


def known(settings: str, **others: Any) -> dict[str, Any]:
    """Return a table for `check_recipe`: ``settings`` that may have any value, with spaces between them, and others.

    For each of ``others`` it is the list of values that our network can express, or the table of its own settings.
    """
    return dict.fromkeys(settings.split(), _ANY) | others


def check_recipe(where: str, given: object, table: Mapping[str, Any]) -> None:
    """Refuse a setting that our network cannot express, and one that is not in the table.

    A setting that is not in the table but off (False, None, 0 or empty) is taken to be of another version, and unused.

    Args:
        where: name of the section, for the error.
        given: the section as the file has it.
        table: from `known`.

    Raises:
        ValueError: naming the setting, what it is, and what is allowed.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: got {given!r}, expected a section of settings")
    for key, value in given.items():
        name, allowed = f"{where}.{key}", table.get(key)
        if isinstance(allowed, Mapping):
            check_recipe(name, value, allowed)
        elif allowed is None and value:
            raise ValueError(f"{name}: {value!r} in the config of the file is not understood: its network is unknown")
        elif allowed not in (None, _ANY) and value not in allowed:
            raise one_of(f"{name} in the config of the file", value, allowed)


@contextmanager
def reading_recipe(source: str) -> Iterator[None]:
    """Begin a ValueError with the source while a config is read; a setting of a wrong type becomes one, too."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    except (TypeError, AttributeError, LookupError) as error:
        reason = f"of another kind than expected ({type(error).__name__}: {error})"
        raise ValueError(f"{source}: a setting of the config in the file is {reason}") from error


BOTTLENECK_DEPTHS = tuple(depth for depth in layout.NUM_BLOCKS if depth not in layout.BASIC_DEPTHS)
# Residual blocks with a non-local block after them where MODEL.NONLOCAL keeps STAGES and EVERY (authors' code).
USUAL_PLACES = {
    50: ["res3.1", "res3.3", "res4.1", "res4.3", "res4.5"],
    101: ["res3.1", "res3.3", "res4.6", "res4.13", "res4.20"],
}

WHOLE_MAP_NOTE = "their head averages the whole map, ours windows of INPUT.CROP_SIZE: the same on crops of that size"
IMAGE_NOTE = "weights of an image network: kernels get their time axis when a video network loads them"

_BLOCK = re.compile(r"backbone\.(res[2-5])\.(\d+)\.conv1\.weight$")
_KERNEL = re.compile(r"backbone\.(res[2-5])\.(\d+)\.(conv[123])\.weight$")
_NONLOCAL = re.compile(r"backbone\.(res[2-5])\.nl(\d+)\.g\.weight$")


def architecture_of(
    weights: Mapping[str, Tensor], depths: Collection[int] = tuple(layout.NUM_BLOCKS)
) -> dict[str, Any]:
    """Return the config keys that names and shapes of weights decide: depth, width, temporal kernels, blocks, classes.

    Strides, pools and pixel statistics leave no trace in weights; the source of a file knows them. For weights of an
    image network nothing is said about temporal kernels. `weights.fit` shows whether every tensor fits.

    Args:
        weights: under our names; kernels may be 4-D.
        depths: those that the source of the weights has.

    Raises:
        ValueError: no network of ours has these shapes.
    """
    if STEM not in weights:
        raise ValueError("the first convolution is missing")
    if (channels := _channels(weights, STEM)[1]) != 3:
        raise ValueError(f"the first convolution reads {channels} channels, such as optical flow; ours reads RGB")
    depth = _depth(weights, depths)
    overrides: dict[str, Any] = {"MODEL.BACKBONE.DEPTH": depth, "MODEL.BACKBONE.WIDTH": _width(weights, depth)}
    if _FAST in weights:
        overrides |= {"MODEL.BACKBONE.NAME": "SlowFast", _ARGS: _pathways(weights)}
    elif not is_image_network(weights):
        overrides["MODEL.BACKBONE.TEMPORAL"] = _temporal(weights, depth)
    overrides |= _nonlocal(weights, depth)
    if CLASSIFIER in weights:
        overrides["MODEL.HEAD.NUM_CLASSES"] = len(weights[CLASSIFIER])
    return overrides


def settings_of_authors(
    weights: Mapping[str, Tensor], depths: Collection[int] = tuple(layout.NUM_BLOCKS)
) -> dict[str, Any]:
    """Return the config keys of `architecture_of`, and those of the authors' network and blocks that leave no trace."""
    found = AUTHORS_NETWORK | architecture_of(weights, depths)
    return found | (AUTHORS_BLOCKS if found["MODEL.NONLOCAL.ENABLED"] else {})


# "layer2.0.", and what TSM adds to names: "net." around what it shifts, a residual block or its first convolution, and
# "block." around a residual block with a non-local block after it.
_SHIFTED = re.compile(r"(layer(\d)\.(\d+)\.)(?:block\.)?(net\.)?(conv1\.(?:conv\.)?)?(net\.)?")


def rename_shifted(source: str, content: Mapping[str, Any], *rest: Any) -> Converted:
    """Do as `rename` does, for names with or without what TSM adds to them."""
    theirs = {_SHIFTED.sub(r"\1\5", name, count=1): name for name in content}
    converted = rename(source, {plain: content[name] for plain, name in theirs.items()}, *rest)
    converted.mapped = [(theirs[plain], ours) for plain, ours in converted.mapped]
    return converted


def with_shifts(names: Collection[str], nonlocal_block: str, depth: int, in_place: bool) -> dict[str, str]:
    """Return names -> those in a TSM network, which calls its non-local blocks ``nonlocal_block``."""
    every, result = layout.shift_step(depth, in_place), {}
    has_block = {name.partition(nonlocal_block)[0] for name in names if nonlocal_block in name}
    for name in names:
        found = _SHIFTED.search(name)
        result[name] = name
        if found is None or nonlocal_block in name:
            continue
        start, rest = name[: found.end(1)], name[found.end(1) :]
        if in_place:
            rest = f"net.{rest}"
        elif found[5] and rest == f"{found[5]}weight" and int(found[3]) % every == 0:
            rest = f"{found[5]}net.weight"
        result[name] = f"{start}{'block.' if start in has_block else ''}{rest}"
    return result


def shift_settings(names: Iterable[str], depth: int) -> dict[str, Any]:
    """Return the config keys of TSM that names show; none where nothing shifts.

    Raises:
        ValueError: other residual blocks shift than in our TSM.
    """
    kernels = [m for name in names if (m := _SHIFTED.search(name)) and m[5] and name[m.end() :] == "weight"]
    in_place = any(found[4] for found in kernels)
    if not in_place and not any(found[6] for found in kernels):
        return {}
    for found in kernels:
        shifts = int(found[3]) % layout.shift_step(depth, in_place) == 0
        if (bool(found[4]), bool(found[6])) != (shifts and in_place, shifts and not in_place):
            raise ValueError(f"the residual blocks that shift are not those of a TSM network: see {found[1]}conv1")
    arguments = [["in_place", True]] if in_place else []
    return {"MODEL.BACKBONE.NAME": "TSM", "MODEL.BACKBONE.STEM": "slow", "MODEL.BACKBONE.ARGS": arguments} | SEGMENTS


def add_time_axis(weights: dict[str, Tensor]) -> bool:
    """Give the kernels of an image network, in place, one frame; return whether it is one."""
    is_image = is_image_network(weights)
    for name, tensor in weights.items():
        if is_image and tensor.dim() == 4:
            weights[name] = tensor.unsqueeze(2)
    return is_image


def is_image_network(weights: Mapping[str, Tensor]) -> bool:
    """Whether the kernels have no time axis."""
    return STEM in weights and weights[STEM].dim() == 4


def leave_alpha_open(converted: Converted, settings: dict[str, Any]) -> None:
    """Move the arguments of `SlowFast`, where ``settings`` has them, to ``undecided``: no weight shows its alpha."""
    if _ARGS in settings:
        args = settings.pop(_ARGS)
        converted.undecided[_ARGS] = [[["alpha", alpha], *args] for alpha in (4, 8)]
        converted.notes.append(f"{_ARGS}: alpha is 4 in their networks 8x8 and 16x8, 8 in 4x16")


def plain(value: Any) -> Any:
    """Return a value of a config with a list in place of a tuple."""
    return list(value) if isinstance(value, tuple) else value


def same_value(key: str, one: Any, other: Any) -> bool:
    """Whether two values of a key mean the same to a network with weights from a file."""
    one, other = plain(one), plain(other)
    if key == _ARGS:
        # An argument may be missing where it is the default.
        arguments = constructor_arguments(SlowFast) | constructor_arguments(TSM)
        defaults = {name: argument.default for name, argument in arguments.items()}
        return defaults | dict(one) == defaults | dict(other)
    if key == "MODEL.NONLOCAL.NORM":
        # Which kind of norm holds the numbers does not matter.
        return (one == "none") == (other == "none")
    if key.startswith("MODEL.PIXEL_") and isinstance(one, list):
        # One value stands for every channel.
        one, other = (values * (3 if len(values) == 1 else 1) for values in (one, other))
        close = (isinstance(a, float) and math.isclose(a, b, rel_tol=1e-5) for a, b in zip(one, other, strict=False))
        return len(one) == len(other) and all(close)
    return one == other


def nonlocal_places(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the residual blocks with a non-local block after them, e.g. ``["res3.1", "res4.5"]``, in their order."""
    found = sorted((match[1], int(match[2])) for match in filter(None, map(_NONLOCAL.match, weights)))
    return [f"{stage}.{index}" for stage, index in found]


def _depth(weights: Mapping[str, Tensor], depths: Collection[int]) -> int:
    blocks = [0] * len(layout.STAGES)
    for match in filter(None, map(_BLOCK.match, weights)):
        stage = layout.STAGES.index(match[1])
        blocks[stage] = max(blocks[stage], int(match[2]) + 1)
    has_bottlenecks = "backbone.res2.0.conv3.weight" in weights
    for depth in depths:
        if layout.NUM_BLOCKS[depth] == tuple(blocks) and has_bottlenecks == (depth in BOTTLENECK_DEPTHS):
            return depth
    kind = "bottlenecks" if has_bottlenecks else "basic blocks"
    raise ValueError(f"a ResNet of {blocks} {kind}, allowed: MODEL.BACKBONE.DEPTH {sorted(depths)}")


def _channels(weights: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """Output and input channels of a convolution."""
    if name not in weights or weights[name].dim() not in (4, 5):
        raise ValueError(f"there is no kernel {name}")
    return weights[name].shape[0], weights[name].shape[1]


def _width(weights: Mapping[str, Tensor], depth: int) -> float:
    base = _channels(weights, STEM)[0]
    last = "conv2" if depth in layout.BASIC_DEPTHS else "conv3"
    for stage, (inner, outer) in layout.stage_channels(depth, base / 64).items():
        block = f"backbone.{stage}.0"
        middle = _channels(weights, f"{block}.conv2.weight")[1]
        if middle != _channels(weights, f"{block}.conv1.weight")[0]:
            raise ValueError(f"grouped convolutions (ResNeXt) in {stage}: ours are ungrouped")
        found = middle, _channels(weights, f"{block}.{last}.weight")[0]
        if found != (inner, outer):
            wanted = f"{inner} and {outer} after a stem of {base}"
            raise ValueError(f"{stage} has {found[0]} inner and {found[1]} outer channels, allowed: {wanted}")
    return base / 64


def _temporal(weights: Mapping[str, Tensor], depth: int) -> str:
    found: dict[tuple[str, int, str], bool] = {}
    for match in filter(None, map(_KERNEL.match, weights)):
        if weights[match[0]].dim() != 5:
            raise ValueError(f"{match[0]} {tuple(weights[match[0]].shape)} has no time axis, but the first kernel has")
        found[match[1], int(match[2]), match[3]] = weights[match[0]].shape[2] > 1
    stem = weights[STEM].shape[2]
    for style, kernels in layout.TEMPORAL_KERNELS.items():
        frames = dict(zip(("conv1", "conv2"), kernels[depth in layout.BASIC_DEPTHS], strict=True))
        wanted = {
            (stage, index, conv): frames.get(conv, 1) > 1 and layout.inflated_blocks(stage, index + 1, style)[index]
            for stage, index, conv in found
        }
        if found == wanted and (stem > 1) == (style not in layout.FLAT_STEM):
            return style
    names = [".".join(map(str, key)) for key, inflated in found.items() if inflated]
    raise ValueError(
        f"temporal kernels in {some(names) or 'no block'} after a stem of {stem} frames are none of our styles: "
        f"{', '.join(layout.TEMPORAL_KERNELS)}"
    )


def _pathways(weights: Mapping[str, Tensor]) -> list[list[Any]]:
    """What shapes show of the arguments of `SlowFast`: the kernel, and what differs from the paper."""
    (slow, _), (fast, _), (lateral, read) = (_channels(weights, name) for name in (STEM, _FAST, _LATERAL))
    kernels = [(match[1], match[3], weights[match[0]]) for match in map(_KERNEL.match, weights) if match]
    inflated = [kernel.shape[2] > 1 for stage, conv, kernel in kernels if (stage, conv) == ("res4", "conv1")]
    args: dict[str, Any] = {"lateral_kernel": weights[_LATERAL].shape[2]}
    shown = {"beta": fast / slow, "lateral_ratio": lateral // read, "temporal_blocks": sum(inflated) % len(inflated)}
    usual = constructor_arguments(SlowFast)
    args |= {name: value for name, value in shown.items() if value != usual[name].default}
    return [list(pair) for pair in args.items()]


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
