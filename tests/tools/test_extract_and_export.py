"""tools/extract_features.py and tools/export_model.py as a user runs them."""

from pathlib import Path

import pytest

from nlvideo.export import load_features
from nlvideo.export.export_files import read_export

TOOLS = ["extract_features", "export_model"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, make_video) -> str:
    """``folder:`` name of three videos of one class."""
    folder = tmp_path_factory.mktemp("videos")
    for name in "abc":
        make_video(folder / "walk" / f"{name}.mp4", num_frames=9, height=70, width=80)
    return f"folder:{folder}"


def test_features_of_the_model_that_comes_along(call_tool, dataset, tmp_path):
    options = ["--model", "quickstart", "--dataset", dataset, "--layer", "res5", "--output", str(tmp_path / "out")]
    status, out, _ = call_tool("extract_features", *options, "--videos-per-shard", "2", "DATALOADER.NUM_WORKERS", "0")
    assert status == 0 and "features of 3 videos, 128 each; 0 failed; 2 shards written, 0 there before" in out
    found = load_features(str(tmp_path / "out"))
    assert found.features.shape == (3, 128) and found.labels == [0, 0, 0]
    status, out, _ = call_tool("extract_features", *options, "--videos-per-shard", "2", "DATALOADER.NUM_WORKERS", "0")
    assert status == 0 and "0 shards written, 2 there before" in out


def test_an_export_of_the_model_that_comes_along(call_tool, dataset, tmp_path):
    video = str(Path(dataset.removeprefix("folder:")) / "walk/a.mp4")
    options = ["--model", "quickstart", "--output", str(tmp_path / "model.pt2"), "--video", video]
    status, out, err = call_tool("export_model", *options)
    assert status == 0, err
    assert "model.pt2: 8 classes, " in out and "batches of 1 and 3: " in out
    _, recipe = read_export(str(tmp_path / "model.pt2"), "pt2")
    assert len(recipe["classes"]) == 8 and recipe["classes"][0] != "0" and recipe["crop_size"] == 64
    status, _, err = call_tool("export_model", *options)
    assert status == 2 and "exists; --overwrite replaces it" in err


def common(name: str, dataset: str, output: Path) -> list[str]:
    """What both tools want beside the model."""
    own = ["--dataset", dataset, "--layer", "res5"] if name == "extract_features" else []
    return [*own, "--output", str(output / "model.pt2")]


@pytest.mark.parametrize("name", TOOLS)
def test_weights_of_another_network(name, call_tool, dataset, tmp_path):
    opts = ["MODEL.BACKBONE.WIDTH", "0.5"]
    status, _, err = call_tool(name, "--model", "quickstart", *common(name, dataset, tmp_path), *opts)
    assert status == 2 and err.count("\n") == 1
    assert "model.pth is of another network than the config's: other shapes: backbone.stem" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TOOLS)
def test_a_model_without_weights(name, call_tool, dataset, tmp_path):
    config = str(Path(__file__).resolve().parents[2] / "configs/quickstart/c2d.yaml")
    status, _, err = call_tool(name, "--config-file", config, *common(name, dataset, tmp_path))
    assert status == 2 and "MODEL.WEIGHTS: got '', allowed" in err
    status, _, err = call_tool(name, "--config-file", config, "--weights", "no.pth", *common(name, dataset, tmp_path))
    assert status == 2 and "no.pth" in err


def test_other_errors_are_one_line(call_tool, dataset, tmp_path):
    for arguments, message in [
        (["extract_features", "--dataset", dataset, "--layer", "rse5"], "no layer 'rse5': did you mean 'res5'"),
        (["extract_features", "--dataset", "folder:/nowhere", "--layer", "res5"], "/nowhere"),
        (["export_model", "--format", "tflite"], "format: got 'tflite', allowed: 'pt2', 'onnx'"),
    ]:
        status, _, err = call_tool(*arguments, "--model", "quickstart", "--output", str(tmp_path / "out"))
        lines = [line for line in err.splitlines() if message in line]
        assert status == 2 and len(lines) == 1, err
