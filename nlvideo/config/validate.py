"""Checks of values, and of keys against each other, once a config is complete. Each error is one line."""

import math
import re
from collections.abc import Iterator
from typing import Any

from nlvideo.config.defaults import _C
from nlvideo.config.node import CfgNode
from nlvideo.utils.messages import did_you_mean

#: The values of keys that choose among a few. What implements a choice reads its names here, or a test compares them.
#: Names in registries are checked where the registry is.
ALLOWED: dict[str, tuple] = {
    "MODEL.NORM": ("BN", "SyncBN", "FrozenBN"),
    "MODEL.BACKBONE.TEMPORAL": ("c2d", "i3d_3x1x1", "i3d_3x3x3", "i3d_3x1x1_all", "slow"),
    "MODEL.BACKBONE.STEM": ("paper", "authors_32x2", "authors_8x8", "small", "slowfast_8x8", "slow", "mmaction2_32x2"),
    "MODEL.BACKBONE.FREEZE_AT": (0, 1, 2, 3, 4, 5),
    "MODEL.NONLOCAL.PAIRWISE": ("gaussian", "embedded_gaussian", "dot_product", "concatenation"),
    "MODEL.NONLOCAL.ATTEND": ("space", "time", "spacetime"),
    "MODEL.NONLOCAL.NORM": ("same", "BN", "SyncBN", "FrozenBN", "none"),
    "MODEL.NONLOCAL.ALGORITHM": ("auto", "dense", "fused", "reordered", "folded", "sorted"),
    "DATALOADER.READER": ("pyav", "torchcodec"),
    "INPUT.SHORT_VIDEO": ("wrap", "clamp", "error"),
    "SOLVER.OPTIMIZER": ("SGD", "AdamW"),
    "SOLVER.LR_SCHEDULE": ("step", "cosine"),
    "SOLVER.BN_MODE": ("unfrozen", "frozen", "frozen_after", "unfrozen_after"),
    "SOLVER.AMP.DTYPE": ("bfloat16", "float16"),
    "SOLVER.CLIP_GRADIENTS.TYPE": ("norm", "value"),
    **dict.fromkeys(("TEST.NUM_CROPS", "TEST.VALIDATION.NUM_CROPS"), (1, 3, 10)),
    "TEST.AVERAGE": ("softmax", "logits"),
    "TEST.AMP": ("", "bfloat16", "float16"),
}

# Numbers that are 1 or more, and those with an upper limit. Every other number is 0 or more.
_AT_LEAST_1 = (
    "MODEL.NONLOCAL.EVERY", "MODEL.NONLOCAL.TEMPORAL_GROUPS",
    "INPUT.NUM_FRAMES", "INPUT.FRAME_STRIDE", "INPUT.CROP_SIZE", "INPUT.REPEATED_CLIPS",
    "DATALOADER.MAX_FRAME_PIXELS", "DATALOADER.MAX_CLIP_PIXELS", "DATALOADER.SHUFFLE_BUFFER",
    "SOLVER.CLIPS_PER_BATCH", "SOLVER.MAX_ITER", "SOLVER.ACCUMULATE", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.LOG_PERIOD",
    "TEST.NUM_CLIPS", "TEST.SHORT_SIDE", "TEST.VIEWS_PER_FORWARD", "TEST.PRECISE_BN.NUM_ITERS",
    "TEST.VALIDATION.NUM_CLIPS",
)  # fmt: skip
_AT_MOST: dict[str, float] = {
    "MODEL.HEAD.DROPOUT": 1,
    "MODEL.HEAD.LABEL_SMOOTHING": 1,
    "INPUT.FLIP_PROB": 1,
    "INPUT.COLOR_JITTER.HUE": 0.5,
    "INPUT.RAND_AUGMENT.MAGNITUDE": 30,
    "INPUT.RANDOM_ERASING.PROB": 1,
    "DATASETS.SPLIT.FRACTION": 1,
    "DATALOADER.MAX_FAILED_FRACTION": 1,
    "DATALOADER.REPEAT_THRESHOLD": 1,
    "SOLVER.MAX_EPOCHS": 1_000_000,
    "SOLVER.END_LR_FACTOR": 1,
    "SOLVER.WARMUP_FACTOR": 1,
    "SOLVER.WARMUP_FRACTION": 1,
    "SOLVER.MOMENTUM": 1,
    "SOLVER.EMA.DECAY": 1,
    "SOLVER.MIX.PROB": 1,
    "TEST.EVAL_FRACTION": 1,
}
_ABOVE_0 = ("MODEL.BACKBONE.WIDTH", "SOLVER.HEAD_LR_FACTOR", "SOLVER.CLIP_GRADIENTS.MAX")
# A negative seed is drawn. The version has a check of its own, and the backbone knows its depths.
_ANY_NUMBER = ("SEED", "VERSION", "MODEL.BACKBONE.DEPTH")

# Keys that hold [smallest, largest], both above 0, and the most they may be.
_RANGES = {
    "INPUT.CROP_AREA_RANGE": 1,
    "INPUT.CROP_ASPECT_RANGE": float("inf"),
    "INPUT.RANDOM_ERASING.AREA_RANGE": 1,
    "INPUT.RANDOM_ERASING.ASPECT_RANGE": float("inf"),
    "INPUT.RANDOM_ERASING.LENGTH_RANGE": 1,
}

_LISTS_OF_TEXT = (
    "WRITERS",
    "DATASETS.TRAIN",
    "DATASETS.TEST",
    "MODEL.NONLOCAL.STAGES",
    "MODEL.NONLOCAL.BLOCKS",
    "MODEL.NONLOCAL.TEMPORAL_GROUP_STAGES",
)

# A key, whether its value is allowed, and what is allowed.
_Checks = Iterator[tuple[str, bool, str]]


def validate(cfg: CfgNode) -> None:
    """Check every core value by itself and the keys that depend on each other.

    Raises:
        ValueError: naming the key, the value given and what is allowed.
    """
    for check in (_single_values, _numbers, _lists, _model_and_input, _solver, _test):
        for key, fits, allowed in check(cfg):
            if not fits:
                raise _wrong(key, cfg.value_at(key), allowed)
    check_expected_results(cfg)


def check_expected_results(cfg: CfgNode) -> None:
    """Check the form of the rows; raise ValueError with the first that is of another one."""
    for row in cfg.TEST.EXPECTED_RESULTS:
        is_row = isinstance(row, (list, tuple)) and len(row) == 4
        if not is_row or not all(isinstance(name, str) for name in row[:2]) or not all(map(_is_number, row[2:])):
            raise _wrong("TEST.EXPECTED_RESULTS", row, "rows [task, metric, expected, tolerance]")


def check_resolved(cfg: CfgNode, *keys: str) -> None:
    """Check that keys hold a value of their own and do not ask for that of the training data.

    Raises:
        ValueError: one of them still asks; the message names the function that resolves it.
    """
    for key in keys:
        allowed = "1 or more" if key == "MODEL.HEAD.NUM_CLASSES" else "0"
        if (cfg.value_at(key) == 0) == (allowed != "0"):
            how = "nlvideo.engine.resolve_from_data(cfg) returns a config with the values of its training data"
            raise _wrong(key, cfg.value_at(key), f"{allowed}; {how}")


def _wrong(key: str, given: Any, allowed: str) -> ValueError:
    return ValueError(f"{key}: got {given!r}, allowed: {allowed}")


def _single_values(cfg: CfgNode) -> _Checks:
    changed = f"{_C.VERSION}; the keys have changed, compare with defaults.py"
    yield "VERSION", cfg.VERSION == _C.VERSION, changed
    for key, allowed in ALLOWED.items():
        value = cfg.value_at(key)
        hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
        yield key, value in allowed, f"{', '.join(map(repr, allowed))}{'; ' if hint else ''}{hint}"


def _numbers(cfg: CfgNode) -> _Checks:
    for key in _C.keys_with_path():
        value = cfg.value_at(key)
        if not _is_number(_C.value_at(key)) or key in _ANY_NUMBER:
            continue
        least, most = int(key in _AT_LEAST_1), _AT_MOST.get(key, float("inf"))
        if key in _ABOVE_0:
            yield key, value > 0, "more than 0"
        else:
            yield key, least <= value <= most, f"{least} to {most}" if key in _AT_MOST else f"{least} or more"


def _lists(cfg: CfgNode) -> _Checks:
    for key in _LISTS_OF_TEXT:
        yield key, all(isinstance(element, str) for element in cfg.value_at(key)), "a list of text"
    for key in ("MODEL.BACKBONE.ARGS", "MODEL.NONLOCAL.ARGS", "MODEL.HEAD.ARGS"):
        pairs = cfg.value_at(key)
        fits = all(isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs)
        fits = fits and len({name for name, _ in pairs}) == len(pairs)
        yield key, fits, "[name, value] pairs, each name once"
    yield "DATALOADER.INDEX_DIR", "://" not in cfg.DATALOADER.INDEX_DIR, "a local path"
    yield "WRITERS", len(set(cfg.WRITERS)) == len(cfg.WRITERS), "each name once"
    weights = cfg.MODEL.HEAD.CLASS_WEIGHTS
    fits = isinstance(weights, (list, tuple)) and all(_is_number(w) and 0 < w < math.inf for w in weights)
    yield "MODEL.HEAD.CLASS_WEIGHTS", weights in (None, "balanced") or fits, "None, 'balanced' or numbers above 0"
    fits = weights != "balanced" or cfg.DATALOADER.SAMPLER != "ClassBalancedSampler"
    yield "MODEL.HEAD.CLASS_WEIGHTS", fits, "None with DATALOADER.SAMPLER 'ClassBalancedSampler', which balances, too"
    for key, most in _RANGES.items():
        value = cfg.value_at(key)
        is_off = key == "INPUT.CROP_AREA_RANGE" and not value
        fits = len(value) == 2 and all(map(_is_number, value)) and 0 < value[0] <= value[1] <= most
        yield key, is_off or fits, f"[smallest, largest], above 0{', up to 1' if most == 1 else ''}"


def _model_and_input(cfg: CfgNode) -> _Checks:
    mean, std, sides = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.SHORT_SIDE_RANGE
    is_device = re.fullmatch(r"auto|cpu|cuda(:\d+)?", cfg.MODEL.DEVICE) is not None
    yield "MODEL.DEVICE", is_device, "'auto', 'cpu', 'cuda' or 'cuda:N'"
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        yield key, len(cfg.value_at(key)) in (1, 3), "one or three values"
    yield "MODEL.PIXEL_STD", min(std) > 0, "values above 0"
    yield "MODEL.PIXEL_MEAN", not 0 < max(mean) <= 1, "the scale 0 to 255, not 0 to 1"
    yield "INPUT.SHORT_SIDE_RANGE", len(sides) == 2 and 0 < sides[0] <= sides[1], "[smallest, largest] in pixels"
    # A random resized crop needs no short side.
    fits = cfg.INPUT.CROP_SIZE <= sides[0] or bool(cfg.INPUT.CROP_AREA_RANGE)
    yield "INPUT.CROP_SIZE", fits, f"up to INPUT.SHORT_SIDE_RANGE[0] = {sides[0]}"


def _solver(cfg: CfgNode) -> _Checks:
    solver, repeated = cfg.SOLVER, cfg.INPUT.REPEATED_CLIPS
    clips, passes, end = solver.CLIPS_PER_BATCH, solver.ACCUMULATE, f"SOLVER.MAX_ITER = {solver.MAX_ITER}"
    yield "SOLVER.WARMUP_ITERS", solver.WARMUP_ITERS < solver.MAX_ITER, f"below {end}"
    if solver.LR_SCHEDULE == "step":
        yield "SOLVER.STEPS", list(solver.STEPS) == sorted(set(solver.STEPS)), "increasing iterations"
        yield "SOLVER.STEPS", all(1 <= step < solver.MAX_ITER for step in solver.STEPS), f"from 1 to below {end}"
    fractions = list(solver.STEP_FRACTIONS)
    fits = fractions == sorted(set(fractions)) and all(_is_number(part) and 0 < part < 1 for part in fractions)
    yield "SOLVER.STEP_FRACTIONS", fits, "increasing parts of the training, above 0 and below 1"
    yield "SOLVER.CLIPS_PER_BATCH", clips % passes == 0, f"a multiple of SOLVER.ACCUMULATE = {passes}"
    share = f"INPUT.REPEATED_CLIPS = {repeated} in each of {passes} batches (SOLVER.ACCUMULATE)"
    yield "SOLVER.CLIPS_PER_BATCH", clips % (passes * repeated) == 0, f"a multiple of {share}"
    yield "SOLVER.LAYER_DECAY", 0 < solver.LAYER_DECAY <= 1, "above 0, up to 1"
    if solver.BN_MODE.endswith("_after"):
        yield "SOLVER.BN_MODE_ITER", 0 < solver.BN_MODE_ITER < solver.MAX_ITER, f"from 1 to below {end}"
    until, freeze_at = cfg.MODEL.BACKBONE.FREEZE_UNTIL, cfg.MODEL.BACKBONE.FREEZE_AT
    yield "MODEL.BACKBONE.FREEZE_UNTIL", not until or freeze_at > 0, "0 where MODEL.BACKBONE.FREEZE_AT = 0"
    yield "MODEL.BACKBONE.FREEZE_UNTIL", until < solver.MAX_ITER, f"below {end}"
    fits = len(solver.BETAS) == 2 and all(0 <= beta < 1 for beta in solver.BETAS)
    yield "SOLVER.BETAS", fits, "two values from 0 to below 1"
    fits = solver.OPTIMIZER != "SGD" or not solver.NESTEROV or solver.MOMENTUM > 0
    yield "SOLVER.NESTEROV", fits, "False where SOLVER.MOMENTUM = 0"


def _test(cfg: CfgNode) -> _Checks:
    test = cfg.TEST
    for key in ("TEST.NUM_CROPS", "TEST.VALIDATION.NUM_CROPS"):
        yield key, test.CROP_SIZE > 0 or cfg.value_at(key) == 1, "1 where TEST.CROP_SIZE = 0 (whole frames)"
    allowed = "False where TEST.NUM_CROPS = 10, which has mirror images already"
    yield "TEST.FLIP", not test.FLIP or test.NUM_CROPS != 10, allowed
    yield "TEST.CROP_SIZE", test.CROP_SIZE <= test.SHORT_SIDE, f"up to TEST.SHORT_SIDE = {test.SHORT_SIDE}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
