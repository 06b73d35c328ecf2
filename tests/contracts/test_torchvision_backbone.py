"""Every stock tool works with a network of torchvision: R3D-18 with a non-local block, on clips of 16 pixels."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision

from nlvideo.export import load_features

INSTANT = str(Path(__file__).parents[2] / "configs" / "quickstart" / "instant_test.yaml")
NETWORK = [
    "MODEL.BACKBONE.NAME", "TorchvisionVideo", "MODEL.BACKBONE.ARCH", "r3d_18", "MODEL.HEAD.NUM_CLASSES", "2",
    "MODEL.NONLOCAL.BLOCKS", "['layer2.1']", "INPUT.NUM_FRAMES", "4", "INPUT.FRAME_STRIDE", "1",
    "INPUT.SHORT_SIDE_RANGE", "[16, 18]", "INPUT.CROP_SIZE", "16", "TEST.SHORT_SIDE", "16", "TEST.CROP_SIZE", "16",
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("close_log_files")


def _run(call_tool: Callable, *arguments: object) -> str:
    status, out, err = call_tool(*map(str, arguments))
    assert status == 0, out + err
    return out + err


def test_stock_tools(tmp_path: Path, make_video: Callable[..., str], call_tool: Callable) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            make_video(tmp_path / split / "ab"[index % 2] / f"{index}.mp4", num_frames=6, height=20, width=24)
    weights, out = tmp_path / "weights.pth", tmp_path / "out"
    torch.save(torchvision.models.video.r3d_18(weights=None).state_dict(), weights)
    overrides = [
        *NETWORK, "OUTPUT_DIR", out, "DATASETS.TRAIN", f"['folder:{tmp_path}/train']", "DATASETS.TEST",
        f"['folder:{tmp_path}/val']", "SOLVER.STEPS", "[1]",
        "MODEL.BACKBONE.FREEZE_AT", 2, "SOLVER.LAYER_DECAY", 0.5, "MODEL.WEIGHTS", weights, "SOLVER.MAX_ITER",
    ]  # fmt: skip
    log = _run(call_tool, "train_net", "--config-file", INSTANT, *overrides, 2)
    # The table of the start, and the weights of 400 classes.
    assert "backbone.layer2.1.nonlocal_block" in log and "classifier of other classes (skipped)" in log
    before, after = torch.load(weights), torch.load(out / "model_final.pth")["model"]
    assert torch.equal(after["backbone.stem.0.weight"], before["stem.0.weight"])
    assert torch.equal(after["backbone.layer1.1.conv1.0.weight"], before["layer1.1.conv1.0.weight"])
    assert not torch.equal(after["backbone.layer3.1.conv1.0.weight"], before["layer3.1.conv1.0.weight"])

    _run(call_tool, "train_net", "--config-file", INSTANT, "--resume", *overrides, 3)
    config = ["--config-file", out / "config.yaml"]
    assert "copypaste: " in _run(call_tool, "train_net", *config, "--eval-only", "--resume")

    video, model = tmp_path / "val" / "a" / "0.mp4", ["--model", out]
    _run(call_tool, "predict", *model, "--input", video, "--json", tmp_path / "predictions.json")
    text = (tmp_path / "predictions.json").read_text()
    assert '"a"' in text and '"b"' in text
    for layer, channels in (("layer3", 256), ("layer2.1.nonlocal_block", 128)):
        folder = tmp_path / f"features_{layer}"
        val = f"folder:{tmp_path}/val"
        _run(call_tool, "extract_features", *model, "--dataset", val, "--layer", layer, "--output", folder)
        assert load_features(str(folder)).features.shape == (2, channels)
    _run(call_tool, "visualize_attention", *model, "--input", video, "--output", tmp_path / "attention")
    assert (tmp_path / "attention" / "query_0.png").is_file()
    gradcam = ["--method", "gradcam", "--output", tmp_path / "gradcam"]
    _run(call_tool, "visualize_attention", *model, "--input", video, *gradcam)
    assert (tmp_path / "gradcam" / "gradcam.png").is_file()
    _run(call_tool, "export_model", *model, "--output", tmp_path / "model.pt2", "--video", video)
    program = torch.export.load(tmp_path / "model.pt2").module()
    scores = program(torch.zeros(1, 3, 4, 16, 16, dtype=torch.uint8))
    assert scores.shape == (1, 2) and scores.sum().item() == pytest.approx(1, abs=1e-5)
    costs = json.loads(_run(call_tool, "analyze_model", *config, "--json"))
    assert [row["name"] for row in costs["nonlocal_blocks"]] == ["backbone.layer2.1.nonlocal_block"]
    _run(call_tool, "pack_model", *model, "--output", tmp_path / "packed")
    _run(call_tool, "predict", "--model", tmp_path / "packed", "--input", video)
    _run(call_tool, "report", out)
