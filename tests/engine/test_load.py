"""Models for use after training."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nlvideo.checkpoint import Checkpointer
from nlvideo.config import CfgNode
from nlvideo.data import VideoDecodeError
from nlvideo.engine.defaults import DefaultTrainer
from nlvideo.engine.predictor import DefaultPredictor, load_model_for_test
from nlvideo.modeling import build_model
from nlvideo.solver import ModelEma


@pytest.fixture
def weights(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> str:
    """A checkpoint with a moving average that differs from the model."""
    torch.manual_seed(0)
    model = build_model(tiny_cfg())
    ema = ModelEma(model, 0.5)
    ema.update()
    torch.nn.init.constant_(model.head.classifier.bias, 1.0)
    return Checkpointer(model, str(tmp_path), ema=ema).save("weights")


def _bias(model: torch.nn.Module) -> float:
    return model.head.classifier.bias.mean().item()


def test_predictor_gives_the_scores_of_the_test(
    tiny_cfg: Callable[..., CfgNode], weights: str, video_lists: tuple[str, str]
) -> None:
    cfg = tiny_cfg("MODEL.WEIGHTS", weights)
    predictor = DefaultPredictor(cfg)
    expected = {}
    for videos in DefaultTrainer.build_test_loader(cfg, video_lists[1]):
        with torch.no_grad():
            expected |= {output["video_id"]: output["scores"] for output in predictor.model(videos)}
    lines = Path(video_lists[1].removeprefix("list:")).read_text().splitlines()
    for path, (_, scores) in zip([line.split()[0] for line in lines], sorted(expected.items()), strict=True):
        predicted = predictor(path)
        assert predicted.shape == (4,) and predicted.dtype == torch.float32 and not predicted.requires_grad
        assert predicted.sum().item() == pytest.approx(1, abs=1e-5)
        assert torch.equal(predicted, scores)


def test_predictor_of_several_labels(
    tiny_cfg: Callable[..., CfgNode], weights: str, video_lists: tuple[str, str]
) -> None:
    predictor = DefaultPredictor(tiny_cfg("MODEL.WEIGHTS", weights, "MODEL.HEAD.LOSS", "sigmoid"))
    scores = predictor(Path(video_lists[1].removeprefix("list:")).read_text().split()[0])
    assert scores.shape == (4,) and all(0 < score < 1 for score in scores.tolist())


def test_a_broken_video_says_so(tiny_cfg: Callable[..., CfgNode], weights: str, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(VideoDecodeError, match="broken.mp4"):
        DefaultPredictor(tiny_cfg("MODEL.WEIGHTS", weights))(str(tmp_path / "broken.mp4"))


def test_weights_are_needed(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MODEL.WEIGHTS: got '', allowed for a test: a checkpoint, or --resume"):
        DefaultPredictor(tiny_cfg())
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        DefaultPredictor(tiny_cfg("MODEL.WEIGHTS", str(tmp_path / "nowhere.pth")))


def test_the_average_is_tested_where_there_is_one(
    tiny_cfg: Callable[..., CfgNode], weights: str, tmp_path: Path
) -> None:
    opts = ("MODEL.WEIGHTS", weights)
    model = load_model_for_test(tiny_cfg(*opts))
    assert math.isclose(_bias(model), 1.0) and not model.training
    assert _bias(load_model_for_test(tiny_cfg(*opts, "SOLVER.EMA.ENABLED", "True"))) == 0.0
    plain = Checkpointer(model, str(tmp_path / "plain")).save("weights")
    model = load_model_for_test(tiny_cfg("MODEL.WEIGHTS", plain, "SOLVER.EMA.ENABLED", "True"))
    assert math.isclose(_bias(model), 1.0)


def test_resume_prefers_the_last_checkpoint(tiny_cfg: Callable[..., CfgNode], weights: str) -> None:
    cfg = tiny_cfg("MODEL.WEIGHTS", weights)
    assert math.isclose(_bias(load_model_for_test(cfg, resume=True)), 1.0)
    model = build_model(cfg)
    torch.nn.init.constant_(model.head.classifier.bias, 2.0)
    Checkpointer(model, cfg.OUTPUT_DIR).save("model_0000001")
    assert math.isclose(_bias(load_model_for_test(cfg, resume=True)), 2.0)
    assert math.isclose(_bias(load_model_for_test(cfg, resume=False)), 1.0)
