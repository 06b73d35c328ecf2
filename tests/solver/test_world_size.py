"""Linear scaling from the reference number of ranks to the actual one."""

import logging

import pytest

from nlvideo.config import get_cfg
from nlvideo.solver import scale_to_world_size


def _cfg(reference=8, **solver):
    cfg = get_cfg()
    cfg.SOLVER.REFERENCE_WORLD_SIZE = reference
    cfg.SOLVER.WARMUP_ITERS = 1000
    cfg.TEST.EVAL_PERIOD = 2000
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    return cfg


def _schedule(cfg):
    keys = ("CLIPS_PER_BATCH", "BASE_LR", "MAX_ITER", "STEPS", "WARMUP_ITERS", "CHECKPOINT_PERIOD")
    return [cfg.SOLVER[key] for key in keys] + [cfg.TEST.EVAL_PERIOD]


def test_every_key_of_fine_tuning_that_counts_iterations_is_scaled():
    cfg = _cfg(BN_MODE="frozen_after", BN_MODE_ITER=700)
    cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.BACKBONE.FREEZE_UNTIL = 2, 600
    scaled = scale_to_world_size(cfg, 4)
    assert (scaled.MODEL.BACKBONE.FREEZE_UNTIL, scaled.SOLVER.BN_MODE_ITER) == (1200, 1400)


def test_fewer_ranks_train_longer_with_a_smaller_rate():
    """Eight to four ranks gives the authors' own 4-GPU settings: 32 clips at 0.005."""
    cfg = _cfg()
    scaled = scale_to_world_size(cfg, 4)
    assert _schedule(scaled) == [32, 0.005, 800000, [300000, 600000], 2000, 10000, 4000]
    assert scaled.SOLVER.REFERENCE_WORLD_SIZE == 4
    assert _schedule(cfg) == [64, 0.01, 400000, [150000, 300000], 1000, 5000, 2000]


def test_more_ranks_train_shorter():
    assert _schedule(scale_to_world_size(_cfg(), 16)) == [128, 0.02, 200000, [75000, 150000], 500, 2500, 1000]


def test_a_number_of_ranks_that_does_not_divide():
    scaled = scale_to_world_size(_cfg(), 3)
    assert scaled.SOLVER.CLIPS_PER_BATCH == 24
    assert scaled.SOLVER.BASE_LR == pytest.approx(0.00375)
    assert scaled.SOLVER.MAX_ITER == round(400000 * 8 / 3)


def test_there_and_back_again():
    cfg = _cfg()
    assert scale_to_world_size(scale_to_world_size(cfg, 2), 8) == cfg


@pytest.mark.parametrize("reference, world_size", [(0, 4), (8, 8)])
def test_nothing_to_scale_returns_the_same_config(reference, world_size):
    cfg = _cfg(reference)
    assert scale_to_world_size(cfg, world_size) is cfg


def test_twice_is_once():
    once = scale_to_world_size(_cfg(), 2)
    assert scale_to_world_size(once, 2) is once


def test_zero_stays_zero_and_nothing_else_becomes_zero():
    cfg = _cfg(1, CLIPS_PER_BATCH=2, MAX_ITER=20, STEPS=[1], CHECKPOINT_PERIOD=1, WARMUP_ITERS=0)
    cfg.TEST.EVAL_PERIOD = 0
    scaled = scale_to_world_size(cfg, 8)
    assert _schedule(scaled) == [16, 0.08, 2, [1], 0, 1, 0]


def test_a_schedule_that_does_not_survive_the_scaling_is_an_error():
    with pytest.raises(ValueError, match=r"SOLVER.STEPS: got \[1, 1\], allowed: increasing iterations"):
        scale_to_world_size(_cfg(1, STEPS=[4, 5]), 8)


def test_passes_split_the_scaled_batch():
    """Passes do not stand for ranks: for the whole batch on fewer ranks, nothing may be scaled."""
    scaled = scale_to_world_size(_cfg(8, ACCUMULATE=4), 2)
    assert (scaled.SOLVER.CLIPS_PER_BATCH, scaled.SOLVER.ACCUMULATE, scaled.SOLVER.BASE_LR) == (16, 4, 0.0025)
    whole = scale_to_world_size(_cfg(0, ACCUMULATE=4), 2)
    assert (whole.SOLVER.CLIPS_PER_BATCH, whole.SOLVER.ACCUMULATE, whole.SOLVER.BASE_LR) == (64, 4, 0.01)
    with pytest.raises(
        ValueError, match="SOLVER.CLIPS_PER_BATCH: got 8, allowed: a multiple of SOLVER.ACCUMULATE = 16"
    ):
        scale_to_world_size(_cfg(8, ACCUMULATE=16), 1)


def test_a_frozen_config_gives_a_frozen_copy():
    cfg = _cfg()
    cfg.freeze()
    scaled = scale_to_world_size(cfg, 2)
    assert scaled.is_frozen() and cfg.is_frozen()
    assert not scale_to_world_size(_cfg(), 2).is_frozen()


def test_the_change_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="nlvideo"):
        scale_to_world_size(_cfg(), 4)
    assert "written for 8 ranks and runs on 4" in caplog.text
    assert "SOLVER.BASE_LR 0.01 -> 0.005" in caplog.text
    assert "TEST.EVAL_PERIOD 2000 -> 4000" in caplog.text


@pytest.mark.parametrize("reference", [7, -1])
def test_a_batch_that_does_not_split_is_an_error(reference):
    named = f"SOLVER.REFERENCE_WORLD_SIZE: got {reference}, allowed: .*CLIPS_PER_BATCH = 64"
    with pytest.raises(ValueError, match=named):
        scale_to_world_size(_cfg(reference), 4)
