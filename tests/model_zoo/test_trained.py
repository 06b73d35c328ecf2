"""Trained models by name, from a run's folder and from configs, and the class names that travel with them."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nlvideo import model_zoo
from nlvideo.config import load_cfg
from nlvideo.engine import DefaultTrainer
from nlvideo.model_zoo import Predictor

QUICKSTART = Path(model_zoo.trained_folder("quickstart"))
WEIGHTS, CONFIG = str(QUICKSTART / "model.pth"), str(QUICKSTART / "config.yaml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., str]) -> Path:
    """The folder of a run that was trained on ``folder:DIR``; DIR is gone."""
    root = tmp_path_factory.mktemp("run")
    for name in ("wave", "bow"):
        make_video(root / "videos" / name / "a.mp4", num_frames=8, height=40)
    data = f"['folder:{root}/videos']"
    cfg = load_cfg(
        model_zoo.get_config_file("quickstart/instant_test"),
        ["DATASETS.TRAIN", data, "DATASETS.TEST", "[]", "MODEL.HEAD.NUM_CLASSES", "2", "SOLVER.MAX_ITER", "1",
         "SOLVER.STEPS", "[]", "SOLVER.CLIPS_PER_BATCH", "2", "OUTPUT_DIR", str(root / "out")],
    )  # fmt: skip
    DefaultTrainer(cfg).train()
    (root / "out" / "config.yaml").write_text(cfg.dump())
    shutil.rmtree(root / "videos")
    return root / "out"


def weights_of(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_trained_model_has_its_weights_config_and_names() -> None:
    model = model_zoo.get("quickstart", device="cpu")
    stored = torch.load(WEIGHTS, weights_only=True)["model"]
    assert not model.training and all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items())
    assert model.cfg.is_frozen() and model.cfg.MODEL.WEIGHTS == WEIGHTS and model.cfg.MODEL.DEVICE == "cpu"
    assert model.classes[:2] == ["left", "right"]


@pytest.mark.parametrize(
    "what, weights",
    [(CONFIG, WEIGHTS), ("quickstart/i3d_nl", WEIGHTS), (load_cfg(CONFIG, ["MODEL.WEIGHTS", WEIGHTS]), None),
     (str(QUICKSTART), None), (QUICKSTART, None)],
    ids=["file", "name", "config", "folder", "path"],
)  # fmt: skip
def test_other_ways_to_say_the_same(what: object, weights: str | None) -> None:
    model = model_zoo.get(what, weights, opts=["MODEL.DEVICE", "cpu"])
    assert torch.equal(weights_of(model), weights_of(model_zoo.get("quickstart", device="cpu")))


def test_overrides_come_before_weights_and_device() -> None:
    opts = ["TEST.NUM_CLIPS", "3", "MODEL.WEIGHTS", "elsewhere.pth", "MODEL.DEVICE", "cuda:7"]
    cfg = model_zoo.trained_config(load_cfg(CONFIG), WEIGHTS, "cpu", opts)
    assert (cfg.TEST.NUM_CLIPS, cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE) == (3, WEIGHTS, "cpu") and cfg.is_frozen()


def test_a_recipe_is_random_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """What MODEL.WEIGHTS of the repository's configs name is where training starts, and is not loaded."""
    with caplog.at_level(logging.WARNING):
        model = model_zoo.get("quickstart/i3d_nl", opts=["MODEL.DEVICE", "cpu", "MODEL.HEAD.NUM_CLASSES", "10"])
    assert "No weights for quickstart/i3d_nl: random ones" in caplog.text and not model.training
    assert model.classes == [*torch.load(WEIGHTS, weights_only=True)["classes"], "8", "9"]
    assert model_zoo.trained_config("kinetics/i3d_r101_32x2").MODEL.WEIGHTS == ""
    assert model_zoo.get_config("kinetics/i3d_r101_32x2").MODEL.WEIGHTS == "torchvision://resnet101"


@pytest.mark.parametrize(
    "opts, message",
    [
        (
            ["MODEL.HEAD.NUM_CLASSES", "5"],
            r"shapes: head.classifier.weight \(file \(8, 128\), model \(5, 128\)\), head.class",
        ),
        (["MODEL.NONLOCAL.ENABLED", "False"], "only in the file: backbone.res2.nl0.g.weight, .* and . more"),
        (["MODEL.NONLOCAL.BLOCKS", "[res3.0]"], "only in the model: backbone.res3.nl0.g.weight, .* and . more"),
        (["MODEL.BACKBONE.TEMPORAL", "c2d"], r"other shapes: backbone.stem.conv.weight \(file "),
        (
            ["MODEL.BACKBONE.WIDTH", "0.5"],
            r"other shapes: backbone.stem.conv.weight \(file \(16, 3, 3, 3, 3\), model \(32, ",
        ),
    ],
)
def test_weights_of_another_network_are_refused(opts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        model_zoo.get(CONFIG, WEIGHTS, "cpu", opts)
    assert "model.pth" in str(error.value) and "\n" not in str(error.value)


def test_what_does_not_exist_is_said_in_one_line(tmp_path: Path) -> None:
    mistakes = [
        ("quickstrat", None, KeyError, r"unknown model 'quickstrat': did you mean 'quickstart'\?$"),
        ("quickstart/i3d_ln", None, KeyError, "unknown config 'quickstart/i3d_ln': did you mean 'quickstart/i3d_nl'"),
        ("zzz", None, KeyError, "unknown config 'zzz': no name is close. No folder here"),
        (str(tmp_path), None, FileNotFoundError, "is not the folder of a run: there is no"),
        ("nowhere/config.yaml", None, FileNotFoundError, "no config file 'nowhere/config.yaml'"),
        ("quickstart", str(tmp_path / "none.pth"), FileNotFoundError, "no checkpoint .*none.pth"),
        ("quickstart", CONFIG, ValueError, "config.yaml: no file of weights"),
    ]
    for what, weights, error, message in mistakes:
        with pytest.raises(error, match=message):
            model_zoo.get(what, weights, "cpu")
    (tmp_path / "config.yaml").write_text(Path(CONFIG).read_text())
    with pytest.raises(FileNotFoundError, match="holds no weights: neither last_checkpoint nor model_final.pth"):
        model_zoo.get(str(tmp_path))
    with pytest.raises(KeyError, match="unknown trained model 'c2d'. There are: quickstart"):
        model_zoo.trained_folder("c2d")


def test_the_names_of_a_folder_travel_with_the_checkpoint(run: Path, tmp_path: Path, monkeypatch) -> None:
    forget_datasets(monkeypatch)
    assert Predictor(run).classes == ["bow", "wave"]
    moved = shutil.copy(run / "model_final.pth", tmp_path / "mine.pth")
    assert Predictor(run / "config.yaml", moved).classes == ["bow", "wave"]
    # The config that was typed, whose number of classes the data decided.
    predictor = Predictor(run / "config.yaml", moved, opts=["MODEL.HEAD.NUM_CLASSES", "0"])
    assert predictor.classes == ["bow", "wave"] and predictor.cfg.MODEL.HEAD.NUM_CLASSES == 2 == len(
        predictor.scores(torch.zeros(8, 40, 40, 3, dtype=torch.uint8))
    )


def test_names_of_old_checkpoints(run: Path, tmp_path: Path, monkeypatch) -> None:
    """``classes.txt`` beside the weights, else the training data, else numbers."""
    forget_datasets(monkeypatch)
    content = torch.load(run / "model_final.pth", weights_only=True)
    assert content.pop("classes") == ["bow", "wave"]
    torch.save(content, tmp_path / "old.pth")
    predictor = Predictor(run / "config.yaml", tmp_path / "old.pth")
    assert predictor.classes == ["0", "1"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/classes.txt").write_text("no\nyes\n")
    opts = ["DATASETS.TRAIN", f"['list:{tmp_path}/data/train.csv']"]
    assert Predictor(run / "config.yaml", tmp_path / "old.pth", opts=opts).classes == ["no", "yes"]
    (tmp_path / "classes.txt").write_text("left\nright\n")
    assert Predictor(run / "config.yaml", tmp_path / "old.pth", opts=opts).classes == ["left", "right"]
    (tmp_path / "classes.txt").write_text("too\nmany\nnames\n")
    assert Predictor(run / "config.yaml", tmp_path / "old.pth", opts=opts).classes == ["no", "yes"]


def test_the_folder_of_a_run_stands_for_its_last_checkpoint(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "moved"))
    predictor = Predictor(folder)
    assert predictor.cfg.MODEL.WEIGHTS == str(folder / "model_final.pth") and predictor.cfg.OUTPUT_DIR == str(folder)
    shutil.copy(folder / "model_final.pth", folder / "model_0000007.pth")
    (folder / "last_checkpoint").write_text("model_0000007.pth\n")
    assert Predictor(folder).cfg.MODEL.WEIGHTS == str(folder / "model_0000007.pth")
    (folder / "last_checkpoint").unlink()
    assert Predictor(folder).cfg.MODEL.WEIGHTS == str(folder / "model_final.pth")


def forget_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in another process: what training has noted about its data is not there."""
    from nlvideo.data import MetadataCatalog

    monkeypatch.setattr(MetadataCatalog, "_metadata", {})


def test_the_best_checkpoint_of_a_run_has_a_name(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    with pytest.raises(
        FileNotFoundError, match=f"weights: got 'best', but '{folder}' .OUTPUT_DIR. has no model_best.pth"
    ):
        model_zoo.get(folder, "best")
    content = torch.load(folder / "model_final.pth", weights_only=True)
    content["model"]["head.classifier.bias"] += 1
    torch.save(content, folder / "model_best.pth")
    expected = weights_of(model_zoo.get(folder, folder / "model_best.pth"))
    assert not torch.equal(expected, weights_of(model_zoo.get(folder)))
    # As an argument, as an override, and where the weights say how many classes there are.
    for asked in ({"weights": "best"}, {"opts": ["MODEL.WEIGHTS", "best"]},
                  {"weights": "best", "opts": ["MODEL.HEAD.NUM_CLASSES", "0"]}):  # fmt: skip
        assert torch.equal(weights_of(model_zoo.get(folder, **asked)), expected)


def test_a_folder_runs_no_code_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine" / "plugin_of_a_folder").mkdir(parents=True)
    code = f"open({str(tmp_path / 'was_run')!r}, 'w').close()\n"
    (tmp_path / "mine" / "plugin_of_a_folder" / "__init__.py").write_text(code)
    config = tmp_path / "mine" / "config.yaml"
    config.write_text(f"{Path(CONFIG).read_text()}\nPLUGINS: [./plugin_of_a_folder]\n")
    for model in (config.parent, config):
        with pytest.raises(ValueError, match="asks for the plugin .*which comes with its folder"):
            Predictor(model, WEIGHTS)
    assert not (tmp_path / "was_run").exists()
    assert Predictor(config, WEIGHTS, plugins=[str(config.parent / "plugin_of_a_folder")]).classes
    assert (tmp_path / "was_run").exists()


def test_an_entry_of_a_file_can_be_asked_for(tmp_path: Path) -> None:
    model = torch.load(WEIGHTS, weights_only=True)["model"]
    average = {name: torch.full_like(tensor, 2) for name, tensor in model.items()}
    torch.save({"model": model, "average": average}, tmp_path / "both.pth")
    usual = model_zoo.get("quickstart", tmp_path / "both.pth", "cpu").state_dict()
    asked = Predictor("quickstart", tmp_path / "both.pth", "cpu", entry="average").model.state_dict()
    assert torch.equal(usual["head.classifier.bias"], model["head.classifier.bias"])
    assert asked["head.classifier.bias"].eq(2).all()
