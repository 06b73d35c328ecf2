"""Scale a schedule written for one number of ranks to another (the linear scaling rule)."""

import logging

from nlvideo.config import CfgNode
from nlvideo.config.validate import validate

logger = logging.getLogger(__name__)

# With SOLVER.STEPS all keys that count iterations, but the period of log lines.
_ITERATIONS = (
    "SOLVER.MAX_ITER", "SOLVER.WARMUP_ITERS", "SOLVER.BN_MODE_ITER", "MODEL.BACKBONE.FREEZE_UNTIL",
    "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD",
)  # fmt: skip


def scale_to_world_size(cfg: CfgNode, world_size: int) -> CfgNode:
    """Scale batch, rate and schedule from ``SOLVER.REFERENCE_WORLD_SIZE`` ranks to ``world_size`` ranks.

    With ``s = world_size / reference``: clips per batch and learning rate times ``s``; iterations divided by ``s``.
    Each rank keeps its number of clips and the run sees as many clips as before. The authors' own settings follow this
    rule (rate 0.01 for 64 clips, 0.005 for 32). ``SOLVER.ACCUMULATE`` splits the scaled batch into passes.

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
    scale = world_size / reference
    changes = {
        "SOLVER.CLIPS_PER_BATCH": clips // reference * world_size,
        "SOLVER.BASE_LR": cfg.SOLVER.BASE_LR * scale,
        "SOLVER.STEPS": [_divide(step, scale) for step in cfg.SOLVER.STEPS],
    }
    for key in _ITERATIONS:
        changes[key] = _divide(cfg.value_at(key), scale)
    text = ", ".join(f"{key} {cfg.value_at(key)} -> {value}" for key, value in changes.items() if value)
    logger.info("The config is written for %d ranks and runs on %d: %s", reference, world_size, text)
    changes["SOLVER.REFERENCE_WORLD_SIZE"] = world_size
    scaled = cfg.with_overrides([word for item in changes.items() for word in item])
    validate(scaled)
    return scaled


def _divide(count: int, scale: float) -> int:
    # For each of these keys 0 means "none" or "never". No other value may become 0.
    return max(1, round(count / scale)) if count else 0
