"""The scripts on a small dataset in COCO's format: ranks, mistakes, and pictures."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from nonlocal_rcnn.drawing import attention_in_box, detect, draw_detections
from PIL import Image

from nlvideo.config import CfgNode
from nlvideo.engine import DefaultTrainer
from nlvideo.engine.resolve import resolve_from_data
from nlvideo.modeling import build_model
from nlvideo.visualization import draw_film_strip, write_video

PROJECT = Path(__file__).resolve().parents[1]
ROOT = PROJECT.parents[1]


@pytest.fixture
def saved(tiny_cfg: Callable[..., CfgNode], write_coco: Callable[..., str], tmp_path: Path) -> CfgNode:
    """The config of a detector whose random weights are saved; its detections have low scores."""
    name = write_coco()
    args = [["box_score_thresh", 0.0], ["rpn_post_nms_top_n_test", 20], ["box_detections_per_img", 4]]
    cfg = tiny_cfg(
        DATASETS__TRAIN=[name], DATASETS__TEST=[name], MODEL__NONLOCAL__ENABLED=True,
        MODEL__NONLOCAL__BLOCKS=["layer3.0"], MODEL__RCNN__ARGS=args, MODEL__WEIGHTS=str(tmp_path / "weights.pth"),
    )  # fmt: skip
    torch.manual_seed(0)
    model = build_model(cfg)
    model.backbone.body.layer3[0].nonlocal_block.bn.weight.data.fill_(1.0)
    torch.save({"model": model.state_dict(), "classes": ["person", "cat"]}, tmp_path / "weights.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    return cfg


@pytest.mark.slow
def test_two_ranks_find_what_one_finds(saved: CfgNode, tmp_path: Path) -> None:
    wanted = DefaultTrainer.test_checkpoint(saved)
    command = [sys.executable, str(ROOT / "tools" / "test_net.py"), "--config-file", str(tmp_path / "config.yaml")]
    done = subprocess.run(
        [*command, "--num-gpus", "2", "--plugin", str(PROJECT), "OUTPUT_DIR", str(tmp_path / "two")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = re.findall(r"copypaste: (.*)", done.stdout)
    for task, names, values in zip(*[iter(lines)] * 3):
        own = wanted[task.removeprefix("Task: ")]
        assert names.split(",") == list(own)
        assert values.split(",") == [str(v) if isinstance(v, int) else f"{v:.2f}" for v in own.values()]
    assert len(lines) == 6
    (one,), (two,) = (
        [*Path(folder, "inference").glob("coco*/bbox.json")] for folder in (saved.OUTPUT_DIR, tmp_path / "two")
    )
    assert one.read_text() == two.read_text() and wanted["box"]["num_images"] == 4


def test_files_that_do_not_exist_end_a_run_at_its_start(saved: CfgNode, tmp_path: Path) -> None:
    (tmp_path / "images" / "tall.png").unlink()
    with pytest.raises(ValueError, match=r"^DATASETS.TRAIN: coco:.*1 of 4 videos do not exist: .*tall.png$"):
        resolve_from_data(saved)


@pytest.mark.parametrize(("changes", "message"), [
    ({"MODEL__META_ARCHITECTURE": "KeypointRCNN", "MODEL__RCNN__NUM_KEYPOINTS": 17},
     "MODEL.RCNN.NUM_KEYPOINTS: got 17, allowed: 3, the keypoints in coco:"),
    ({"SOLVER__MIX__MIXUP_ALPHA": 0.5}, "SOLVER.MIX.PROB: got a mix of clips, allowed for detection: 0"),
])  # fmt: skip
def test_settings_that_do_not_fit_the_data(
    changes: dict, message: str, tiny_cfg: Callable[..., CfgNode], write_coco: Callable[..., str]
) -> None:
    from nlvideo.data.build import build_train_loader

    name = write_coco()
    with pytest.raises(ValueError) as caught:
        build_train_loader(tiny_cfg(DATASETS__TRAIN=[name], **changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_keypoint_detector_trains_and_tests(tiny_cfg: Callable[..., CfgNode], write_coco: Callable[..., str]) -> None:
    name = write_coco()
    places = ["layer3.0", *(f"keypoint_head.{index}" for index in (3, 7, 11, 15))]
    cfg = tiny_cfg(
        DATASETS__TRAIN=[name], DATASETS__TEST=[name], MODEL__META_ARCHITECTURE="KeypointRCNN", SOLVER__MAX_ITER=2,
        MODEL__NONLOCAL__ENABLED=True, MODEL__NONLOCAL__BLOCKS=places,
    )  # fmt: skip
    trainer = DefaultTrainer(cfg)
    assert list(trainer.train())[:2] == ["box", "keypoints"]
    assert {"loss_keypoint", "loss_objectness"} <= trainer.storage.latest().keys()


def test_detections_are_drawn_where_they_are() -> None:
    image = torch.full((3, 60, 80), 100, dtype=torch.uint8)
    masks = torch.zeros(1, 1, 60, 80)
    masks[0, 0, 25:45, 30:50] = 1
    found = {"boxes": torch.tensor([[28.0, 23, 52, 47]]), "labels": torch.tensor([2]), "scores": torch.tensor([0.9])}
    plain, drawn = (
        np.array(image.permute(1, 2, 0)),
        np.array(draw_detections(image, {**found, "masks": masks}, ["a", "b"])),
    )
    changed = (plain != drawn).any(axis=2)
    assert changed[30:40, 35:45].all() and not changed[52:].any() and not changed[25:, 62:].any()
    assert changed[23:47, 28].all() and changed[22, 28:52].all()
    # A skeleton joins its points.
    points = torch.tensor([[[35.0, 30, 1], [45, 30, 1], [40, 42, 1]]])
    changed = np.array(draw_detections(image, {**found, "keypoints": points}, ["a"])) != plain
    assert changed[30, 35:46].any(axis=1).all() and changed[42, 40].any() and not changed[36, 33].any()


def test_the_middle_of_a_box_attends(saved: CfgNode) -> None:
    model = build_model(saved)
    image = torch.randint(256, (3, 44, 60), dtype=torch.uint8)
    maps = attention_in_box(model, image, (10, 10, 30, 30))
    # 40 x 54 pixels, padded to 64 x 64: 4 x 4 cells of 16, of which a row is in the padding.
    assert maps.frames.shape == (1, 40, 54, 3) and tuple(maps.weights.shape) == (1, 1, 3, 4)
    assert maps.positions[0].tolist() == pytest.approx([0, 18.2, 18.0])
    assert 0.5 < float(maps.weights.sum()) < 1 and draw_film_strip(maps, 0).size[0] > 100
    with pytest.raises(ValueError, match=r"block: got 'layer2.0', allowed: 'layer3.0'"):
        attention_in_box(model, image, (10, 10, 30, 30), "layer2.0")


def test_the_script_draws_images_and_videos(
    saved: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_video(tmp_path / "clip.mp4", np.zeros((3, 48, 64, 3), np.uint8), 4.0)
    options = ["--config-file", str(tmp_path / "config.yaml"), "--plugin", str(PROJECT), "--threshold", "0.01",
               "--output", str(tmp_path / "drawn")]  # fmt: skip
    for source, more in ((tmp_path / "images" / "wide.png", ["--attention"]), (tmp_path / "clip.mp4", [])):
        monkeypatch.setattr(sys, "argv", ["draw_detections.py", str(source), *options, *more])
        # A failure exits, and so ends the test.
        runpy.run_path(str(PROJECT / "draw_detections.py"), run_name="__main__")
    assert re.search(r"(person|cat) 0\.\d+ at ", capsys.readouterr().out)
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"wide.png", "wide_attention.png", "clip.mp4"}
    assert Image.open(tmp_path / "drawn" / "wide.png").size == (60, 40)


def test_only_sure_detections_are_kept(saved: CfgNode) -> None:
    image = torch.randint(256, (3, 44, 60), dtype=torch.uint8)
    model = build_model(saved)
    every = detect(model, image, 0.0)
    best = float(every["scores"][0])
    assert len(every["scores"]) > 1 and len(detect(model, image, best)["boxes"]) == 1
