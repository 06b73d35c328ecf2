"""Checks of values and of keys against each other, once a config is complete. Each error is one line."""

from typing import Any

from nlvideo.config.defaults import _C
from nlvideo.config.node import CfgNode
from nlvideo.utils.messages import did_you_mean

# The values of keys that choose among a few. Names in registries are checked where the registry is.
#: Names of what reads video files; ``nlvideo.data.video.open.READERS`` has the readers.
READERS = ("pyav", "torchcodec")
_ALLOWED: dict[str, tuple] = {
    "MODEL.NORM": ("BN", "SyncBN", "FrozenBN"),
    "MODEL.BACKBONE.TEMPORAL": ("c2d", "i3d_3x1x1", "i3d_3x3x3", "i3d_3x1x1_all", "slow"),
    "MODEL.BACKBONE.STEM": ("paper", "authors_32x2", "authors_8x8", "small", "slowfast_8x8", "slow", "mmaction2_32x2"),
    "MODEL.BACKBONE.FREEZE_AT": (0, 1, 2, 3, 4, 5),
    "MODEL.NONLOCAL.PAIRWISE": ("gaussian", "embedded_gaussian", "dot_product", "concatenation"),
    "MODEL.NONLOCAL.ATTEND": ("space", "time", "spacetime"),
    "MODEL.NONLOCAL.NORM": ("same", "BN", "SyncBN", "FrozenBN", "none"),
    "MODEL.NONLOCAL.ALGORITHM": ("auto", "dense", "fused", "reordered", "folded", "sorted"),
    "DATALOADER.READER": READERS,
    "INPUT.SHORT_VIDEO": ("wrap", "clamp", "error"),
    "SOLVER.OPTIMIZER": ("SGD", "AdamW"),
    "SOLVER.LR_SCHEDULE": ("step", "cosine"),
    "SOLVER.AMP.DTYPE": ("bfloat16", "float16"),
    "SOLVER.CLIP_GRADIENTS.TYPE": ("norm", "value"),
    "TEST.NUM_CROPS": (1, 3, 10),
    "TEST.AVERAGE": ("softmax", "logits"),
}

_AT_LEAST: dict[str, float] = {
    "MODEL.NONLOCAL.EVERY": 1,
    "MODEL.NONLOCAL.TEMPORAL_GROUPS": 1,
    "MODEL.NONLOCAL.INIT_STD": 0,
    "MODEL.HEAD.NUM_CLASSES": 1,
    "MODEL.HEAD.INIT_STD": 0,
    "INPUT.NUM_FRAMES": 1,
    "INPUT.FRAME_STRIDE": 1,
    "INPUT.CROP_SIZE": 1,
    "INPUT.REPEATED_CLIPS": 1,
    "INPUT.COLOR_JITTER.BRIGHTNESS": 0,
    "INPUT.COLOR_JITTER.CONTRAST": 0,
    "INPUT.COLOR_JITTER.SATURATION": 0,
    "INPUT.RAND_AUGMENT.NUM_OPS": 0,
    "DATALOADER.NUM_WORKERS": 0,
    "DATALOADER.VIDEO_TIMEOUT_SEC": 0,
    "DATALOADER.MAX_FRAME_PIXELS": 1,
    "DATALOADER.MAX_CLIP_PIXELS": 1,
    "DATALOADER.SHUFFLE_BUFFER": 1,
    "SOLVER.CLIPS_PER_BATCH": 1,
    "SOLVER.BASE_LR": 0,
    "SOLVER.GAMMA": 0,
    "SOLVER.MAX_ITER": 1,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.WEIGHT_DECAY": 0,
    "SOLVER.WEIGHT_DECAY_NORM": 0,
    "SOLVER.REFERENCE_WORLD_SIZE": 0,
    "SOLVER.ACCUMULATE": 1,
    "SOLVER.MIX.MIXUP_ALPHA": 0,
    "SOLVER.MIX.CUTMIX_ALPHA": 0,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "SOLVER.LOG_PERIOD": 1,
    "TEST.NUM_CLIPS": 1,
    "TEST.SHORT_SIDE": 1,
    "TEST.CROP_SIZE": 0,
    "TEST.VIEWS_PER_FORWARD": 1,
    "TEST.EVAL_PERIOD": 0,
    "TEST.PRECISE_BN.NUM_ITERS": 1,
}

_FRACTIONS = (
    "MODEL.HEAD.DROPOUT",
    "MODEL.HEAD.LABEL_SMOOTHING",
    "INPUT.FLIP_PROB",
    "INPUT.RANDOM_ERASING.PROB",
    "DATALOADER.MAX_FAILED_FRACTION",
    "SOLVER.END_LR_FACTOR",
    "SOLVER.WARMUP_FACTOR",
    "SOLVER.MOMENTUM",
    "SOLVER.EMA.DECAY",
    "SOLVER.MIX.PROB",
)

_POSITIVE = ("MODEL.BACKBONE.WIDTH", "SOLVER.CLIP_GRADIENTS.MAX")

# Keys that hold [smallest, largest]: what both must be above, and the most they may be.
_SHARE, _ASPECT = (0, 1), (0, float("inf"))
_RANGES = {
    "INPUT.CROP_AREA_RANGE": _SHARE,
    "INPUT.CROP_ASPECT_RANGE": _ASPECT,
    "INPUT.RANDOM_ERASING.AREA_RANGE": _SHARE,
    "INPUT.RANDOM_ERASING.ASPECT_RANGE": _ASPECT,
    "INPUT.RANDOM_ERASING.LENGTH_RANGE": _SHARE,
}

_LISTS_OF_TEXT = (
    "DATASETS.TRAIN",
    "DATASETS.TEST",
    "MODEL.NONLOCAL.STAGES",
    "MODEL.NONLOCAL.BLOCKS",
    "MODEL.NONLOCAL.TEMPORAL_GROUP_STAGES",
)


def validate(cfg: CfgNode) -> None:
    """Check every core value by itself and the keys that depend on each other.

    Raises:
        ValueError: naming the key, the value given and what is allowed.
    """
    _check_single_values(cfg)
    _check_model(cfg)
    _check_input(cfg)
    _check_augmentation(cfg)
    _check_schedule(cfg)
    _check_solver(cfg)
    _check_test(cfg)


def _wrong(key: str, given: Any, allowed: str) -> ValueError:
    return ValueError(f"{key}: got {given!r}, {allowed}")


def _check_single_values(cfg: CfgNode) -> None:
    if cfg.VERSION != _C.VERSION:
        raise _wrong("VERSION", cfg.VERSION, f"allowed: {_C.VERSION}; the keys have changed, compare with defaults.py")
    for key, allowed in _ALLOWED.items():
        value = cfg.value_at(key)
        if value not in allowed:
            hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
            raise _wrong(key, value, f"allowed: {', '.join(map(repr, allowed))}{'; ' if hint else ''}{hint}")
    for key, least in _AT_LEAST.items():
        if not cfg.value_at(key) >= least:
            raise _wrong(key, cfg.value_at(key), f"allowed: {least} or more")
    for key in _FRACTIONS:
        if not 0 <= cfg.value_at(key) <= 1:
            raise _wrong(key, cfg.value_at(key), "allowed: 0 to 1")
    for key in _POSITIVE:
        if not cfg.value_at(key) > 0:
            raise _wrong(key, cfg.value_at(key), "allowed: more than 0")
    for key in _LISTS_OF_TEXT:
        if not all(isinstance(element, str) for element in cfg.value_at(key)):
            raise _wrong(key, cfg.value_at(key), "allowed: a list of text")


def _check_model(cfg: CfgNode) -> None:
    device = cfg.MODEL.DEVICE
    if device not in ("auto", "cpu", "cuda") and not (device.startswith("cuda:") and device[5:].isdigit()):
        raise _wrong("MODEL.DEVICE", device, "allowed: 'auto', 'cpu', 'cuda' or 'cuda:N'")
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    for key, values in (("MODEL.PIXEL_MEAN", mean), ("MODEL.PIXEL_STD", std)):
        if len(values) not in (1, 3):
            raise _wrong(key, values, "allowed: one or three values")
    if min(std) <= 0:
        raise _wrong("MODEL.PIXEL_STD", std, "allowed: values above 0")
    if max(mean) <= 1 and max(mean) > 0:
        raise _wrong("MODEL.PIXEL_MEAN", mean, "allowed: the scale 0 to 255, not 0 to 1")


def _check_input(cfg: CfgNode) -> None:
    sides = cfg.INPUT.SHORT_SIDE_RANGE
    if len(sides) != 2 or not 0 < sides[0] <= sides[1]:
        raise _wrong("INPUT.SHORT_SIDE_RANGE", sides, "allowed: [smallest, largest] in pixels")
    # A random resized crop does without a short side.
    if cfg.INPUT.CROP_SIZE > sides[0] and not cfg.INPUT.CROP_AREA_RANGE:
        raise _wrong("INPUT.CROP_SIZE", cfg.INPUT.CROP_SIZE, f"allowed: up to INPUT.SHORT_SIDE_RANGE[0] = {sides[0]}")


def _check_augmentation(cfg: CfgNode) -> None:
    for key, (above, most) in _RANGES.items():
        value = cfg.value_at(key)
        if key == "INPUT.CROP_AREA_RANGE" and not value:
            continue
        if len(value) != 2 or not all(map(_is_number, value)) or not above < value[0] <= value[1] <= most:
            limits = "above 0, up to 1" if most == 1 else "above 0"
            raise _wrong(key, value, f"allowed: [smallest, largest], {limits}")
    if not 0 <= cfg.INPUT.COLOR_JITTER.HUE <= 0.5:
        raise _wrong("INPUT.COLOR_JITTER.HUE", cfg.INPUT.COLOR_JITTER.HUE, "allowed: 0 to 0.5")
    if not 0 <= cfg.INPUT.RAND_AUGMENT.MAGNITUDE <= 30:
        raise _wrong("INPUT.RAND_AUGMENT.MAGNITUDE", cfg.INPUT.RAND_AUGMENT.MAGNITUDE, "allowed: 0 to 30")


def _check_schedule(cfg: CfgNode) -> None:
    solver = cfg.SOLVER
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        raise _wrong("SOLVER.WARMUP_ITERS", solver.WARMUP_ITERS, f"allowed: below SOLVER.MAX_ITER = {solver.MAX_ITER}")
    if solver.LR_SCHEDULE != "step":
        return
    if list(solver.STEPS) != sorted(set(solver.STEPS)):
        raise _wrong("SOLVER.STEPS", solver.STEPS, "allowed: increasing iterations")
    if any(not 1 <= step < solver.MAX_ITER for step in solver.STEPS):
        raise _wrong("SOLVER.STEPS", solver.STEPS, f"allowed: from 1 to below SOLVER.MAX_ITER = {solver.MAX_ITER}")


def _check_solver(cfg: CfgNode) -> None:
    solver = cfg.SOLVER
    if solver.CLIPS_PER_BATCH % solver.ACCUMULATE:
        raise _wrong(
            "SOLVER.CLIPS_PER_BATCH",
            solver.CLIPS_PER_BATCH,
            f"allowed: a multiple of SOLVER.ACCUMULATE = {solver.ACCUMULATE}",
        )
    if solver.CLIPS_PER_BATCH % (solver.ACCUMULATE * cfg.INPUT.REPEATED_CLIPS):
        raise _wrong(
            "SOLVER.CLIPS_PER_BATCH",
            solver.CLIPS_PER_BATCH,
            f"allowed: a multiple of INPUT.REPEATED_CLIPS = {cfg.INPUT.REPEATED_CLIPS} in each of"
            f" {solver.ACCUMULATE} batches (SOLVER.ACCUMULATE)",
        )
    if len(solver.BETAS) != 2 or not all(0 <= beta < 1 for beta in solver.BETAS):
        raise _wrong("SOLVER.BETAS", solver.BETAS, "allowed: two values from 0 to below 1")
    if solver.OPTIMIZER == "SGD" and solver.NESTEROV and solver.MOMENTUM == 0:
        raise _wrong("SOLVER.NESTEROV", True, "allowed: False where SOLVER.MOMENTUM = 0")


def _check_test(cfg: CfgNode) -> None:
    test = cfg.TEST
    if test.CROP_SIZE == 0 and test.NUM_CROPS != 1:
        raise _wrong("TEST.NUM_CROPS", test.NUM_CROPS, "allowed: 1 where TEST.CROP_SIZE = 0 (whole frames)")
    if test.FLIP and test.NUM_CROPS == 10:
        raise _wrong("TEST.FLIP", True, "allowed: False where TEST.NUM_CROPS = 10, which has mirror images already")
    if test.CROP_SIZE > test.SHORT_SIDE:
        raise _wrong("TEST.CROP_SIZE", test.CROP_SIZE, f"allowed: up to TEST.SHORT_SIDE = {test.SHORT_SIDE}")
    for row in test.EXPECTED_RESULTS:
        is_row = isinstance(row, (list, tuple)) and len(row) == 4
        if not is_row or not all(isinstance(name, str) for name in row[:2]) or not all(map(_is_number, row[2:])):
            raise _wrong("TEST.EXPECTED_RESULTS", row, "allowed: rows [task, metric, expected, tolerance]")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
