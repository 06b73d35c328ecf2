"""Every config takes one optimisation step and is tested, through the training script, at a reduced size."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from nlvideo.config import load_cfg
from nlvideo.model_zoo import get_config_file, list_networks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def train_net(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    """The script as a module: importing torch once serves all configs."""
    return load_tool("train_net")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the embedded data set is made once."""
    return tmp_path_factory.mktemp("datasets")


@pytest.mark.parametrize("name", [*list_networks(), "quickstart/instant_test"])
def test_one_step(
    name: str, train_net: ModuleType, datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NLVIDEO_DATASETS", str(datasets))
    out = tmp_path / "out"
    arguments = ["--config-file", get_config_file(name), "--reduced", "OUTPUT_DIR", str(out)]
    train_net.start(train_net.build_parser().parse_args(arguments))
    (line,) = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    # Large where random weights meet frozen norms, but a number: anything else ends a run.
    assert line["iteration"] == 0 and line["total_loss"] > 0
    trained = load_cfg(str(out / "config.yaml"))
    task, metric = ("multilabel", "mAP") if trained.MODEL.HEAD.LOSS == "sigmoid" else ("classification", "top1")
    assert 0 <= line[f"{task}/{metric}"] <= 100
    assert (out / "model_final.pth").is_file()
    # What was trained is the config's network: depth and kinds, not a stand-in.
    cfg = load_cfg(get_config_file(name))
    assert trained.MODEL.BACKBONE.DEPTH == cfg.MODEL.BACKBONE.DEPTH
    assert trained.MODEL.NONLOCAL == cfg.MODEL.NONLOCAL


def test_a_mistake_among_the_overrides_is_one_line(call_tool: Callable) -> None:
    arguments = ["--config-file", get_config_file("kinetics/c2d_r50_32x2"), "--reduced", "SOLVER.MAX_ITERS", "3"]
    status, _, errors = call_tool("train_net", *arguments)
    assert status == 2 and "unknown key 'SOLVER.MAX_ITERS'" in errors.splitlines()[-1]
