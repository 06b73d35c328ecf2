"""A folder of videos and a config that leaves the rest to it: classes and schedule come from the data."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nlvideo.config import load_cfg
from nlvideo.export import load_features

CONFIG = """
_BASE_: {base}
MODEL: {{HEAD: {{NUM_CLASSES: 0}}}}
SOLVER: {{MAX_EPOCHS: 1.0, CLIPS_PER_BATCH: 2, STEPS: [], REFERENCE_WORLD_SIZE: 1}}
TEST: {{EVAL_FRACTION: 0.5}}
"""


@pytest.mark.slow
def test_names_travel_from_a_folder_of_videos_to_every_tool(
    run_tool: Callable, make_video: Callable, tmp_path: Path
) -> None:
    base = Path(__file__).resolve().parents[2] / "configs/quickstart/instant_test.yaml"
    config = tmp_path / "mine.yaml"
    config.write_text(CONFIG.format(base=base))
    for part, count in (("train", 4), ("val", 2)):
        for name in ("wave", "bow"):
            for number in range(count):
                # A name of its own, so that no two files are equal.
                path = tmp_path / "videos" / part / name / f"{part}{number}.mp4"
                make_video(path, num_frames=8 + number + (name == "bow") * 4, height=40 + (part == "val") * 8)
    data = [f"['folder:{tmp_path}/videos/{part}']" for part in ("train", "val")]
    opts = ["DATASETS.TRAIN", data[0], "DATASETS.TEST", data[1], "OUTPUT_DIR", f"{tmp_path}/out"]
    done = run_tool("train_net.py", "--config-file", str(config), "--num-gpus", "2", *opts)
    assert done.stdout.count("From the 8 videos of the training data: MODEL.HEAD.NUM_CLASSES 0 -> 2, ") == 1
    cfg = load_cfg(f"{tmp_path}/out/config.yaml")
    assert (cfg.MODEL.HEAD.NUM_CLASSES, cfg.SOLVER.MAX_ITER, cfg.SOLVER.MAX_EPOCHS) == (2, 4, 0)
    # Twice the clips on two ranks, and half the iterations.
    assert os.path.isfile(f"{tmp_path}/out/model_0000001.pth")
    assert "Resumed from" in run_tool("train_net.py", "--config-file", str(config), "--resume", *opts).stdout

    # On another machine: the run, or one file and the config that was typed.
    moved, alone = shutil.copytree(tmp_path / "out", tmp_path / "moved"), tmp_path / "alone"
    alone.mkdir()
    weights = shutil.copy(moved / "model_final.pth", alone)
    new = shutil.move(tmp_path / "videos" / "val", tmp_path / "new")
    shutil.rmtree(tmp_path / "videos")
    video = f"{new}/bow/val0.mp4"
    typed = ["--config-file", str(config), "--weights", weights]
    for model in (["--model", str(moved)], typed):
        said = run_tool("predict.py", *model, "--input", video).stdout
        assert "bow" in said and "wave" in said
    run_tool("pack_model.py", *typed, "--output", str(alone / "packed"))
    assert (alone / "packed/classes.txt").read_text() == "bow\nwave\n"
    assert "2 classes" in run_tool("export_model.py", *typed, "--video", video, "--output", f"{alone}/m.pt2").stdout
    run_tool("extract_features.py", *typed, "--dataset", f"folder:{new}", "--layer", "res5", "--output", f"{alone}/f")
    assert load_features(f"{alone}/f").classes == ["bow", "wave"]
    run_tool("report.py", str(moved), "--output", str(alone / "page.html"))
    assert ">wave<" in (alone / "page.html").read_text()
    for tool, place in (
        ("test_net.py", ["MODEL.WEIGHTS", weights]),
        ("plain_train_net.py", ["MODEL.WEIGHTS", weights]),
    ):
        flag = ["--eval-only"] if tool != "test_net.py" else []
        tested = run_tool(tool, "--config-file", str(config), *flag, *place, "DATASETS.TEST", f"['folder:{new}']",
                          "OUTPUT_DIR", str(alone / tool))  # fmt: skip
        assert "wave" in tested.stdout and load_cfg(f"{alone}/{tool}/config.yaml").MODEL.HEAD.NUM_CLASSES == 2
