"""Conversion of whole files: what is written, what is refused, and the script around it."""

import pickle
import re
import sys
import types
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from nlvideo.checkpoint import read_file
from nlvideo.checkpoint.conversion import Conversion, convert_checkpoint, differences, write_conversion, write_export
from nlvideo.checkpoint.convert import SOURCES, Converted
from nlvideo.config import load_cfg
from nlvideo.modeling import META_ARCH

ROOT = Path(__file__).resolve().parents[2]


def image_blobs(base=8, classes=10):
    """A narrow ResNet-50 of images in Detectron's form, all ones."""
    shapes = {"conv1_w": (base, 3, 7, 7), "res_conv1_bn_s": (base,), "res_conv1_bn_b": (base,)}
    first = base
    for stage, count in zip((2, 3, 4, 5), (3, 4, 6, 3)):
        inner = base * 2 ** (stage - 2)
        for index in range(count):
            name, incoming = f"res{stage}_{index}", first if index == 0 else 4 * inner
            layers = {"branch2a": (inner, incoming, 1, 1), "branch2b": (inner, inner, 3, 3)}
            layers |= {"branch2c": (4 * inner, inner, 1, 1)}
            layers |= {"branch1": (4 * inner, first, 1, 1)} if index == 0 else {}
            for layer, shape in layers.items():
                shapes[f"{name}_{layer}_w"] = shape
                shapes |= {f"{name}_{layer}_bn_s": shape[:1], f"{name}_{layer}_bn_b": shape[:1]}
        first = 4 * inner
    shapes |= {"fc1000_w": (classes, first), "fc1000_b": (classes,)}
    return {name: torch.ones(shape).numpy() for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def msra(tmp_path_factory):
    """That network in a file, with a rate and a momentum besides."""
    path = tmp_path_factory.mktemp("msra") / "R-50.pkl"
    blobs = {**image_blobs(), "lr": 0.1, "pred_w_momentum": torch.ones(2).numpy()}
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    return str(path)


@pytest.fixture()
def tool(call_tool):
    """``tool(*arguments) -> (exit code, output, errors)``."""
    return partial(call_tool, "convert_checkpoint")


def test_the_script_writes_weights_and_config(tool, msra, tmp_path):
    out = tmp_path / "new" / "r50.pth"
    # Flags and overrides in any order.
    status, text, errors = tool(msra, str(out), "--from", "detectron", "INPUT.NUM_FRAMES", "8")
    assert status == 0, errors
    assert "weights of detectron: 161 tensors taken over, 1 dropped" in text
    assert re.search(r"backbone.res2 +\d+ +res2_0_branch2a_w", text) and "head.classifier" in text
    assert "momentum of the optimizer" in text and "turned from blue, green, red" in text
    assert f"tools/test_net.py --config-file {tmp_path}/new/r50.yaml MODEL.WEIGHTS {out}" in text
    content = read_file(str(out))
    assert set(content) == {"model", "converted_from"} and content["converted_from"]["source"] == "detectron"
    assert content["converted_from"]["file"] == "R-50.pkl"
    lines = out.with_suffix(".yaml").read_text().splitlines()
    assert lines[0] == "# The network of the weights r50.pth, converted from detectron's R-50.pkl."
    assert yaml.safe_load("\n".join(lines)) == {
        "MODEL": {
            "PIXEL_MEAN": [122.7717, 115.9465, 102.9801],
            "PIXEL_STD": [1.0, 1.0, 1.0],
            "NORM": "FrozenBN",
            "BACKBONE": {"WIDTH": 0.125, "STRIDE_IN_1X1": True},
            "HEAD": {"NUM_CLASSES": 10},
        },
        "INPUT": {"NUM_FRAMES": 8},
    }
    assert load_cfg(str(out.with_suffix(".yaml"))).MODEL.BACKBONE.STRIDE_IN_1X1 is True


def test_nothing_is_overwritten_silently(tool, msra, tmp_path):
    out = tmp_path / "r50.pth"
    out.with_suffix(".yaml").write_text("mine")
    status, text, errors = tool(msra, str(out))
    assert (status, text) == (2, "") and f"{tmp_path}/r50.yaml exists; --overwrite replaces it" in errors
    assert out.with_suffix(".yaml").read_text() == "mine" and not out.exists()
    assert tool(msra, str(out), "--overwrite")[0] == 0 and out.exists()
    assert out.with_suffix(".yaml").read_text() != "mine"


@pytest.mark.parametrize(
    ("out", "arguments", "message"),
    [
        ("a.yaml", [], "a.yaml: the ending .yaml is for the config; give the weights another"),
        ("a.pth", ["MODEL.BACKBONE.STRIDE_IN_1X1", "False"], "MODEL.BACKBONE.STRIDE_IN_1X1: file True, config False"),
        ("a.pth", ["MODEL.BACKBON.DEPTH", "50"], "unknown key 'MODEL.BACKBON.DEPTH'"),
        ("a.pth", ["--from", "torchvision"], "R-50.pkl: torchvision: cannot express conv1_w (8, 3, 7, 7): our ResNets"),
        ("a.pth", ["--from", "caffe2"], "R-50.pkl is of another network than the config's"),
    ],
)
def test_mistakes_are_one_line(tool, msra, tmp_path, out, arguments, message):
    if "caffe2" in arguments:
        # The same names, the other source: what is asked for is done, and only the given settings can contradict.
        arguments = [*arguments, "MODEL.BACKBONE.STRIDE_IN_1X1", "True"]
    status, text, errors = tool(msra, str(tmp_path / out), *arguments)
    assert (status, text, errors.count("\n")) == (2, "", 1) and message in errors
    assert list(tmp_path.iterdir()) == []


def test_what_a_file_leaves_open_must_be_said(tool, msra, tmp_path, monkeypatch):
    from nlvideo.checkpoint import conversion

    def undecided(content, path, names, source, entry):
        """As the authors' files, which do not say which of two stems they are for."""
        converted = original(content, path, names, source, entry)
        converted.undecided["MODEL.BACKBONE.STEM"] = ["authors_32x2", "authors_8x8"]
        converted.source = "caffe2"
        return converted

    original = conversion.find_weights
    monkeypatch.setattr(conversion, "find_weights", undecided)
    status, _, errors = tool(msra, str(tmp_path / "a.pth"))
    assert status == 2 and "add to the command line: MODEL.BACKBONE.STEM authors_32x2 or authors_8x8" in errors
    status, _, errors = tool(msra, str(tmp_path / "a.pth"), "MODEL.BACKBONE.STEM", "paper")
    assert status == 2 and "STEM: got 'paper', the file can mean 'authors_32x2' or 'authors_8x8'" in errors
    assert tool(msra, str(tmp_path / "a.pth"), "MODEL.BACKBONE.STEM", "authors_8x8")[0] == 0
    content = read_file(str(tmp_path / "a.pth"))
    assert content["converted_from"]["overrides"]["MODEL.BACKBONE.STEM"] == "authors_8x8"
    # The clip goes with the stem, unless another is given.
    config = (tmp_path / "a.yaml").read_text()
    assert yaml.safe_load(config)["INPUT"] == {"NUM_FRAMES": 8, "FRAME_STRIDE": 8}
    opts = ["MODEL.BACKBONE.STEM", "authors_8x8", "INPUT.NUM_FRAMES", "4"]
    assert tool(msra, str(tmp_path / "a.pth"), "--overwrite", *opts)[0] == 0
    assert yaml.safe_load((tmp_path / "a.yaml").read_text())["INPUT"] == {"NUM_FRAMES": 4, "FRAME_STRIDE": 8}


def test_what_changes_nothing_is_not_asked_for(tool, msra, tmp_path, monkeypatch):
    """The scale of a dot product."""
    from nlvideo.checkpoint import conversion

    def undecided(content, path, names, source, entry):
        converted = original(content, path, names, source, entry)
        converted.undecided |= {"MODEL.NONLOCAL.PAIRWISE": ["dot_product", "gaussian"], "MODEL.NONLOCAL.SCALE": [False]}
        return converted

    original = conversion.find_weights
    monkeypatch.setattr(conversion, "find_weights", undecided)
    status, _, errors = tool(msra, str(tmp_path / "a.pth"), "MODEL.NONLOCAL.PAIRWISE", "gaussian")
    assert status == 2 and errors.endswith("add to the command line: MODEL.NONLOCAL.SCALE False\n")
    assert tool(msra, str(tmp_path / "a.pth"), "MODEL.NONLOCAL.PAIRWISE", "dot_product")[0] == 0


def test_the_script_offers_every_source():
    text = (ROOT / "tools/convert_checkpoint.py").read_text()
    assert all(f'"{name}"' in text.split("SOURCES = (")[1].split(")")[0] for name in SOURCES)


def test_a_missing_file(tool, tmp_path):
    status, _, errors = tool("nowhere.pkl", str(tmp_path / "a.pth"))
    assert status == 2 and "no checkpoint nowhere.pkl" in errors


def test_our_own_files_have_nothing_to_convert(tool, tmp_path):
    cfg_file = tmp_path / "config.yaml"
    cfg_file.write_text("MODEL:\n  BACKBONE: {DEPTH: 10, WIDTH: 0.125}\n")
    model = META_ARCH.get("VideoClassifier")(load_cfg(str(cfg_file)))
    torch.save({"model": model.state_dict(), "iteration": 3}, tmp_path / "ours.pth")
    status, _, errors = tool(str(tmp_path / "ours.pth"), str(tmp_path / "a.pth"))
    assert status == 2 and "name its config with --config-file" in errors
    status, _, errors = tool(str(tmp_path / "ours.pth"), str(tmp_path / "a.pth"), "--config-file", str(cfg_file))
    assert status == 2 and "is a checkpoint of nlvideo already; --to writes a file of another framework" in errors
    conversion = convert_checkpoint(str(tmp_path / "ours.pth"), config_file=str(cfg_file))
    assert conversion.converted.source == "nlvideo" and conversion.cfg.MODEL.BACKBONE.DEPTH == 10


def test_keys_of_a_project_may_be_overridden(tmp_path):
    package = tmp_path / "converted_project"
    package.mkdir()
    (package / "__init__.py").write_text("def add_config(cfg):\n    cfg.MODEL.CONVERTED = 1\n")
    cfg_file = tmp_path / "own.yaml"
    cfg_file.write_text("PLUGINS: [./converted_project]\nMODEL:\n  BACKBONE: {DEPTH: 10, WIDTH: 0.125}\n")
    model = META_ARCH.get("VideoClassifier")(load_cfg(str(cfg_file)))
    torch.save({"model": model.state_dict()}, tmp_path / "ours.pth")
    opts = ["MODEL.CONVERTED", "2"]
    conversion = convert_checkpoint(str(tmp_path / "ours.pth"), opts=opts, config_file=str(cfg_file))
    assert conversion.cfg.MODEL.CONVERTED == 2


@pytest.fixture()
def fake_export(monkeypatch):
    """In place of the exporter: records its arguments, and renames."""
    calls = []

    def export_weights(weights, cfg, to):
        """Prefix every name."""
        calls.append((weights, cfg, to))
        return {f"{to}.{name}": tensor for name, tensor in weights.items()}

    module = types.ModuleType("nlvideo.checkpoint.convert.export")
    module.export_weights = export_weights
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


@pytest.mark.parametrize(
    ("to", "wrapper"), [("pyslowfast", "model_state"), ("mmaction2", "state_dict"), ("pytorchvideo", "model_state")]
)
def test_export_writes_the_form_of_the_other_framework(tool, msra, fake_export, tmp_path, to, wrapper):
    out = tmp_path / "theirs.pyth"
    status, text, errors = tool(msra, str(out), "--to", to)
    assert status == 0 and f"Wrote {out} for {to}" in text, errors
    ((weights, cfg, given),) = fake_export
    assert given == to and cfg.MODEL.BACKBONE.STRIDE_IN_1X1 is True
    # Kernels of images have got their time axis by now.
    assert weights["backbone.stem.conv.weight"].shape == (8, 3, 1, 7, 7)
    content = read_file(str(out))
    assert f"{to}.backbone.stem.conv.weight" in content[wrapper] and list(tmp_path.iterdir()) == [out]
    assert tool(msra, str(out), "--to", to)[0] == 2


def test_a_converted_file_carries_its_network_on(msra, fake_export, tmp_path):
    """From the other framework to ours and on to a third, with no config named."""
    write_conversion(convert_checkpoint(msra), str(tmp_path / "ours.pth"))
    again = convert_checkpoint(str(tmp_path / "ours.pth"))
    assert again.converted.source == "nlvideo" and again.cfg.MODEL.BACKBONE.STRIDE_IN_1X1 is True
    write_export(again, str(tmp_path / "theirs.pth"), "mmaction2")
    assert fake_export[0][1].MODEL.NORM == "FrozenBN"


def test_differences_are_a_tree():
    cfg = load_cfg(None, ["MODEL.NONLOCAL.ENABLED", "True", "MODEL.NONLOCAL.SCALE", "True", "SEED", "3"])
    assert differences(cfg) == {"SEED": 3, "MODEL": {"NONLOCAL": {"ENABLED": True}}}


def test_a_report_without_drops_does_not_speak_of_any():
    conversion = Conversion("a.pth", Converted({}, mapped=[("a", "b")], notes=["a note"], source="x"), load_cfg(None))
    lines = conversion.report().split("\n")
    assert lines[:2] == ["a.pth: weights of x: 1 tensors taken over, 0 dropped", "a note"]
    assert "dropped because" not in conversion.report()


def test_the_ending_asks_for_safetensors(tool, msra, tmp_path):
    pytest.importorskip("safetensors")
    files = [tmp_path / f"r50.{ending}" for ending in ("pth", "safetensors")]
    for out in files:
        assert tool(msra, str(out), "--from", "detectron", "--overwrite")[0] == 0
    torch_file, safetensors = (read_file(str(out)) for out in files)
    assert torch_file.keys() == safetensors.keys() and torch_file["converted_from"] == safetensors["converted_from"]
    assert torch_file["model"].keys() == safetensors["model"].keys()
    assert all(torch.equal(tensor, safetensors["model"][name]) for name, tensor in torch_file["model"].items())


def test_other_frameworks_get_no_safetensors(tool, msra, tmp_path):
    out = tmp_path / "w.safetensors"
    status, _, errors = tool(msra, str(out), "--from", "detectron", "--to", "pyslowfast")
    assert status == 2 and f"{out}: files of pyslowfast are PyTorch's; give it another ending, such as .pth" in errors
    assert not out.exists()
