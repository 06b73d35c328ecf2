"""Configs at a size that takes seconds."""

import pytest

from nlvideo.config import get_cfg, load_cfg, reduced
from nlvideo.model_zoo import get_config, list_configs


@pytest.mark.parametrize("name", list_configs())
def test_what_is_kept_and_what_is_shrunk(name: str) -> None:
    cfg = get_config(name)
    before = cfg.dump()
    small = reduced(cfg)
    assert cfg.dump() == before and small.is_frozen()
    assert small.MODEL.WEIGHTS == "" and small.MODEL.DEVICE == "cpu"
    assert small.DATASETS.TRAIN == ["beacon_tiny_train"] and small.DATASETS.TEST == ["beacon_tiny_val"]
    assert small.SOLVER.MAX_ITER == 1 and small.SOLVER.CLIPS_PER_BATCH == 2
    assert small.INPUT.NUM_FRAMES <= 32 and small.INPUT.CROP_SIZE <= 64
    # The network is that of the config in all but its width and the number of classes.
    expected = cfg.MODEL.clone()
    expected.defrost()
    expected.WEIGHTS, expected.DEVICE = "", "cpu"
    expected.BACKBONE.WIDTH, expected.HEAD.NUM_CLASSES = 0.125, 8
    assert small.MODEL == expected
    for key in ("OPTIMIZER", "BASE_LR", "WEIGHT_DECAY", "NESTEROV", "LR_SCHEDULE"):
        assert small.SOLVER[key] == cfg.SOLVER[key]
    assert small.TEST.CLIP_SAMPLER == cfg.TEST.CLIP_SAMPLER and small.INPUT.CLIP_SAMPLER == cfg.INPUT.CLIP_SAMPLER


@pytest.mark.parametrize(
    "stem, groups, frames", [("paper", 1, 16), ("authors_32x2", 4, 32), ("authors_8x8", 1, 4), ("authors_8x8", 4, 8)]
)
def test_enough_frames_are_left_for_the_groups(stem: str, groups: int, frames: int) -> None:
    cfg = load_cfg(None, ["MODEL.BACKBONE.STEM", stem, "MODEL.NONLOCAL.TEMPORAL_GROUPS", str(groups)])
    assert reduced(cfg).INPUT.NUM_FRAMES == frames


def test_overrides_have_the_last_word() -> None:
    small = reduced(load_cfg(None, ["SOLVER.ACCUMULATE", "4"]), ["SOLVER.MAX_ITER", "4", "OUTPUT_DIR", "here"])
    assert (small.SOLVER.MAX_ITER, small.SOLVER.CLIPS_PER_BATCH, small.OUTPUT_DIR) == (4, 8, "here")
    with pytest.raises(ValueError, match="SOLVER.MAX_ITER: got 0, allowed: 1 or more"):
        reduced(get_cfg(), ["SOLVER.MAX_ITER", "0"])


def test_whole_frames_stay_whole() -> None:
    cfg = load_cfg(None, ["TEST.CROP_SIZE", "0", "TEST.NUM_CROPS", "1"])
    assert reduced(cfg).TEST.CROP_SIZE == 0
