"""The training scripts from end to end, as a user runs them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nlvideo.config import load_cfg

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
INSTANT = str(ROOT / "configs" / "quickstart" / "instant_test.yaml")
PROJECT_CONFIGS = sorted(ROOT.glob("projects/*/configs/*_instant_test.yaml"))


def _metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_train_stop_resume_and_test(run_tool: Callable, data_opts: list[str], tmp_path: Path) -> None:
    opts = [*data_opts, "OUTPUT_DIR", str(tmp_path / "out")]
    run_tool("train_net.py", "--config-file", INSTANT, *opts)
    assert [line["iteration"] for line in _metrics(tmp_path / "out")] == [0, 1, 2]
    # Flags may follow the overrides.
    run_tool("train_net.py", "--config-file", INSTANT, *opts, "SOLVER.MAX_ITER", "5", "--resume")
    metrics = _metrics(tmp_path / "out")
    assert [line["iteration"] for line in metrics] == [0, 1, 2, 3, 4]
    top1 = metrics[-1]["classification/top1"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{top1:.2f}" in page and "SOLVER.MAX_ITER 5 --resume" in page and "Confusion matrix" in page
    expected = str([["classification", "top1", top1, 0.01]])
    weights = ["MODEL.WEIGHTS", str(tmp_path / "out" / "model_final.pth"), "OUTPUT_DIR", str(tmp_path / "test")]
    tested = run_tool("test_net.py", "--config-file", INSTANT, *data_opts, *weights, "TEST.EXPECTED_RESULTS", expected)
    assert "copypaste:" in tested.stdout
    wrong = str([["classification", "top1", top1 + 5, 1.0]])
    done = run_tool("train_net.py", "--config-file", str(tmp_path / "out" / "config.yaml"), "--eval-only", "--resume",
                    "TEST.EXPECTED_RESULTS", wrong, code=1)  # fmt: skip
    assert "MISMATCH" in done.stdout
    assert done.stderr.splitlines() == [
        "train_net.py: the results are not those of TEST.EXPECTED_RESULTS, see the lines MISMATCH in the log"
    ]


def test_plain_train_net_trains_alike(run_tool: Callable, data_opts: list[str], tmp_path: Path) -> None:
    # Without dropout: the plain loop starts its loader at another place in the stream of random numbers.
    opts = [*data_opts, "SOLVER.MAX_ITER", "3", "MODEL.HEAD.DROPOUT", "0.0"]
    run_tool("plain_train_net.py", "--config-file", INSTANT, *opts, "OUTPUT_DIR", str(tmp_path / "plain"))
    run_tool("train_net.py", "--config-file", INSTANT, *opts, "OUTPUT_DIR", str(tmp_path / "trainer"))
    plain, trainer = _metrics(tmp_path / "plain"), _metrics(tmp_path / "trainer")
    for name in ("iteration", "total_loss", "top1", "lr"):
        assert [line[name] for line in plain] == pytest.approx([line[name] for line in trainer], rel=1e-4), name
    run_tool("plain_train_net.py", "--config-file", INSTANT, *opts[:4], "--resume", "--num-gpus", "2",
             "SOLVER.MAX_ITER", "4", "OUTPUT_DIR", str(tmp_path / "plain"))  # fmt: skip
    assert [line["iteration"] for line in _metrics(tmp_path / "plain")] == [0, 1, 2, 3]


def test_plain_train_net_refuses_what_it_leaves_out(run_tool: Callable, data_opts: list[str], tmp_path: Path) -> None:
    for key, value, allowed in [
        ("SOLVER.ACCUMULATE", "2", "1"), ("SOLVER.AMP.ENABLED", "True", "False"),
        ("SOLVER.EMA.ENABLED", "True", "False"), ("TEST.PRECISE_BN.ENABLED", "True", "False"),
    ]:  # fmt: skip
        opts = [*data_opts, key, value, "OUTPUT_DIR", str(tmp_path)]
        done = run_tool("plain_train_net.py", "--config-file", INSTANT, *opts, code=2)
        assert f"{key}: got {value}, allowed in this script: {allowed}; use" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("config", PROJECT_CONFIGS, ids=lambda path: path.parent.parent.name)
def test_every_project_trains(
    run_tool: Callable, data_opts: list[str], tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NLVIDEO_DATASETS", str(tmp_path / "datasets"))
    # A project with a dataset of its own trains on that.
    is_of_videos = load_cfg(str(config)).DATASETS.TRAIN[0].startswith("beacon")
    opts = [*(data_opts if is_of_videos else []), "MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "3"]
    run_tool("train_net.py", "--config-file", str(config), *opts, "OUTPUT_DIR", str(tmp_path / "one"))
    dumped = load_cfg(str(tmp_path / "one" / "config.yaml"))
    assert dumped.PLUGINS == load_cfg(str(config)).PLUGINS != []
    # From the dump, in another folder, with the project's classes in ranks and in the workers of their loaders.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run_tool("train_net.py", "--config-file", str(tmp_path / "one" / "config.yaml"), "--num-gpus", "2",
             "DATALOADER.NUM_WORKERS", "1", "OUTPUT_DIR", "two", cwd=elsewhere)  # fmt: skip
    for folder in (tmp_path / "one", elsewhere / "two"):
        assert [line["iteration"] for line in _metrics(folder)] == [0, 1, 2]


def test_there_is_a_project() -> None:
    assert PROJECT_CONFIGS


MISTAKES = [
    (["--config-file", "configs/instant_tets.yaml"], "no config file 'configs/instant_tets.yaml'; did you mean"),
    (["--config-file", INSTANT, "SOLVER.MAX_ITERS", "3"], "unknown key 'SOLVER.MAX_ITERS'. Did you mean"),
    (["--config-file", INSTANT, "SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER: expected int, got str 'many'"),
    (["--config-file", INSTANT, "MODEL.BACKBONE.NAME", "ResNet3"], "unknown BACKBONE 'ResNet3': did you mean"),
    (["--config-file", INSTANT, "DATASETS.TRAIN", "['beacon_trian']"], "unknown dataset 'beacon_trian'"),
    (["--config-file", INSTANT, "MODEL.WEIGHTS", "nowhere.pth"], "no checkpoint nowhere.pth"),
    (["--config-file", INSTANT, "--plugin", "projects/example_projekt"], "no such folder"),
    (["--config-file", INSTANT, "--num-gpus", "0"], "--num-gpus: got 0, allowed: 1 or more"),
    (["--config-file", INSTANT, "OUTPUT_DIR", "/proc/nlvideo"], "OUTPUT_DIR: got '/proc/nlvideo', allowed: a folder"),
    (["--config-file", INSTANT, "--eval-only"], "MODEL.WEIGHTS: got '', allowed for a test: a checkpoint"),
]

IN_PROCESS = """
import runpy, sys
sys.path.insert(0, {root!r})
import os, json
for arguments in json.loads(sys.stdin.read()):
    sys.argv = ["tools/train_net.py", *arguments]
    sys.stderr.write("\\x1e")
    try:
        runpy.run_path("tools/train_net.py", run_name="__main__")
    except SystemExit as done:
        sys.stderr.write(f"exit {{done.code}}")
"""


def test_mistakes_are_one_line(data_opts: list[str], tmp_path: Path) -> None:
    output = ["OUTPUT_DIR", str(tmp_path / "out")]
    runs = [[*arguments, *([] if "OUTPUT_DIR" in arguments else output)] for arguments, _ in MISTAKES]
    runs = [run if "DATASETS.TRAIN" in run else [*run, *data_opts] for run in runs]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_PROCESS.format(root=str(ROOT))], input=json.dumps(runs),
        env={**os.environ, "NLVIDEO_DEBUG": "0", "OMP_NUM_THREADS": "1"}, cwd=ROOT, capture_output=True, text=True,
        timeout=280, check=False,
    )  # fmt: skip
    errors = done.stderr.split("\x1e")[1:]
    assert len(errors) == len(MISTAKES), done.stderr
    for (arguments, message), error in zip(MISTAKES, errors):
        line, end = error.splitlines()
        assert message in line and line.startswith("train_net.py: ") and end == "exit 2", (arguments, error)


def test_ctrl_c_saves_and_says_how_to_go_on(data_opts: list[str], tmp_path: Path) -> None:
    opts = [*data_opts, "OUTPUT_DIR", str(tmp_path / "out"), "SOLVER.MAX_ITER", "100000"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config-file", INSTANT, *opts],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while "iter: 3" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    line = error.splitlines()[-1]
    iterations = int(line.split("stopped after ")[1].split()[0])
    assert f"To go on: {sys.executable} {ROOT}/tools/train_net.py --resume --config-file {INSTANT}" in line
    assert (tmp_path / "out" / f"model_{iterations:07d}.pth").is_file()
