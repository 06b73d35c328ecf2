"""Ranks that die start again and go on, and a run goes on with another number of ranks."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from nlvideo.config import load_cfg
from nlvideo.data.build import read_training_data
from nlvideo.data.samplers import TrainingSampler
from nlvideo.utils.system.env import read_invocations

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
CONFIG = str(ROOT / "configs" / "quickstart" / "instant_test.yaml")
OPTS = [
    "SOLVER.MAX_ITER", "40", "SOLVER.STEPS", "[20]", "SOLVER.CHECKPOINT_PERIOD", "4", "SOLVER.LOG_PERIOD", "2",
    "MODEL.HEAD.DROPOUT", "0.5",
]  # fmt: skip
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "5"]
TRAIN = [str(ROOT / "tools" / "train_net.py"), "--config-file", CONFIG]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a run in a folder. What is still running at the end is killed."""
    started: list[subprocess.Popen] = []

    def start(folder: Path, *command: str, **variables: str) -> subprocess.Popen:
        """The process; what it prints is in out.txt."""
        started.append(_start(folder, *command, **variables))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def _start(folder: Path, *command: str, **variables: str) -> subprocess.Popen:
    words = [
        sys.executable,
        *command,
        *(OPTS if "SOLVER.MAX_ITER" not in command else OPTS[2:]),
        "OUTPUT_DIR",
        str(folder),
    ]
    environment = ENVIRONMENT | variables
    with open(folder / "out.txt", "a") as out:
        return subprocess.Popen(words, env=environment, stdout=out, stderr=subprocess.STDOUT)


def _end_of(process: subprocess.Popen, folder: Path) -> str:
    process.wait(timeout=300)
    return (folder / "out.txt").read_text()


def _ranks(launcher: int) -> list[int]:
    """The processes of the ranks, which hold a GPU's worth of work, below their launcher."""
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(launcher)], capture_output=True, text=True)
    lines = [line.split(maxsplit=1) for line in listed.stdout.splitlines()]
    return sorted(int(pid) for pid, args in lines if "resource_tracker" not in args and "ps -o" not in args)


def _wait_for(process: subprocess.Popen, path: Path, text: str = "") -> None:
    until = time.monotonic() + 240
    while not (path.exists() and (not text or re.search(text, path.read_text()))):
        assert process.poll() is None and time.monotonic() < until, (path.parent / "out.txt").read_text()[-4000:]
        time.sleep(0.05)


def _kill_a_rank(process: subprocess.Popen, folder: Path, after: str, which: int) -> None:
    """Kill a rank once a checkpoint is there."""
    _wait_for(process, folder / after)
    with contextlib.suppress(ProcessLookupError):
        os.kill(_ranks(process.pid)[which], signal.SIGKILL)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def _metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "time" not in k and "memory" not in k} for line in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two ranks."""
    folder = tmp_path_factory.mktemp("undisturbed")
    process = _start(folder, *TRAIN, "--num-gpus", "2", "--max-restarts", "2")
    out = _end_of(process, folder)
    assert process.returncode == 0, out
    return folder


@pytest.mark.parametrize("launcher", ["own", "torchrun"])
def test_a_run_whose_ranks_are_killed_ends_as_if_nothing_had_happened(
    launcher: str, undisturbed: Path, tmp_path: Path, start: Callable[..., subprocess.Popen]
) -> None:
    own = [*TRAIN, "--num-gpus", "2", "--max-restarts", "5"]
    process = start(tmp_path, *(own if launcher == "own" else [*TORCHRUN, *TRAIN]))
    _kill_a_rank(process, tmp_path, "model_0000004.pth", 1)
    _kill_a_rank(process, tmp_path, "model_0000020.pth", 0)
    out = _end_of(process, tmp_path)
    assert process.returncode == 0, out
    assert "The ranks of this run started again" in out
    starts = read_invocations(str(tmp_path))
    assert len(starts) >= 2 and starts[-1]["resume"] and not starts[0]["resume"]
    expected = _weights(undisturbed)
    assert all(torch.equal(value, expected[name]) for name, value in _weights(tmp_path).items())
    assert _metrics(tmp_path) == _metrics(undisturbed)


def test_a_new_run_in_the_folder_of_an_old_one_does_not_go_on(
    undisturbed: Path, start: Callable[..., subprocess.Popen]
) -> None:
    process = start(undisturbed, *TRAIN, "--num-gpus", "2", "--max-restarts", "1")
    out = _end_of(process, undisturbed)
    assert process.returncode == 0 and "started again" not in out, out
    assert (undisturbed / "earlier_1" / "model_final.pth").exists()


def test_agents_of_an_elastic_job_join_and_leave(tmp_path: Path, start: Callable[..., subprocess.Popen]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    agent = [
        *("-m", "torch.distributed.run", "--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "5"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", "elastic", "--local-addr", "127.0.0.1"),
        *("--rdzv-conf", "last_call_timeout=1,keep_alive_interval=1", *TRAIN, "SOLVER.MAX_ITER", "40000"),
    ]
    # With a shared store, an agent that joins waits for an address that torch 2.14 does not tell it.
    variables = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    first = start(tmp_path, *agent, **variables)
    _wait_for(first, tmp_path / "model_0000004.pth")
    second = start(tmp_path, *agent, **variables)
    _wait_for(first, tmp_path / "log.txt.rank1", "Training iterations")
    _wait_for(first, tmp_path / "log.txt", r"ranks was 1 and is 2[^$]*Saved checkpoint")
    second.kill()
    _wait_for(first, tmp_path / "log.txt", "1 ranks go on after 2|ranks was 2 and is 1")
    assert first.poll() is None
    first.terminate()
    out = _end_of(first, tmp_path)
    text = (tmp_path / "log.txt").read_text()
    assert [line.split("Ranks: ")[1] for line in text.splitlines() if "Ranks: " in line] == ["1", "2", "1"], out
    assert text.count("started again") == 2
    second.wait()


OTHER_WORLDS = """
import argparse, json, os, sys
from nlvideo.config import load_cfg
from nlvideo.engine import DefaultTrainer, default_setup
from nlvideo.engine.launch import launch
from nlvideo.engine.script import run_script
from nlvideo.engine.train_loop import HookBase
from nlvideo.utils import comm

class StopAt(HookBase):
    def __init__(self, iteration):
        self.iteration = iteration
    def after_step(self):
        if self.trainer.iter + 1 == self.iteration:
            self.trainer.stop_reason = "a test"

class Trainer(DefaultTrainer):
    stop = 0
    def build_hooks(self):
        return [StopAt(self.stop), *super().build_hooks()]
    def _next_batch(self):
        batch = super()._next_batch()
        rate = self.optimizer.param_groups[0]["lr"]
        row = [self.iter, comm.get_world_size(), comm.get_rank(), rate, batch["video_id"]]
        with open(f"{self.cfg.OUTPUT_DIR}/clips{comm.get_rank()}.json", "a") as file:
            file.write(json.dumps(row) + "\\n")
        return batch

def main(config, opts, resume, stop):
    cfg = default_setup(load_cfg(config, opts), argparse.Namespace(resume=resume, eval_only=False))
    Trainer.stop = stop
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()

if __name__ == "__main__":
    run_script(lambda args: launch(main, int(sys.argv[1]), device="cpu",
        args=(sys.argv[4], sys.argv[5:], sys.argv[2] == "resume", int(sys.argv[3]))),
        argparse.Namespace(parse_args=lambda argv: None))
"""


def test_another_number_of_ranks_goes_on_at_the_same_clip(tmp_path: Path) -> None:
    stops, rates = (2, 5, 100), (1, 0.5, 0.75)
    script = tmp_path / "worlds.py"
    script.write_text(OTHER_WORLDS)
    opts = [
        "SOLVER.CLIPS_PER_BATCH", "12", "SOLVER.MAX_ITER", "6", "SOLVER.STEPS", "[]", "SOLVER.BASE_LR", "0.01",
        "SOLVER.REFERENCE_WORLD_SIZE", "4", "OUTPUT_DIR", str(tmp_path), "DATASETS.TEST", "[]",
    ]  # fmt: skip
    logs = []
    for number, ranks in enumerate((4, 2, 3)):
        words = [str(ranks), "resume" if number else "fresh", str(stops[number]), CONFIG, *opts]
        command = [sys.executable, str(script), *words]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == (0 if ranks == 3 else 130), done.stdout + done.stderr
        logs.append(done.stdout)
    rows = [json.loads(line) for path in tmp_path.glob("clips*.json") for line in path.read_text().splitlines()]
    seen: list[str] = []
    for iteration in sorted({row[0] for row in rows}):
        own = sorted(row for row in rows if row[0] == iteration)
        assert len(own) == own[0][1] and own[0][3] == pytest.approx(0.01 * rates[(4, 2, 3).index(len(own))])
        # Rank r has the clips r, r + ranks, ...
        seen += [clip for clips in zip(*(row[4] for row in own), strict=True) for clip in clips]
    cfg = load_cfg(CONFIG, opts)
    records, _ = read_training_data(cfg)
    sampler = TrainingSampler(records, seed=cfg.SEED)
    assert seen == [records[sampler.index_at(position)]["video_id"] for position in range(len(seen))]
    assert abs(len(seen) - 72) < 9
    assert "2 ranks go on after 4: iteration 2 is at 4 of 12 in the schedule" in logs[1]
