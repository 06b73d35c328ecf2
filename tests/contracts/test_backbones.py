"""Every stock tool works with the other backbones, each with a non-local block, on clips of 16 pixels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torchvision

from nlvideo.config import load_cfg
from nlvideo.export import load_features
from nlvideo.modeling import build_model

INSTANT = str(Path(__file__).parents[2] / "configs" / "quickstart" / "instant_test.yaml")
SMALL = [
    "MODEL.HEAD.NUM_CLASSES", "2", "INPUT.NUM_FRAMES", "4", "INPUT.FRAME_STRIDE", "1", "INPUT.SHORT_SIDE_RANGE",
    "[16, 18]", "INPUT.CROP_SIZE", "16", "TEST.SHORT_SIDE", "16", "TEST.CROP_SIZE", "16",
]  # fmt: skip


class Case(NamedTuple):
    """A backbone, and the names in it that the tools are asked for."""

    network: list[str]
    start: Callable[[], torch.nn.Module]
    """Makes the network whose weights it starts from, with stem and stages ``layer1`` to ``layer4``."""
    block: str
    layers: dict[str, int]
    """Layer whose features are extracted -> its channels."""
    kept: dict[str, str]
    """Our name -> that in the file, of frozen weights."""
    trained: tuple[str, str]


SLOWFAST = ["MODEL.BACKBONE.NAME", "SlowFast", "MODEL.BACKBONE.DEPTH", "18", "MODEL.BACKBONE.WIDTH", "0.125"]
CASES = {
    "r3d_18": Case(
        ["MODEL.BACKBONE.NAME", "TorchvisionVideo", "MODEL.BACKBONE.ARCH", "r3d_18",
         "MODEL.NONLOCAL.BLOCKS", "['layer2.1']"],
        lambda: torchvision.models.video.r3d_18(weights=None),
        "layer2.1.nonlocal_block",
        {"layer3": 256, "layer2.1.nonlocal_block": 128},
        {"stem.0.weight": "stem.0.weight", "layer1.1.conv1.0.weight": "layer1.1.conv1.0.weight"},
        ("layer3.1.conv1.0.weight", "layer3.1.conv1.0.weight"),
    ),
    "tsm": Case(
        ["MODEL.BACKBONE.NAME", "TSM", "MODEL.BACKBONE.ARGS", "[[shift_div, 4]]", "MODEL.BACKBONE.DEPTH", "18",
         "MODEL.BACKBONE.WIDTH", "1.0", "MODEL.BACKBONE.TEMPORAL", "c2d", "MODEL.BACKBONE.STEM", "slow",
         "MODEL.NONLOCAL.BLOCKS", "['res3.0']", "INPUT.CLIP_SAMPLER", "SegmentClip", "TEST.CLIP_SAMPLER", "SegmentClip",
         "MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]", "MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]"],
        lambda: torchvision.models.resnet18(weights=None),
        "res3.nl0",
        {"res4": 256, "res3.nl0": 128},
        {"stem.conv.weight": "conv1.weight", "res2.1.conv1.weight": "layer1.1.conv1.weight"},
        ("res4.1.conv1.weight", "layer3.1.conv1.weight"),
    ),
    "slowfast": Case(
        [*SLOWFAST, "MODEL.BACKBONE.ARGS", "[[alpha, 2]]", "MODEL.NONLOCAL.BLOCKS", "['res3.0']"],
        lambda: build_model(load_cfg(None, [*SLOWFAST, "MODEL.DEVICE", "cpu", "MODEL.HEAD.NUM_CLASSES", "5"])),
        "res3.nl0",
        # What the head reads has the channels of both pathways.
        {"res4": 32, "fast.res4": 8, "backbone": 64 + 8},
        {name: f"backbone.{name}"
         for name in ("stem.conv.weight", "fast.res2.1.conv1.weight", "lateral.res2.conv.weight")},
        ("fast.res4.1.conv1.weight", "backbone.fast.res4.1.conv1.weight"),
    ),
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("close_log_files")


def _run(call_tool: Callable, *arguments: object) -> str:
    status, out, err = call_tool(*map(str, arguments))
    assert status == 0, out + err
    return out + err


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_stock_tools(name: str, tmp_path: Path, make_video: Callable[..., str], call_tool: Callable) -> None:
    case = CASES[name]
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            make_video(tmp_path / split / "ab"[index % 2] / f"{index}.mp4", num_frames=6, height=20, width=24)
    weights, out = tmp_path / "weights.pth", tmp_path / "out"
    torch.save(case.start().state_dict(), weights)
    overrides = [
        *SMALL, *case.network, "OUTPUT_DIR", out, "DATASETS.TRAIN", f"['folder:{tmp_path}/train']", "DATASETS.TEST",
        f"['folder:{tmp_path}/val']", "SOLVER.STEPS", "[1]",
        "MODEL.BACKBONE.FREEZE_AT", 2, "SOLVER.LAYER_DECAY", 0.5, "MODEL.WEIGHTS", weights, "SOLVER.MAX_ITER",
    ]  # fmt: skip
    log = _run(call_tool, "train_net", "--config-file", INSTANT, *overrides, 2)
    # The table of the start, and the weights of as many classes as torchvision's.
    assert f"backbone.{case.block}" in log and "classifier of other classes (skipped)" in log
    before, after = torch.load(weights), torch.load(out / "model_final.pth")["model"]
    for ours, theirs in case.kept.items():
        assert torch.equal(after[f"backbone.{ours}"].flatten(), before[theirs].flatten())
    assert not torch.equal(after[f"backbone.{case.trained[0]}"].flatten(), before[case.trained[1]].flatten())

    _run(call_tool, "train_net", "--config-file", INSTANT, "--resume", *overrides, 3)
    config = ["--config-file", out / "config.yaml"]
    assert "copypaste: " in _run(call_tool, "train_net", *config, "--eval-only", "--resume")

    video, model = tmp_path / "val" / "a" / "0.mp4", ["--model", out]
    _run(call_tool, "predict", *model, "--input", video, "--json", tmp_path / "predictions.json")
    text = (tmp_path / "predictions.json").read_text()
    assert '"a"' in text and '"b"' in text
    for layer, channels in case.layers.items():
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
    assert [row["name"] for row in costs["nonlocal_blocks"]] == [f"backbone.{case.block}"]
    _run(call_tool, "pack_model", *model, "--output", tmp_path / "packed")
    _run(call_tool, "predict", "--model", tmp_path / "packed", "--input", video)
    _run(call_tool, "report", out)
