"""Models for use after training."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nlvideo.checkpoint import Checkpointer, load_model_for_test, trained
from nlvideo.checkpoint.trained import load_trained_model, with_classes_of
from nlvideo.config import CfgNode, load_cfg
from nlvideo.modeling import build_model
from nlvideo.solver import ModelEma


@pytest.fixture
def tiny_cfg(tmp_path: Path) -> Callable[..., CfgNode]:
    """``tiny_cfg("KEY", "VALUE", ...) -> cfg``: a small network, with further overrides."""
    opts = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.DEPTH", "18", "MODEL.BACKBONE.WIDTH", "0.125",
            "MODEL.BACKBONE.STEM", "small", "MODEL.HEAD.NUM_CLASSES", "4", "OUTPUT_DIR", f"{tmp_path}/out"]  # fmt: skip
    return lambda *more: load_cfg(None, [*opts, *more])


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


def test_weights_are_needed(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MODEL.WEIGHTS: got '', allowed for a test: a checkpoint, or --resume"):
        load_model_for_test(tiny_cfg())
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_model_for_test(tiny_cfg("MODEL.WEIGHTS", str(tmp_path / "nowhere.pth")))


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


@pytest.mark.parametrize(
    "other",
    [("MODEL.BACKBONE.TEMPORAL", "i3d_3x3x3"), ("MODEL.HEAD.NUM_CLASSES", "5"), ("MODEL.NONLOCAL.ENABLED", "True")],
)
def test_a_test_needs_every_tensor(tiny_cfg: Callable[..., CfgNode], weights: str, other: tuple[str, str]) -> None:
    """A training may start with the weights. A test would be of a network that is partly random."""
    with pytest.raises(ValueError, match="weights.pth is of another network than the config's: "):
        load_model_for_test(tiny_cfg("MODEL.WEIGHTS", weights, *other))


def test_resume_prefers_the_last_checkpoint(tiny_cfg: Callable[..., CfgNode], weights: str) -> None:
    cfg = tiny_cfg("MODEL.WEIGHTS", weights)
    assert math.isclose(_bias(load_model_for_test(cfg, resume=True)), 1.0)
    model = build_model(cfg)
    torch.nn.init.constant_(model.head.classifier.bias, 2.0)
    Checkpointer(model, cfg.OUTPUT_DIR).save("model_0000001")
    assert math.isclose(_bias(load_model_for_test(cfg, resume=True)), 2.0)
    assert math.isclose(_bias(load_model_for_test(cfg, resume=False)), 1.0)


def test_a_file_is_read_once(tiny_cfg: Callable[..., CfgNode], weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights, its moving average and the names of its classes come from one reading."""
    read, paths = trained.read_file, []
    monkeypatch.setattr(trained, "read_file", lambda path: (paths.append(path), read(path))[1])
    cfg = tiny_cfg("MODEL.WEIGHTS", weights, "SOLVER.EMA.ENABLED", "True")
    assert _bias(load_model_for_test(cfg)) == 0.0
    assert load_trained_model(cfg, weights)[1] == ["0", "1", "2", "3"]
    assert paths == [weights, weights]


def test_a_test_has_the_classes_of_the_model(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    path = Checkpointer(build_model(tiny_cfg()), str(tmp_path)).save("weights", classes=["run", "sit", "walk"])
    for class_name in ("run", "walk"):
        (tmp_path / "test" / class_name).mkdir(parents=True)
        (tmp_path / "test" / class_name / "a.mp4").touch()
    cfg = tiny_cfg("MODEL.WEIGHTS", path, "DATASETS.TEST", [f"folder:{tmp_path}/test"])
    with pytest.raises(
        ValueError, match="DATASETS.TEST: folder:.*/test: class 1 is 'walk', but 'sit' in .*weights.pth"
    ) as caught:
        load_model_for_test(cfg)
    assert "\n" not in str(caught.value)
    (tmp_path / "test/sit").mkdir()
    (tmp_path / "test/sit/a.mp4").touch()
    load_model_for_test(cfg)


def test_weights_know_their_number_of_classes(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    ours = Checkpointer(build_model(tiny_cfg()), str(tmp_path)).save("weights")
    cfg = tiny_cfg("MODEL.HEAD.NUM_CLASSES", "0")
    assert with_classes_of(cfg, ours) == tiny_cfg() and with_classes_of(tiny_cfg(), ours) == tiny_cfg()
    assert with_classes_of(cfg, "").MODEL.HEAD.NUM_CLASSES == 0
    # A head of a project: the names tell, or the user.
    content = {"model": {"backbone.stem.conv.weight": torch.zeros(8, 3, 1, 3, 3), "head.own": torch.zeros(3, 2)}}
    other = str(tmp_path / "other.pth")
    torch.save({**content, "classes": ["a", "b", "c"]}, other)
    assert with_classes_of(cfg, other).MODEL.HEAD.NUM_CLASSES == 3
    torch.save(content, other)
    with pytest.raises(ValueError, match="MODEL.HEAD.NUM_CLASSES: got 0, and .*other.pth has no head.classifier.weig"):
        with_classes_of(cfg, other)


def test_numbers_in_place_of_names_are_said_once(
    tiny_cfg: Callable[..., CfgNode], weights: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nlvideo.utils.console._seen", set())
    for _ in range(2):
        assert load_trained_model(tiny_cfg(), weights)[1] == ["0", "1", "2", "3"]
    Path(weights).with_name("classes.txt").write_text("a\nb\nc\nd\n")
    assert load_trained_model(tiny_cfg(), weights)[1] == ["a", "b", "c", "d"]
    said = [record.message for record in caplog.records if "no names" in record.message]
    assert said == [
        "The 4 classes have numbers but no names. To name them, put a classes.txt beside the weights: a name a line,"
        " in the order of the labels"
    ]
