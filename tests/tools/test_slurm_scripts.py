"""The batch scripts of tools/slurm, with programs in place of Slurm's that write down how they are called."""

import contextlib
import os
import re
import signal
import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# How Slurm writes it.
TIME = "%Y-%m-%dT%H:%M:%S"
PROGRAMS = {
    "srun": """
        while [ "${1#--}" != "$1" ]; do shift; done
        for task in 0 1 2 3; do
            SLURM_PROCID=$task SLURM_LOCALID=$((task % 2)) SLURM_NTASKS=4 SLURM_NNODES=2 "$@" &
        done
        for child in $(jobs -p); do wait "$child" || code=$?; done
        exit "${code:-0}"
    """,
    "python": """
        echo "rank $RANK of $WORLD_SIZE, $LOCAL_RANK of $LOCAL_WORLD_SIZE at $MASTER_ADDR:$MASTER_PORT: $*"
        trap "exit 130" TERM
        [ "$RUN" = deaf ] && trap "" TERM
        echo $$ >> "$CALLS.pids"
        until [ "$RUN" != long ] && [ "$RUN" != deaf ]; do sleep 0.1; done
        exit "$RUN"
    """,
    "scontrol": """
        [ "$1 $2" = "show hostnames" ] && printf 'node7\\nnode8\\n' && exit
        [ "$1 $2" = "show job" ] && echo "PreemptTime=$PREEMPTED" && exit
        echo "scontrol $*" >> "$CALLS"
    """,
    "scancel": 'echo "scancel $*" >> "$CALLS"; kill -TERM $(cat "$CALLS.pids")',
    "squeue": 'echo "$END"',
}
VARIABLES = {
    "SLURM_JOB_ID": "123",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_NODELIST": "node[7-8]",
    "SLURM_NTASKS_PER_NODE": "2",
    "PREEMPTED": "None",
    "END": "NONE",
}


class Job:
    """A batch script that runs."""

    def __init__(self, folder: Path, *words: str, script: str = "train.sbatch", **variables: str):
        self.folder = folder
        programs = folder / "programs"
        programs.mkdir()
        for name, text in PROGRAMS.items():
            (programs / name).write_text(f"#!/bin/bash\n{text}")
            (programs / name).chmod(0o755)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "MASTER"))}
        path = f"{programs}:{os.environ['PATH']}"
        environment = clean | VARIABLES | {"CALLS": str(folder / "calls"), "PATH": path, "RUN": "0"} | variables
        (folder / "tools").symlink_to(ROOT / "tools")
        # Its own session: what it leaves behind can be ended.
        self.process = subprocess.Popen(
            ["bash", f"tools/slurm/{script}", *words],
            cwd=folder, env=environment, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def signal(self) -> None:
        """What Slurm sends before the limit, once all ranks run."""
        pids = self.folder / "calls.pids"
        until = time.monotonic() + 60
        while not (pids.exists() and len(pids.read_text().split()) == 4):
            assert time.monotonic() < until
            time.sleep(0.05)
        self.process.send_signal(signal.SIGUSR1)

    def end(self) -> tuple[int, str, list[str]]:
        """Exit code, what it printed, and what it had Slurm do."""
        out, _ = self.process.communicate(timeout=60)
        calls = self.folder / "calls"
        return self.process.returncode, out, calls.read_text().splitlines() if calls.exists() else []


def test_srun_gives_every_rank_its_number(tmp_path: Path) -> None:
    code, out, calls = Job(tmp_path, "--config-file", "a.yaml", "NAME", "two words").end()
    command = "tools/train_net.py --config-file a.yaml NAME two words OUTPUT_DIR output/slurm/123"
    ranks = [f"rank {r} of 4, {r % 2} of 2 at node7:20123: {command}" for r in range(4)]
    assert (code, calls) == (0, []) and sorted(re.findall("rank .*", out)) == ranks


@pytest.mark.parametrize(
    ("restarts", "file", "resumes"),
    [("", "", False), ("0", "", False), ("1", "", True), ("2", "config.yaml", True), ("1", "config.next.yaml", False)],
)
def test_a_job_that_starts_again_resumes_its_own_run(restarts: str, file: str, resumes: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / (file or "log.txt")).touch()
    _, out, _ = Job(tmp_path, "SEED", "1", "OUTPUT_DIR", "run", SLURM_RESTART_COUNT=restarts).end()
    assert out.count(f"train_net.py {'--resume ' * resumes}SEED 1 OUTPUT_DIR run OUTPUT_DIR run\n") == 4


@pytest.mark.parametrize(
    ("run", "preempted", "requeued"),
    [
        ("0", "2026-05-04T08:00:00", False),
        ("1", "None", False),
        ("130", "None", False),
        ("130", "2026-05-04T08:00:00", True),
    ],
)
def test_only_a_run_that_was_preempted_goes_back_to_the_queue(
    run: str, preempted: str, requeued: bool, tmp_path: Path
) -> None:
    code, out, calls = Job(tmp_path, RUN=run, PREEMPTED=preempted).end()
    assert code == int(run) and calls == ["scontrol requeue 123"] * requeued
    assert ("job 123: back to the queue" in out) == requeued


@pytest.mark.parametrize(("array", "end"), [(True, "NONE"), (False, ""), (False, "in an hour")])
def test_before_the_limit_the_ranks_stop_and_the_job_goes_back(array: bool, end: str, tmp_path: Path) -> None:
    """The last task of an array has the number of the array: alone, that would mean all tasks."""
    variables = {"SLURM_ARRAY_JOB_ID": "123", "SLURM_ARRAY_TASK_ID": "4"} if array else {}
    if end == "in an hour":
        end = (datetime.now() + timedelta(hours=1)).strftime(TIME)
    job = Job(tmp_path, RUN="long", END=end, **variables)
    job.signal()
    code, out, calls = job.end()
    name = "123_4" if array else "123"
    assert code == 130 and calls == [f"scancel --signal=TERM {name}", f"scontrol requeue {name}"]
    assert f"job {name}: USR1: the limit of time is near" in out and f"in output/slurm/{name}" in out
    # Nothing waits to put the next start of the job back.
    left = subprocess.run(["ps", "-o", "args=", "-s", str(job.process.pid)], capture_output=True, text=True).stdout
    assert "train.sbatch" not in left
    with contextlib.suppress(ProcessLookupError):
        os.killpg(job.process.pid, signal.SIGKILL)


def test_a_run_that_does_not_stop_goes_back_before_the_limit(tmp_path: Path) -> None:
    end = datetime.now() + timedelta(seconds=33)
    job = Job(tmp_path, RUN="deaf", END=end.strftime(TIME))
    job.signal()
    calls, until = tmp_path / "calls", time.monotonic() + 60
    try:
        while "requeue" not in (calls.read_text() if calls.exists() else ""):
            assert time.monotonic() < until
            time.sleep(0.05)
        left = (end - datetime.now()).total_seconds()
        assert job.process.poll() is None and 15 < left < 31
    finally:
        os.killpg(job.process.pid, signal.SIGKILL)
        job.process.communicate()


def test_each_task_of_a_grid_has_a_pair_of_its_own(tmp_path: Path) -> None:
    text = (ROOT / "tools/slurm/grid.sbatch").read_text()
    last, runs = int(re.search(r"--array=0-(\d+)", text)[1]), []
    for task in (0, 1, 3, last, last + 1):
        folder = tmp_path / str(task)
        folder.mkdir()
        (folder / "configs").symlink_to(ROOT / "configs")
        ids = {"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": str(task)}
        code, out, _ = Job(folder, "SEED", "7", "X.Y", "2", script="grid.sbatch", **ids).end()
        if task > last:
            assert code == 2 and out == f"--array: got task {task}, allowed: 0 to {last}\n"
            continue
        config, seed, run = re.search(r"--config-file (\S+) SEED 7 X.Y 2 SEED (\d) OUTPUT_DIR (\S+)", out).groups()
        assert (ROOT / config).is_file() and run == f"output/grid/{Path(config).stem}/seed_{seed}"
        runs.append(run)
    assert runs == [f"output/grid/{name}" for name in ("c2d/seed_0", "c2d/seed_1", "c2d_nl/seed_0", "i3d_nl/seed_2")]


def test_the_scripts_are_bash(tmp_path: Path) -> None:
    for name in ("train", "grid"):
        text = (ROOT / f"tools/slurm/{name}.sbatch").read_text()
        # Slurm reads no line of its own after the first command.
        assert text.startswith("#!/bin/bash\n") and "\n#SBATCH" not in re.split(r"\n(?=[^#\n])", text, maxsplit=1)[1]
        for line in ("--requeue", "--open-mode=append", "--signal=B:USR1@180"):
            assert f"#SBATCH {line}\n" in text
