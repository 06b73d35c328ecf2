"""The trained model that comes with the package: what it knows, and that its files say what it is."""

from pathlib import Path

import pytest
import torch

from nlvideo.config import load_cfg
from nlvideo.data.datasets.beacon import BeaconSpec, beacon_clip
from nlvideo.data.datasets.beacon_render import ACTIONS
from nlvideo.model_zoo import Predictor, get_config_file, list_trained, trained_folder
from nlvideo.visualization import attend

FOLDER = Path(trained_folder("quickstart"))


def test_it_knows_what_beacon_is_about(beacon: Path) -> None:
    """Who sees the actions but not the lamp is right once in three, in 16 of 48."""
    predictor = Predictor("quickstart", device="cpu")
    rows = [line.rsplit(" ", 1) for line in (beacon / "val.csv").read_text().splitlines()]
    right = sum(predictor(beacon / path, top_k=1)[0][0] == ACTIONS[int(label)] for path, label in rows)
    assert len(rows) == 48 and right >= 44


def test_its_config_is_the_committed_one() -> None:
    bundled, committed = (
        load_cfg(str(path)) for path in (FOLDER / "config.yaml", get_config_file("quickstart/i3d_nl"))
    )
    different = [key for key in committed.keys_with_path() if bundled.value_at(key) != committed.value_at(key)]
    # Which seed it was, that it was tested at the end alone, and the shorter schedule that the config had then.
    assert different == ["SEED", "SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD"]


def test_its_attention_finds_the_lamp() -> None:
    """The first clip of the validation split in which the agent is clearly apart: docs/gallery.md shows what it is."""
    scene, frames = beacon_clip(BeaconSpec(), "val", 20)
    predictor = Predictor("quickstart", device="cpu")
    clip = predictor._mapper({"file_name": frames, "label": 0, "video_id": ""}, None)["video"]
    centre = clip[len(clip) // 2]
    chosen, other = attend(predictor.model, centre, "res2.0", [(5, 18, 39), (5, 27, 16)]).weights
    assert predictor(frames, top_k=1)[0][0] == scene.label == "clockwise"
    # The lamp is at the lower left, and glows in the first two frames: one frame of the map.
    assert chosen[0, 6:, :2].sum() > 0.9 and other[0, 6:, :2].sum() < 0.05


def test_its_file_holds_weights_and_names_alone() -> None:
    content = torch.load(FOLDER / "model.pth", weights_only=True)
    assert content.keys() == {"model", "classes"}
    assert all(type(tensor) is torch.Tensor and tensor.device.type == "cpu" for tensor in content["model"].values())
    assert content["classes"] == list(ACTIONS) == (FOLDER / "classes.txt").read_text().split()


@pytest.mark.parametrize("name", list_trained())
def test_every_trained_model_is_whole(name: str) -> None:
    folder = Path(trained_folder(name))
    assert {path.name for path in folder.iterdir()} == {
        "model.pth",
        "config.yaml",
        "classes.txt",
        "README.md",
        "report.html",
    }
    report = (folder / "report.html").read_text(encoding="utf8")
    assert "Confusion matrix" in report and "left out" not in report and "No results of a test" not in report
    predictor = Predictor(name, device="cpu")
    assert predictor.cfg.MODEL.WEIGHTS == str(folder / "model.pth") and not predictor.model.training
