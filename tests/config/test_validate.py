"""Every check of a complete config: one line that names the key, the value and what is allowed."""

import pytest

from nlvideo.config import get_cfg, load_cfg
from nlvideo.config import validate as module
from nlvideo.config.validate import ALLOWED, validate
from nlvideo.layers.norm import NORMS
from nlvideo.modeling.backbone.layout import STAGES, STEMS, TEMPORAL_KERNELS
from nlvideo.modeling.nonlocal_block.block import BLOCK_ALGORITHMS, PAIRWISE

WEIGHTS = "None, 'balanced' or numbers above 0"


def error(*opts):
    """Return the message of a config with these overrides."""
    with pytest.raises(ValueError) as info:
        load_cfg(None, opts)
    assert "\n" not in str(info.value)
    return str(info.value)


@pytest.mark.parametrize(
    "opts, text",
    [
        (["VERSION", "2"], "VERSION: got 2, allowed: 1; the keys have changed, compare with defaults.py"),
        (["MODEL.NORM", "bn"], "MODEL.NORM: got 'bn', allowed: 'BN', 'SyncBN', 'FrozenBN'; did you mean 'BN'?"),
        (
            ["DATALOADER.READER", "torchcodec_cuda"],
            "DATALOADER.READER: got 'torchcodec_cuda', allowed: 'pyav', 'torchcodec'; did you mean 'torchcodec'?",
        ),
        (["SOLVER.OPTIMIZER", "Lion"], "SOLVER.OPTIMIZER: got 'Lion', allowed: 'SGD', 'AdamW'"),
        (["TEST.NUM_CROPS", "2"], "TEST.NUM_CROPS: got 2, allowed: 1, 3, 10"),
        (["TEST.AVERAGE", "logit"], "TEST.AVERAGE: got 'logit', allowed: 'softmax', 'logits'; did you mean 'logits'?"),
        (["INPUT.NUM_FRAMES", "0"], "INPUT.NUM_FRAMES: got 0, allowed: 1 or more"),
        (["MODEL.HEAD.DROPOUT", "1.5"], "MODEL.HEAD.DROPOUT: got 1.5, allowed: 0 to 1"),
        (["SOLVER.BASE_LR", ".nan"], "SOLVER.BASE_LR: got nan, allowed: 0 or more"),
        (["MODEL.BACKBONE.WIDTH", "0"], "MODEL.BACKBONE.WIDTH: got 0.0, allowed: more than 0"),
        (["DATASETS.TRAIN", "[1]"], "DATASETS.TRAIN: got [1], allowed: a list of text"),
        (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE: got 'gpu', allowed: 'auto', 'cpu', 'cuda' or 'cuda:N'"),
        (["MODEL.PIXEL_MEAN", "[1, 2]"], "MODEL.PIXEL_MEAN: got [1.0, 2.0], allowed: one or three values"),
        (["MODEL.PIXEL_STD", "[0]"], "MODEL.PIXEL_STD: got [0.0], allowed: values above 0"),
        (["MODEL.PIXEL_MEAN", "[0.45]"], "MODEL.PIXEL_MEAN: got [0.45], allowed: the scale 0 to 255, not 0 to 1"),
        (
            ["INPUT.SHORT_SIDE_RANGE", "[320, 256]"],
            "INPUT.SHORT_SIDE_RANGE: got [320, 256], allowed: [smallest, largest] in pixels",
        ),
        (["INPUT.CROP_SIZE", "300"], "INPUT.CROP_SIZE: got 300, allowed: up to INPUT.SHORT_SIDE_RANGE[0] = 256"),
        (
            ["SOLVER.WARMUP_ITERS", "400000"],
            "SOLVER.WARMUP_ITERS: got 400000, allowed: below SOLVER.MAX_ITER = 400000",
        ),
        (["SOLVER.STEPS", "[5, 3]"], "SOLVER.STEPS: got [5, 3], allowed: increasing iterations"),
        (["SOLVER.STEPS", "[5, 5]"], "SOLVER.STEPS: got [5, 5], allowed: increasing iterations"),
        (
            ["SOLVER.MAX_ITER", "150000"],
            "SOLVER.STEPS: got [150000, 300000], allowed: from 1 to below SOLVER.MAX_ITER = 150000",
        ),
        (["SOLVER.STEPS", "[0]"], "SOLVER.STEPS: got [0], allowed: from 1 to below SOLVER.MAX_ITER = 400000"),
        (
            ["SOLVER.ACCUMULATE", "3"],
            "SOLVER.CLIPS_PER_BATCH: got 64, allowed: a multiple of SOLVER.ACCUMULATE = 3",
        ),
        (
            ["INPUT.REPEATED_CLIPS", "3"],
            "SOLVER.CLIPS_PER_BATCH: got 64, allowed: a multiple of INPUT.REPEATED_CLIPS = 3 in each of 1 batches"
            " (SOLVER.ACCUMULATE)",
        ),
        (["INPUT.REPEATED_CLIPS", "0"], "INPUT.REPEATED_CLIPS: got 0, allowed: 1 or more"),
        (
            ["INPUT.CROP_AREA_RANGE", "[0.5]"],
            "INPUT.CROP_AREA_RANGE: got [0.5], allowed: [smallest, largest], above 0, up to 1",
        ),
        (
            ["INPUT.CROP_ASPECT_RANGE", "[2.0, 0.5]"],
            "INPUT.CROP_ASPECT_RANGE: got [2.0, 0.5], allowed: [smallest, largest], above 0",
        ),
        (
            ["INPUT.RANDOM_ERASING.LENGTH_RANGE", "[0.0, 1.0]"],
            "INPUT.RANDOM_ERASING.LENGTH_RANGE: got [0.0, 1.0], allowed: [smallest, largest], above 0, up to 1",
        ),
        (
            ["INPUT.RANDOM_ERASING.AREA_RANGE", "[]"],
            "INPUT.RANDOM_ERASING.AREA_RANGE: got [], allowed: [smallest, largest], above 0, up to 1",
        ),
        (["INPUT.COLOR_JITTER.HUE", "0.6"], "INPUT.COLOR_JITTER.HUE: got 0.6, allowed: 0 to 0.5"),
        (["INPUT.COLOR_JITTER.CONTRAST", "-1"], "INPUT.COLOR_JITTER.CONTRAST: got -1.0, allowed: 0 or more"),
        (["INPUT.RAND_AUGMENT.MAGNITUDE", "31"], "INPUT.RAND_AUGMENT.MAGNITUDE: got 31.0, allowed: 0 to 30"),
        (["SOLVER.MIX.MIXUP_ALPHA", "-0.1"], "SOLVER.MIX.MIXUP_ALPHA: got -0.1, allowed: 0 or more"),
        (["SOLVER.MIX.PROB", "2"], "SOLVER.MIX.PROB: got 2.0, allowed: 0 to 1"),
        *(
            (["MODEL.HEAD.CLASS_WEIGHTS", given], f"MODEL.HEAD.CLASS_WEIGHTS: got {shown}, allowed: {WEIGHTS}")
            for given, shown in [("even", "'even'"), ("[1, 0]", "[1, 0]"), ("[1, .inf]", "[1, inf]"), ("2", "2")]
        ),
        (
            ["WRITERS", "[JSONWriter, JSONWriter]"],
            "WRITERS: got ['JSONWriter', 'JSONWriter'], allowed: each name once",
        ),
        (
            ["MODEL.HEAD.CLASS_WEIGHTS", "balanced", "DATALOADER.SAMPLER", "ClassBalancedSampler"],
            "MODEL.HEAD.CLASS_WEIGHTS: got 'balanced', allowed: None with DATALOADER.SAMPLER 'ClassBalancedSampler', "
            "which balances, too",
        ),
        (["MODEL.HEAD.FOCAL_GAMMA", "-1"], "MODEL.HEAD.FOCAL_GAMMA: got -1.0, allowed: 0 or more"),
        (
            ["DATALOADER.INDEX_DIR", "s3://bucket/index"],
            "DATALOADER.INDEX_DIR: got 's3://bucket/index', allowed: a local path",
        ),
        (["DATALOADER.REPEAT_THRESHOLD", "2"], "DATALOADER.REPEAT_THRESHOLD: got 2.0, allowed: 0 to 1"),
        (["MODEL.HEAD.LABEL_SMOOTHING", "1.1"], "MODEL.HEAD.LABEL_SMOOTHING: got 1.1, allowed: 0 to 1"),
        (["SOLVER.BETAS", "[0.9, 1]"], "SOLVER.BETAS: got [0.9, 1.0], allowed: two values from 0 to below 1"),
        (["SOLVER.MOMENTUM", "0"], "SOLVER.NESTEROV: got True, allowed: False where SOLVER.MOMENTUM = 0"),
        (
            ["SOLVER.BN_MODE", "frozen_until"],
            "SOLVER.BN_MODE: got 'frozen_until', allowed: 'unfrozen', 'frozen', 'frozen_after', 'unfrozen_after';"
            " did you mean 'frozen_after' or 'frozen' or 'unfrozen_after'?",
        ),
        (
            ["SOLVER.BN_MODE", "frozen_after", "SOLVER.BN_MODE_ITER", "400000"],
            "SOLVER.BN_MODE_ITER: got 400000, allowed: from 1 to below SOLVER.MAX_ITER = 400000",
        ),
        (["SOLVER.LAYER_DECAY", "0"], "SOLVER.LAYER_DECAY: got 0.0, allowed: above 0, up to 1"),
        (["SOLVER.LAYER_DECAY", "1.1"], "SOLVER.LAYER_DECAY: got 1.1, allowed: above 0, up to 1"),
        (["SOLVER.HEAD_LR_FACTOR", "0"], "SOLVER.HEAD_LR_FACTOR: got 0.0, allowed: more than 0"),
        (
            ["MODEL.BACKBONE.FREEZE_UNTIL", "9"],
            "MODEL.BACKBONE.FREEZE_UNTIL: got 9, allowed: 0 where MODEL.BACKBONE.FREEZE_AT = 0",
        ),
        (
            ["MODEL.BACKBONE.FREEZE_AT", "2", "MODEL.BACKBONE.FREEZE_UNTIL", "400000"],
            "MODEL.BACKBONE.FREEZE_UNTIL: got 400000, allowed: below SOLVER.MAX_ITER = 400000",
        ),
        (["TEST.CROP_SIZE", "0"], "TEST.NUM_CROPS: got 3, allowed: 1 where TEST.CROP_SIZE = 0 (whole frames)"),
        (
            ["TEST.NUM_CROPS", "10", "TEST.FLIP", "True"],
            "TEST.FLIP: got True, allowed: False where TEST.NUM_CROPS = 10, which has mirror images already",
        ),
        (["TEST.CROP_SIZE", "300"], "TEST.CROP_SIZE: got 300, allowed: up to TEST.SHORT_SIDE = 256"),
        (
            ["TEST.EXPECTED_RESULTS", "[[classification, top1, 50]]"],
            "TEST.EXPECTED_RESULTS: got ['classification', 'top1', 50],"
            " allowed: rows [task, metric, expected, tolerance]",
        ),
    ],
)
def test_one_line_names_key_value_and_allowed(opts, text):
    assert error(*opts) == text


@pytest.mark.parametrize(
    "opts",
    [
        ["SOLVER.LR_SCHEDULE", "cosine", "SOLVER.MAX_ITER", "10"],  # STEPS belong to the other schedule
        ["SOLVER.STEPS", "[]", "SOLVER.MAX_ITER", "1"],
        ["TEST.CROP_SIZE", "0", "TEST.NUM_CROPS", "1"],
        ["MODEL.DEVICE", "cuda:3"],
        ["MODEL.PIXEL_MEAN", "[0, 0, 0]"],
        ["MODEL.PIXEL_STD", "[255]"],
        ["SOLVER.MOMENTUM", "0", "SOLVER.NESTEROV", "false"],
        ["SOLVER.OPTIMIZER", "AdamW", "SOLVER.MOMENTUM", "0"],
        ["TEST.EXPECTED_RESULTS", "[[classification, top1, 50, 0.5]]"],
    ],
)
def test_what_is_allowed_passes(opts):
    load_cfg(None, opts)


@pytest.mark.parametrize("key", sorted(ALLOWED))
def test_every_enumerated_value_passes_alone(key):
    for value in ALLOWED[key]:
        with_it = ["SOLVER.BN_MODE_ITER", "9"] if str(value).endswith("_after") else []
        load_cfg(None, [key, str(value), *with_it])


def numbers():
    """Return the keys that hold a number, but those that may be negative or are checked elsewhere."""
    cfg = get_cfg()
    return [key for key in cfg.keys_with_path() if type(cfg.value_at(key)) in (int, float) and key not in FREE]


FREE = ("SEED", "MODEL.BACKBONE.DEPTH")


@pytest.mark.parametrize("key", numbers())
def test_every_number_has_a_lower_limit(key):
    assert error(key, "-1").startswith(f"{key}: got -1")


def test_every_key_that_is_checked_exists():
    known = set(get_cfg().keys_with_path())
    tables = (ALLOWED, module._AT_LEAST_1, module._AT_MOST, module._ABOVE_0, module._RANGES, module._LISTS_OF_TEXT)
    assert {key for table in tables for key in table} | set(module._ANY_NUMBER) <= known


def test_the_names_of_choices_are_those_of_what_implements_them():
    tables = {
        "MODEL.NORM": NORMS[:-1],
        "MODEL.NONLOCAL.NORM": ("same", *NORMS),
        "MODEL.BACKBONE.TEMPORAL": TEMPORAL_KERNELS,
        "MODEL.BACKBONE.STEM": STEMS,
        "MODEL.BACKBONE.FREEZE_AT": range(len(STAGES) + 2),
        "MODEL.NONLOCAL.PAIRWISE": PAIRWISE,
        "MODEL.NONLOCAL.ALGORITHM": ("auto", *dict.fromkeys(name for row in BLOCK_ALGORITHMS.values() for name in row)),
    }
    for key, table in tables.items():
        assert sorted(ALLOWED[key]) == sorted(table), key


def test_the_keys_of_a_project_are_its_own_business():
    cfg = get_cfg()
    cfg.MODEL.GATED = type(cfg)({"RATE": -5})
    validate(cfg)


def test_validation_changes_nothing():
    cfg = get_cfg()
    validate(cfg)
    assert cfg == get_cfg()


def test_a_random_resized_crop_needs_no_short_side():
    cfg = load_cfg(None, ["INPUT.CROP_AREA_RANGE", "[0.08, 1]", "INPUT.CROP_SIZE", "300"])
    assert cfg.INPUT.CROP_AREA_RANGE == [0.08, 1.0]
