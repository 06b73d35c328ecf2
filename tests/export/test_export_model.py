"""Exported files: compared with the model before they get their name, and of use without nlvideo."""

import json
import multiprocessing
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import nlvideo.engine
import nlvideo.export
from nlvideo.config import CfgNode
from nlvideo.data import VideoDecodeError
from nlvideo.data.dataset_mapper import MAPPER
from nlvideo.errors import UnexpectedResults
from nlvideo.export import export_model
from nlvideo.export import exporter as export
from nlvideo.export.export_files import FORMATS, read_export
from nlvideo.modeling import build_model
from nlvideo.utils.files import file_io

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ["fall", "lié", "sit", "stand"]


def needs(format: str) -> None:
    """Skip where the packages of a format are missing."""
    for name in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ():
        pytest.importorskip(name, reason=f"{name} is not installed (extra: export)")


@pytest.fixture
def cfg(tiny_cfg: Callable[..., CfgNode]) -> CfgNode:
    """Two clips of three crops, with a non-local block, of frames that need no resizing."""
    return tiny_cfg(
        "TEST.NUM_CROPS", "3", "MODEL.NONLOCAL.ENABLED", "True", "MODEL.NONLOCAL.BLOCKS", "['res3.0']",
        "INPUT.FRAME_STRIDE", "2", "MODEL.HEAD.INIT_STD", "0.5", "MODEL.NONLOCAL.ZERO_INIT", "False",
    )  # fmt: skip


@pytest.fixture
def model(cfg: CfgNode) -> nn.Module:
    """A tiny random network whose classes differ in score."""
    torch.manual_seed(0)
    return build_model(cfg).eval()


@torch.no_grad()
def scores_of(model: nn.Module, cfg: CfgNode, video: str) -> torch.Tensor:
    """What a test makes of a video."""
    sample = MAPPER.get("VideoMapper")(cfg, False)({"file_name": video, "label": 0, "video_id": ""}, None)
    return model([sample])[0]["scores"]


WITHOUT_NLVIDEO = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "nlvideo":
            raise ImportError("nlvideo is blocked")

sys.meta_path.insert(0, Blocker())
try:
    import nlvideo
except ImportError:
    pass
else:
    raise SystemExit("nlvideo was imported")
"""

READ_PT2 = """
import json, torch

class Session:
    def __init__(self, path):
        texts = {"nlvideo.json": ""}
        self.network = torch.export.load(path, extra_files=texts).module()
        self.recipe = json.loads(texts["nlvideo.json"])
    def run(self, names, inputs):
        with torch.no_grad():
            return [self.network(torch.from_numpy(inputs["clips"])).numpy()]
"""


def documented(format: str) -> str:
    """The example of docs/export.md; for .pt2 with its reader in the place of onnxruntime."""
    (code,) = re.findall(r"^```py\n(.*?)^```$", (ROOT / "docs/export.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) <= 40 and "nlvideo" not in code.replace('"nlvideo.json"', "")
    if format == "onnx":
        return code
    code = code.replace("import onnxruntime\n", READ_PT2).replace("onnxruntime.InferenceSession(", "Session(")
    replaced = re.sub(r"^recipe = .*$", "recipe = session.recipe", code, flags=re.MULTILINE)
    assert replaced != code
    return replaced


def run_without_nlvideo(code: str, *arguments: str) -> dict[str, float]:
    """Run code in an interpreter that refuses to import nlvideo, in a folder that does not hold it."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_NLVIDEO + code, *arguments], capture_output=True, text=True, cwd="/",
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("package", [nlvideo.export, nlvideo.engine], ids=lambda package: package.__name__)
def test_no_module_hides_a_function_of_its_package(package):
    for name in ("export_model", "extract_features", "load_features"):
        for _ in range(2):
            assert callable(getattr(package, name)), name


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_gives_the_scores_of_the_test_without_nlvideo(format, model, cfg, make_video, tmp_path):
    needs(format)
    video = make_video(tmp_path / "clip.mp4", num_frames=11)
    done = export_model(model, cfg, CLASSES, str(tmp_path / "new" / f"model.{format}"), video=video)
    assert done.difference <= 1e-5 and done.format == format
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"model.{format}"]
    found = run_without_nlvideo(documented(format), done.path, video)
    expected = scores_of(model, cfg, video)
    assert expected.std() > 1e-2 and list(found) == sorted(found, key=found.get, reverse=True)
    torch.testing.assert_close(torch.tensor([found[name] for name in CLASSES]), expected, atol=1e-4, rtol=0)

    _, recipe = read_export(done.path, format)
    assert recipe == done.recipe and recipe["classes"] == CLASSES
    assert (recipe["kind"], recipe["version"]) == ("nlvideo export", 1)
    names = ("num_frames", "frame_stride", "short_side", "crop_size", "num_clips", "num_crops")
    assert [recipe[name] for name in names] == [4, 2, 32, 32, 2, 3]
    assert recipe["pixel_mean"] == list(cfg.MODEL.PIXEL_MEAN) and recipe["pixel_std"] == list(cfg.MODEL.PIXEL_STD)


def test_the_example_on_real_video(tiny_cfg, test_data, tmp_path):
    """Frames that are resized: by bilinear interpolation in NumPy there, in PyTorch here."""
    needs("onnx")
    cfg = tiny_cfg("TEST.NUM_CROPS", "3", "TEST.FLIP", "True", "TEST.SHORT_SIDE", "48", "MODEL.HEAD.INIT_STD", "0.5")
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    video = str(test_data / "videos/mmaction2_test.mp4")
    done = export_model(model, cfg, CLASSES, str(tmp_path / "model.onnx"), video=video)
    found = run_without_nlvideo(documented("onnx"), done.path, video)
    # A level of a pixel may round the other way.
    expected = scores_of(model, cfg, video)
    torch.testing.assert_close(torch.tensor([found[name] for name in CLASSES]), expected, atol=2e-3, rtol=0)


def test_documented_values_are_those_that_travel(model, cfg):
    table = re.findall(r"^\| `(\w+)`(?:, `(\w+)`)? \|", (ROOT / "docs/export.md").read_text(), re.MULTILINE)
    names = {name for row in table for name in row if name}
    assert names == {"kind", "version", "nlvideo", "classes", *export.view_recipe(cfg)}


def test_a_file_that_differs_does_not_get_its_name(model, cfg, video_lists, tmp_path, monkeypatch):
    trace = export.trace

    def of_another(model: nn.Module, clips: torch.Tensor) -> torch.export.ExportedProgram:
        """A graph of other weights."""
        torch.manual_seed(1)
        return trace(build_model(cfg).eval(), clips)

    monkeypatch.setattr(export, "trace", of_another)
    output = tmp_path / "model.pt2"
    output.write_text("earlier")
    with pytest.raises(UnexpectedResults, match="not written, its probabilities differ by .* allowed: 1e-04"):
        export_model(model, cfg, CLASSES, str(output), overwrite=True)
    assert output.read_text() == "earlier" and [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


def test_a_full_disk_names_the_file(model, cfg, make_video, tmp_path):
    video, output = make_video(tmp_path / "a.mp4"), str(tmp_path / "model.pt2")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, hard))
    try:
        with pytest.raises(OSError, match=f"File too large: '{output}'"):
            export_model(model, cfg, CLASSES, output, video=video)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_model_with_amp_is_compared_in_float32_and_stays_as_it_is(model, cfg, make_video, tmp_path, monkeypatch):
    """Also one in training mode."""
    monkeypatch.setattr(export, "TOLERANCE", 1e-6)
    model.amp = "bfloat16"
    model.train()
    export_model(model, cfg, CLASSES, str(tmp_path / "m.pt2"), video=make_video(tmp_path / "a.mp4"))
    assert model.amp == "bfloat16" and all(module.training for module in model.modules())


def test_what_a_killed_export_left_goes_with_the_next_one(model, cfg, make_video, tmp_path, monkeypatch):
    video, folder = make_video(tmp_path / "a.mp4"), tmp_path / "out"
    monkeypatch.setattr(export, "_largest_difference", lambda *arguments: os._exit(9))
    killed = multiprocessing.get_context("fork").Process(
        target=export_model, args=(model, cfg, CLASSES, str(folder / "model.pt2"), None, video)
    )
    killed.start()
    killed.join(120)
    assert killed.exitcode == 9 and [path.name[:10] for path in folder.iterdir()] == [".model.pt2"]
    monkeypatch.undo()
    file_io._sweep.cache_clear()  # as in a new process
    export_model(model, cfg, CLASSES, str(folder / "model.pt2"), video=video)
    assert [path.name for path in folder.iterdir()] == ["model.pt2"]


def test_three_clips_of_few_views():
    views = torch.arange(2 * 3 * 2 * 2 * 2, dtype=torch.uint8).view(2, 3, 2, 2, 2)
    assert torch.equal(export.three_clips(views.repeat(2, 1, 1, 1, 1)), views[[0, 1, 0]])
    first, second, third = export.three_clips(views[:1])
    assert torch.equal(second, first.flip(3)) and torch.equal(third, first.flip(1))


def test_a_video_of_the_test_set_is_found(cfg, tiny_cfg, video_lists, tmp_path):
    paths = [line.split()[0] for line in Path(video_lists[1].removeprefix("list:")).read_text().splitlines()]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'broken.mp4'} 0\n{paths[3]} 0\n")
    found = export.real_views(tiny_cfg("DATASETS.TEST", str([f"list:{tmp_path / 'list.txt'}"])))
    assert torch.equal(found, export.real_views(tiny_cfg(), paths[3])) and found.shape == (2, 3, 4, 32, 32)
    with pytest.raises(VideoDecodeError, match="broken.mp4"):
        export.real_views(cfg, str(tmp_path / "broken.mp4"))
    for name, message in [
        (
            "['list:/nowhere.txt']",
            "video: give one to compare the scores on; DATASETS.TEST cannot be read: .*nowhere.txt",
        ),
        ("[]", r"video: give one to compare the scores on; DATASETS.TEST \[\] has no readable video"),
    ]:
        with pytest.raises(ValueError, match=message):
            export.real_views(tiny_cfg("DATASETS.TEST", name))


def test_wrong_arguments(model, cfg, tiny_cfg, tmp_path):
    (tmp_path / "file.pt2").write_text("mine")
    for output, options, message in [
        (tmp_path / "model.pth", {}, "output: got '.*model.pth', allowed without a format: a name that ends"),
        (tmp_path / "model.pt2", {"format": "tflite"}, "format: got 'tflite', allowed: 'pt2', 'onnx'"),
        (tmp_path, {"format": "pt2"}, "output: got the folder"),
        (tmp_path / "file.pt2", {}, "file.pt2 exists; --overwrite replaces it"),
        (tmp_path / "file.pt2" / "model.pt2", {}, "output: got '.*', allowed: a folder that can be written"),
    ]:
        with pytest.raises(ValueError, match=message):
            export_model(model, cfg, CLASSES, str(output), **options)
    with pytest.raises(ValueError, match="TEST.CROP_SIZE: got 0"):
        export_model(model, tiny_cfg("TEST.CROP_SIZE", "0"), CLASSES, str(tmp_path / "model.pt2"))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["file.pt2"]
