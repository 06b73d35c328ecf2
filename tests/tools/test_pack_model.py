"""tools/pack_model.py: what a folder holds that is handed on, and that it means the same model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nlvideo.checkpoint import Checkpointer
from nlvideo.checkpoint.plain import save_weights
from nlvideo.config import CfgNode, get_cfg, load_cfg
from nlvideo.model_zoo import Predictor, get_config_file
from nlvideo.model_zoo.pack import pack_model
from nlvideo.modeling import build_model
from nlvideo.modeling.meta_arch import META_ARCH


@pytest.fixture()
def run(tmp_path: Path) -> Path:
    """The folder of a run with an optimizer's state, a moving average and settings of its machine."""
    folder = tmp_path / "run"
    opts = ["OUTPUT_DIR", str(folder), "MODEL.DEVICE", "cpu", "SOLVER.EMA.ENABLED", "True", "SEED", "3"]
    cfg = load_cfg(get_config_file("quickstart/instant_test"), [*opts, "MODEL.HEAD.NUM_CLASSES", "3"])
    model = build_model(cfg)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    averaged = {name: tensor + 0.25 for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    Checkpointer(model, str(folder), optimizer=optimizer).save(
        "model_final", ema={**model.state_dict(), **averaged}, classes=["a b", "c", "d"]
    )
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


def test_the_folder_means_the_same_model(call_tool: Callable, run: Path, tmp_path: Path) -> None:
    packed = tmp_path / "new" / "packed"
    status, out, err = call_tool("pack_model", "--model", str(run), "--output", str(packed))
    assert status == 0 and out.startswith(f"{packed}: 3 classes, weights of "), err
    assert {path.name for path in packed.iterdir()} == {"model.pth", "config.yaml", "classes.txt"}
    assert (packed / "classes.txt").read_text() == "a b\nc\nd\n"
    content = torch.load(packed / "model.pth", weights_only=True)
    assert content.keys() == {"model", "classes"}
    before, after = (Predictor(folder, device="cpu") for folder in (run, packed))
    clip = np.random.default_rng(0).integers(0, 256, (9, 70, 80, 3), np.uint8)
    assert torch.equal(before.scores(clip), after.scores(clip)) and before.classes == after.classes
    # The averaged weights, not the last ones.
    last = torch.load(run / "model_final.pth", weights_only=True)["model"]
    assert all(not torch.equal(content["model"][name], last[name]) for name in last if name.endswith(".conv.weight"))
    different = [key for key in after.cfg.keys_with_path() if after.cfg.value_at(key) != before.cfg.value_at(key)]
    assert set(different) == {"MODEL.WEIGHTS", "OUTPUT_DIR"}
    text = (packed / "config.yaml").read_text()
    assert str(run) not in text and "DEVICE" not in text and "WEIGHTS" not in text and "SEED: 3" in text


def test_a_copy_with_folded_norms_is_refused(run: Path, tmp_path: Path) -> None:
    """The folder would hold a model that does not load."""
    predictor = Predictor(run, device="cpu")
    with pytest.raises(ValueError, match=r"model: not the one that cfg builds .*bn.*allowed: model_zoo.get's"):
        pack_model(predictor.model, predictor.cfg, predictor.classes, str(tmp_path / "packed"))
    assert not (tmp_path / "packed").exists()


def test_a_model_of_another_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs none of the methods of ours."""

    class Own(nn.Linear):
        """A model of a project."""

        def __init__(self, cfg: CfgNode):
            super().__init__(2, 2)

    monkeypatch.setitem(META_ARCH._objects, "Own", Own)
    cfg = get_cfg().with_overrides(["MODEL.META_ARCHITECTURE", "Own"])
    assert torch.load(pack_model(Own(cfg), cfg, ["a", "b"], str(tmp_path)), weights_only=True)["classes"] == ["a", "b"]


def test_nothing_is_replaced_unasked(call_tool: Callable, run: Path, tmp_path: Path) -> None:
    arguments = ["--model", str(run), "--output", str(tmp_path)]
    (tmp_path / "classes.txt").write_text("mine\n")
    status, _, err = call_tool("pack_model", *arguments)
    assert status == 2 and "classes.txt exists; --overwrite replaces it" in err and err.count("\n") == 1
    assert (tmp_path / "classes.txt").read_text() == "mine\n" and not (tmp_path / "model.pth").exists()
    assert call_tool("pack_model", *arguments, "--overwrite")[0] == 0
    assert (tmp_path / "classes.txt").read_text() == "a b\nc\nd\n"


def test_without_weights_there_is_nothing_to_pack(call_tool: Callable, tmp_path: Path) -> None:
    config = get_config_file("quickstart/c2d")
    status, _, err = call_tool("pack_model", "--config-file", config, "--output", str(tmp_path / "out"))
    assert status == 2 and "MODEL.WEIGHTS: got ''" in err and not (tmp_path / "out").exists()


def test_a_file_of_safetensors_has_all_of_it(call_tool: Callable, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    packed = tmp_path / "new" / "mine.safetensors"
    status, out, err = call_tool("pack_model", "--model", str(run), "--output", str(packed))
    assert status == 0 and out.startswith(f"{packed}: 3 classes, weights of "), err
    assert list(packed.parent.iterdir()) == [packed]
    before, after = (Predictor(model, device="cpu") for model in (run, packed))
    clip = np.random.default_rng(0).integers(0, 256, (9, 70, 80, 3), np.uint8)
    assert torch.equal(before.scores(clip), after.scores(clip)) and after.classes == ["a b", "c", "d"]
    # Weights for another config, and not only a model.
    cfg = before.cfg.with_overrides(["MODEL.WEIGHTS", str(packed)])
    assert torch.equal(Predictor(cfg).scores(clip), after.scores(clip))


def test_the_config_of_safetensors_may_lie_beside_them(run: Path, tmp_path: Path) -> None:
    """The file is of another program: it has neither config nor classes."""
    safetensors = pytest.importorskip("safetensors.torch")
    weights = tmp_path / "w.safetensors"
    averaged = torch.load(run / "model_final.pth", weights_only=True)["ema"]
    safetensors.save_file({name: tensor.contiguous() for name, tensor in averaged.items()}, weights)
    with pytest.raises(
        FileNotFoundError, match="w.safetensors has no config in its metadata, .* w.yaml or config.yaml"
    ):
        Predictor(weights)
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    (tmp_path / "classes.txt").write_text("x\ny\nz\n")
    clip = np.random.default_rng(0).integers(0, 256, (9, 70, 80, 3), np.uint8)
    predictor = Predictor(weights)
    assert torch.equal(predictor.scores(clip), Predictor(run).scores(clip)) and predictor.classes == ["x", "y", "z"]


def test_a_config_in_a_file_imports_no_plugin(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "__init__.py").write_text("raise SystemExit('imported')")
    for spec in ("../evil", "./evil"):
        save_weights(str(tmp_path / "w.safetensors"), {"a": torch.ones(1)}, config=f"PLUGINS: [{spec}]\n")
        with pytest.raises(ValueError, match="asks for the plugin .* which comes with its folder"):
            Predictor(tmp_path / "w.safetensors")
