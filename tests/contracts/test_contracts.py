"""A minimal component of each registry, written from its docstring alone, does all that the core's own does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nlvideo.data import VideoDecodeError
from nlvideo.export.features import extract_features
from nlvideo.model_zoo import Predictor

PROJECT = str(Path(__file__).parent / "project")
INSTANT = str(Path(__file__).parents[2] / "configs" / "quickstart" / "instant_test.yaml")
# The key and the value that choose each component, and a layer of the network that then has features.
COMPONENTS = {
    "META_ARCH": ("MODEL.META_ARCHITECTURE", "MinimalModel", "linear"),
    "BACKBONE": ("MODEL.BACKBONE.NAME", "MinimalBackbone", "conv"),
    "NONLOCAL": ("MODEL.NONLOCAL.NAME", "MinimalBlock", "res4.nl1"),
    "HEAD": ("MODEL.HEAD.NAME", "MinimalHead", "res5"),
    "CLIP_SAMPLER": ("TEST.CLIP_SAMPLER", "MinimalClips", "res5"),
    "MAPPER": ("DATALOADER.MAPPER", "MinimalMapper", "res5"),
    "SAMPLER": ("DATALOADER.SAMPLER", "MinimalOrder", "res5"),
    "EVALUATOR": ("TEST.EVALUATOR", "MinimalEvaluator", "res5"),
    "WRITER": ("WRITERS", "[JSONWriter, MinimalWriter]", "res5"),
}


pytestmark = pytest.mark.usefixtures("close_log_files")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., str]) -> Path:
    """A folder with lists of three and two videos and, in each, one more that cannot be read."""
    folder = tmp_path_factory.mktemp("videos")
    for split, count in (("train", 3), ("val", 2)):
        names = [f"{split}{i}.mp4" for i in range(count)]
        for index, name in enumerate(names):
            make_video(folder / name, num_frames=6 + index, height=32)
        names.insert(1, f"{split}_broken.mp4")
        (folder / names[1]).write_bytes(b"no video")
        (folder / f"{split}.txt").write_text("".join(f"{name} {i % 2}\n" for i, name in enumerate(names)))
    return folder


@pytest.fixture
def options(videos: Path, tmp_path: Path) -> list[str]:
    """The arguments of train_net.py that all runs here have."""
    return [
        "--config-file", INSTANT, "--plugin", PROJECT, "OUTPUT_DIR", str(tmp_path / "out"),
        "DATASETS.TRAIN", f"['list:{videos}/train.txt']", "DATASETS.TEST", f"['list:{videos}/val.txt']",
        "DATALOADER.MAX_FAILED_FRACTION", "0.5", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "[1]",
        "MINIMAL.VALUE", "3.0",
    ]  # fmt: skip


def _run(call_tool: Callable, *arguments: str) -> dict[str, float]:
    """Run train_net.py and return the metrics of its test."""
    status, out, err = call_tool("train_net", *arguments)
    assert status == 0, out + err
    lines = [line.partition("copypaste: ")[2] for line in (out + err).splitlines() if "copypaste: " in line]
    return dict(zip(lines[-2].split(","), map(float, lines[-1].split(","))))


def _all_but_one_readable(metrics: dict[str, float]) -> bool:
    return metrics.get("num_failed", metrics.get("failed")) == 1


@pytest.mark.parametrize("registry", COMPONENTS)
def test_a_minimal_component_does_all_that_the_cores_own_does(
    registry: str, options: list[str], videos: Path, tmp_path: Path, call_tool: Callable
) -> None:
    key, name, layer = COMPONENTS[registry]
    out = tmp_path / "out"
    arguments = [*options, key, name]
    if registry == "CLIP_SAMPLER":
        arguments += ["INPUT.CLIP_SAMPLER", name]

    trained = _run(call_tool, *arguments)
    assert _all_but_one_readable(trained)
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert [line["minimal"] for line in lines] == [3.0, 6.0]
    written = out / "minimal.txt"
    assert (written.read_text() if written.exists() else "") == "0\n1\nclosed\n" * (registry == "WRITER")
    (failed,) = json.loads((out / "failed_videos.json").read_text())["failed"]
    assert failed["file_name"] == str(videos / "train_broken.mp4")
    # Longer training goes on where the hook and the stream of clips were.
    _run(call_tool, *arguments, "--resume", "SOLVER.MAX_ITER", "3")
    assert json.loads((out / "metrics.json").read_text().splitlines()[-1])["minimal"] == 9.0

    assert _all_but_one_readable(_run(call_tool, *arguments, "--eval-only", "--resume", "TEST.NUM_CLIPS", "2"))
    _check_scores(call_tool, name if registry == "EVALUATOR" else "", out, options)
    _check_predictions(out, videos)
    model = Predictor(out).model
    done = extract_features(model, model.cfg, f"list:{videos}/val.txt", layer, str(tmp_path / "features"))
    assert done.num_videos == 3 and list(done.failed) == ["val_broken.mp4"] and np.prod(done.shape) > 0


def _check_scores(call_tool: Callable, evaluator: str, out: Path, options: list[str]) -> None:
    """Score saved results; those of a test by an evaluator that saves none come from another test."""
    if evaluator:
        shutil.rmtree(out / "inference", ignore_errors=True)
        _run(call_tool, *options, "--eval-only", "--resume")
    (results,) = (out / "inference").glob("*.json")
    status, text, err = call_tool("score", str(results), "--plugin", PROJECT, "--evaluator", evaluator)
    assert status == 0 and "failed" in text, text + err


def _check_predictions(out: Path, videos: Path) -> None:
    predictor = Predictor(out)
    frames = np.zeros((6, 32, 48, 3), np.uint8)
    for video in (str(videos / "val0.mp4"), frames):
        scores = predictor.scores(video)
        assert scores.shape == (8,) and scores.sum() == pytest.approx(1, abs=1e-5)
    assert len(predictor.timeline(videos / "val0.mp4")) == 1
    with pytest.raises(VideoDecodeError, match="val_broken"):
        predictor(videos / "val_broken.mp4")


def test_minimal_components_work_together_and_in_workers(
    options: list[str], videos: Path, tmp_path: Path, call_tool: Callable
) -> None:
    together = [text for name, (key, value, _) in COMPONENTS.items() if name != "META_ARCH" for text in (key, value)]
    together += ["INPUT.CLIP_SAMPLER", "MinimalClips", "DATALOADER.NUM_WORKERS", "1"]
    assert _all_but_one_readable(_run(call_tool, *options, *together))
    _check_predictions(tmp_path / "out", videos)


def test_a_failed_video_of_several_labels_has_the_label_of_a_readable_one(
    options: list[str], videos: Path, tmp_path: Path, call_tool: Callable
) -> None:
    arguments = [*options, "MODEL.HEAD.LOSS", "sigmoid", "DATALOADER.MAPPER", "MinimalMapper"]
    assert _all_but_one_readable(_run(call_tool, *arguments))
    (results,) = (tmp_path / "out" / "inference").glob("*.json")
    rows = json.loads(results.read_text())["videos"]
    labels = {row["video_id"]: row["label"] for row in rows}
    assert labels == {"val0.mp4": [0], "val_broken.mp4": [1], "val1.mp4": [0]}
    assert [row["scores"] is None for row in rows] == [False, False, True]
