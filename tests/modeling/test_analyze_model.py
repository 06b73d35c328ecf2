"""tools/analyze_model.py: its output, its errors, and that help is instant."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "analyze_model.py"

YAML = """
MODEL:
  BACKBONE: {DEPTH: 18, WIDTH: 0.25, STEM: small}
  NONLOCAL: {ENABLED: True, BLOCKS: ["res4.0"]}
  HEAD: {NUM_CLASSES: 8}
INPUT: {NUM_FRAMES: 8, CROP_SIZE: 64, SHORT_SIDE_RANGE: [64, 80]}
"""


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    """A small network with one non-local block."""
    path = tmp_path / "small.yaml"
    path.write_text(YAML)
    return str(path)


@pytest.fixture
def run(call_tool: Callable) -> Callable[..., str]:
    """``run(*arguments)``: the output of the script, which succeeds."""

    def analyze(*arguments: str) -> str:
        status, out, errors = call_tool("analyze_model", *arguments)
        assert status == 0, errors
        return out

    return analyze


def test_json_is_one_object_with_three_keys(config_file: str, run: Callable) -> None:
    costs = json.loads(run("--config-file", config_file, "--json"))
    assert list(costs) == ["params", "gmacs", "nonlocal_blocks"]
    assert isinstance(costs["params"], int) and isinstance(costs["gmacs"], float)
    assert [row["name"].split(".", 1)[1] for row in costs["nonlocal_blocks"]] == ["res4.nl0"]


def test_tables_show_stages_and_blocks(config_file: str, run: Callable) -> None:
    out = run("--config-file", config_file)
    assert "one clip of 8x64x64" in out
    for name in ("backbone.stem", "backbone.res5", "head", "res4.nl0"):
        assert name in out


def test_overrides_reach_the_model(config_file: str, run: Callable) -> None:
    opts = ["MODEL.NONLOCAL.ENABLED", "False", "INPUT.NUM_FRAMES", "16"]
    without = json.loads(run("--config-file", config_file, "--json", *opts))
    with_block = json.loads(run("--config-file", config_file, "--json"))
    assert without["nonlocal_blocks"] == []
    assert without["params"] < with_block["params"] and without["gmacs"] > with_block["gmacs"]
    assert "Non-local blocks: none" in run("--config-file", config_file, "MODEL.NONLOCAL.ENABLED", "False")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.BACKBONE.DEPTH", "34"], "MODEL.BACKBONE.DEPTH: got 34, allowed: 10, 18, 50, 101, 152"),
        (["MODEL.BACKBONE.NAME", "ResNet3"], "ResNet3d"),
        (["MODEL.HEAD.NAME", "Head"], "unknown HEAD 'Head'"),
        (["INPUT.NUM_FRAMES", "1"], "at least 2x1x1"),
    ],
)
def test_a_wrong_value_is_one_line(config_file: str, call_tool: Callable, overrides: list, message: str) -> None:
    status, out, errors = call_tool("analyze_model", "--config-file", config_file, "--json", *overrides)
    assert (status, out, errors.count("\n")) == (2, "", 1) and message in errors


def test_help_does_not_import_torch() -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['analyze_model.py', '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(TOOL)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code in (0, None), end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--config-file" in done.stdout and "--json" in done.stdout


def test_all_prints_a_row_for_each_config(monkeypatch: pytest.MonkeyPatch, run: Callable) -> None:
    monkeypatch.setattr("nlvideo.model_zoo.list_networks", lambda: ["quickstart/c2d", "quickstart/i3d_nl"])
    first, second = json.loads(run("--all", "--json"))
    assert list(first) == [
        "config", "input", "params", "gmacs", "nonlocal_blocks", "params_ratio", "gmacs_ratio", "paper", "note",
    ]  # fmt: skip
    assert (first["config"], first["input"], first["nonlocal_blocks"]) == ("quickstart/c2d", "8x64x64", 0)
    assert first["params_ratio"] == first["gmacs_ratio"] == 1
    assert second["nonlocal_blocks"] == 1 and second["params_ratio"] > 1
    assert second["params"] == round(first["params"] * second["params_ratio"])
    table = run("--all")
    assert "quickstart/c2d " in table and f"{second['params'] / 1e6:.2f}" in table and "Ratios of parameters" in table


def test_all_takes_overrides(monkeypatch: pytest.MonkeyPatch, run: Callable) -> None:
    monkeypatch.setattr("nlvideo.model_zoo.list_networks", lambda: ["quickstart/i3d_nl"])
    (row,) = json.loads(run("--all", "--json", "MODEL.NONLOCAL.ENABLED", "False", "MODEL.BACKBONE.TEMPORAL", "c2d"))
    assert (row["nonlocal_blocks"], row["params_ratio"]) == (0, 1)


@pytest.mark.parametrize("arguments", [[], ["--all", "--config-file", "F"]])
def test_one_config_or_all_of_them(arguments: list, call_tool: Callable) -> None:
    status, _, errors = call_tool("analyze_model", *arguments)
    assert status == 2 and "--config-file" in errors


def test_a_plugin_may_come_from_the_command_line(call_tool, tmp_path):
    """A project that the config does not name, as tools/train_net.py takes it."""
    project = tmp_path / "analysed_project"
    project.mkdir()
    (project / "__init__.py").write_text(
        "from nlvideo.modeling import HEAD, PoolLinearHead\n\n"
        "@HEAD.register()\nclass AnalysedHead(PoolLinearHead):\n    pass\n"
    )
    arguments = ["--config-file", "configs/quickstart/c2d.yaml", "--json", "MODEL.HEAD.NAME", "AnalysedHead"]
    status, _, errors = call_tool("analyze_model", *arguments)
    assert status == 2 and "MODEL.HEAD.NAME: unknown HEAD 'AnalysedHead'" in errors
    status, out, errors = call_tool("analyze_model", *arguments[:3], "--plugin", str(project), *arguments[3:])
    assert status == 0 and json.loads(out)["params"] > 0, errors
