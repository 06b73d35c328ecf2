"""Scale a schedule written for one number of ranks to another (the linear scaling rule)."""

import logging

from nlvideo.config import CfgNode
from nlvideo.config.validate import validate

logger = logging.getLogger(__name__)


def scale_to_world_size(cfg: CfgNode, world_size: int) -> CfgNode:
    """Scale batch, rate and schedule from ``SOLVER.REFERENCE_WORLD_SIZE`` ranks to ``world_size`` ranks.

    With ``s = world_size / reference``: clips per batch and learning rate times ``s``; iterations, steps, warm-up,
    checkpoint period and evaluation period divided by ``s``. Each rank keeps its number of clips and the run sees as
    many clips as before. The authors' own settings follow this rule (rate 0.01 for 64 clips, 0.005 for 32).

    ``SOLVER.ACCUMULATE`` takes no part in this: it splits the scaled batch into passes.

    Args:
        cfg: left as it is.
        world_size: number of ranks of this run.

    Returns:
        A scaled copy, frozen if ``cfg`` was. Its reference is ``world_size``, so that scaling it again changes nothing.
        ``cfg`` itself where the reference is 0 (never scale) or equals ``world_size``.

    Raises:
        ValueError: the batch does not split evenly over the reference's ranks, or a scaled value is not allowed.
    """
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference in (0, world_size):
        return cfg
    clips = cfg.SOLVER.CLIPS_PER_BATCH
    if reference < 0 or clips % reference:
        raise ValueError(
            f"SOLVER.REFERENCE_WORLD_SIZE: got {reference}, allowed: 0 (never scale) or a divisor of "
            f"SOLVER.CLIPS_PER_BATCH = {clips}"
        )
    scaled = cfg.clone()
    scaled.defrost()
    solver, test = scaled.SOLVER, scaled.TEST
    scale = world_size / reference
    solver.CLIPS_PER_BATCH = clips // reference * world_size
    solver.BASE_LR *= scale
    solver.MAX_ITER = _divide(solver.MAX_ITER, scale)
    solver.STEPS = type(solver.STEPS)(_divide(step, scale) for step in solver.STEPS)
    solver.WARMUP_ITERS = _divide(solver.WARMUP_ITERS, scale)
    solver.CHECKPOINT_PERIOD = _divide(solver.CHECKPOINT_PERIOD, scale)
    test.EVAL_PERIOD = _divide(test.EVAL_PERIOD, scale)
    solver.REFERENCE_WORLD_SIZE = world_size
    keys = [f"SOLVER.{key}" for key in ("CLIPS_PER_BATCH", "BASE_LR", "MAX_ITER", "STEPS", "WARMUP_ITERS")]
    keys += ["SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD"]
    changes = ", ".join(f"{key} {cfg.value_at(key)} -> {scaled.value_at(key)}" for key in keys)
    logger.info("The config is written for %d ranks and runs on %d: %s", reference, world_size, changes)
    validate(scaled)
    if cfg.is_frozen():
        scaled.freeze()
    return scaled


def _divide(count: int, scale: float) -> int:
    # For each of these keys 0 means "none" or "never". No other value may become 0.
    return max(1, round(count / scale)) if count else 0
