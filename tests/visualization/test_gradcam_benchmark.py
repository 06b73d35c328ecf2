"""benchmarks/gradcam.py: what is covered, and what is counted."""

import pytest
import torch

from nlvideo.data.datasets.beacon import BeaconSpec, beacon_clip
from nlvideo.model_zoo import Predictor


@pytest.fixture(scope="module")
def bench(load_tool):
    """The script as a module."""
    return load_tool("gradcam", "benchmarks")


def test_regions_of_a_grid_cover_each_pixel_once(bench):
    masks = bench.masks_of_grid(torch.zeros(3, 8, 64, 64), 2, 4)
    assert masks.shape == (16, 8, 64, 64) and masks[:, :2].sum() == 0
    assert (masks[:, 2:].sum(dim=0) == 1).all() and len({int(mask.sum()) for mask in masks}) == 1
    # Row by row: the second is right of the first.
    assert masks[1, 2, 0, 16:32].all() and masks[4, 2, 16, :16].all()


def test_objects_are_where_they_are_drawn(bench):
    scene, frames = beacon_clip(BeaconSpec(), "val", 20)
    masks = bench.masks_of_objects(scene).numpy()
    assert masks.shape == (4, 8, 64, 64) and not masks[:3, :2].any() and not masks[3, 2:].any()
    # Each mask holds most of the pixels of its object's colour; blue is that of the lamp and of the first agent.
    blue = (frames[..., 2].astype(int) - frames[..., 0] > 100) & (frames[..., 2].astype(int) - frames[..., 1] > 60)
    assert (blue & (masks[0] | masks[3])).sum() > 0.95 * blue.sum() > 100


def test_what_is_lost_by_covering(bench):
    predictor = Predictor("quickstart", device="cpu")
    scene, frames = beacon_clip(BeaconSpec(), "val", 0)
    video = torch.from_numpy(frames).permute(3, 0, 1, 2).contiguous()
    target = predictor.classes.index(scene.label)
    nothing = torch.zeros(1, 8, 64, 64, dtype=torch.bool)
    lost = bench.losses(predictor.model, video, target, torch.cat([nothing, bench.masks_of_objects(scene)]))
    before = float(predictor.model.forward_clips(video[None])[0, target].detach())
    assert abs(lost["probability"][0]) < 1e-5 and before > 0.9
    # Without its agent there is no answer; without another one there is.
    assert lost["probability"][1] > 0.5 and abs(lost["probability"][2]) < 0.1 and lost["logit"][1] > 3


def test_figures_of_a_few_clips(bench):
    result = bench.measure(3)
    assert result["num_clips"] == 3 and 1 <= result["num_right"] <= 3
    assert sum(result["most is lost with"].values()) == result["num_right"]
    assert all(0 <= value <= 100 for value in result["percent"].values())
    assert len(result["percent"]) == len(bench.LAYERS) * (2 * len(bench.GRIDS) + 3)
