"""Any config at a size that takes seconds on a CPU: does it run at all?"""

from collections.abc import Sequence

from nlvideo.config.node import CfgNode
from nlvideo.config.validate import validate

# How often the stems halve time, up to res3: 8 where it is not said here.
_TEMPORAL_STRIDE = {"authors_8x8": 2, "small": 2}
# The smallest side at which res5 keeps more than one position for its non-local blocks to pool.
_SIDE = 48


def reduced(cfg: CfgNode, opts: Sequence[str] = ()) -> CfgNode:
    """Shrink frames, crop, width, batch and schedule: one iteration on ``beacon_tiny``, from random weights.

    Depth, kinds of layers, non-local blocks, norms, head, loss, optimizer and samplers stay as they are. If this
    trains, the parts of the config fit together.

    Args:
        cfg: a complete config; left as it is.
        opts: overrides ``[KEY, VALUE, ...]``; they win, and raise as in ``merge_from_list``.

    Returns:
        A frozen config that writes to ``output/reduced``.
    """
    # Two frames are left in res3, or one for each group that attention is kept in.
    num_frames = _TEMPORAL_STRIDE.get(cfg.MODEL.BACKBONE.STEM, 8) * max(2, cfg.MODEL.NONLOCAL.TEMPORAL_GROUPS)
    changes = {
        "DATASETS.TRAIN": ["beacon_tiny_train"],
        "DATASETS.TEST": ["beacon_tiny_val"],
        # On the CPU, wherever it runs: this is too small for a GPU.
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.BACKBONE.WIDTH": 0.125,
        "MODEL.HEAD.NUM_CLASSES": 8,
        "MODEL.HEAD.CLASS_WEIGHTS": None,
        "INPUT.NUM_FRAMES": min(cfg.INPUT.NUM_FRAMES, num_frames),
        "INPUT.SHORT_SIDE_RANGE": [_SIDE, _SIDE + 4],
        "INPUT.CROP_SIZE": _SIDE,
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.CLIPS_PER_BATCH": 2 * cfg.SOLVER.ACCUMULATE * cfg.INPUT.REPEATED_CLIPS,
        **{f"SOLVER.{key}": 1 for key in ("MAX_ITER", "CHECKPOINT_PERIOD", "LOG_PERIOD")},
        **{f"SOLVER.{key}": 0 for key in ("REFERENCE_WORLD_SIZE", "WARMUP_ITERS", "MAX_EPOCHS")},
        "SOLVER.EARLY_STOPPING.PATIENCE": 0,
        "SOLVER.STEPS": [],
        **{f"TEST.{key}": 1 for key in ("NUM_CLIPS", "NUM_CROPS", "PRECISE_BN.NUM_ITERS")},
        "TEST.SHORT_SIDE": _SIDE,
        "TEST.CROP_SIZE": min(cfg.TEST.CROP_SIZE, _SIDE),
        "TEST.EVAL_PERIOD": 0,
        "TEST.EXPECTED_RESULTS": [],
        "OUTPUT_DIR": "output/reduced",
    }
    cfg = cfg.with_overrides([*(word for pair in changes.items() for word in pair), *opts])
    validate(cfg)
    cfg.freeze()
    return cfg
