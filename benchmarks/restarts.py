"""Kill a random rank of a two-rank run at random moments, and compare it with a run that nothing disturbs.

The first run counts what one takes. The others run under ``--max-restarts`` of train_net.py and of torchrun. Each ends
by itself, and its weights and metrics must equal those of the first to the bit.

Usage: python benchmarks/restarts.py [--kills 20] [--seed 0]
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "quickstart" / "instant_test.yaml"
TRAIN = [str(ROOT / "tools" / "train_net.py"), "--config-file", str(CONFIG)]
OPTS = "SOLVER.MAX_ITER 4000 SOLVER.STEPS [2000] SOLVER.CHECKPOINT_PERIOD 10 SOLVER.LOG_PERIOD 5 MODEL.HEAD.DROPOUT 0.5"


def ranks_of(launcher: int) -> list[int]:
    """The processes of the ranks below their launcher."""
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(launcher)], capture_output=True, text=True)
    rows = [line.split(maxsplit=1) for line in listed.stdout.splitlines()]
    return [int(pid) for pid, args in rows if "resource_tracker" not in args]


def run(folder: Path, command: list[str], kills: int, rng: random.Random) -> int:
    """Train, kill ranks, and return how many were killed."""
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = 0
    with open(folder / "out.txt", "w") as out:
        words = [sys.executable, *command, *OPTS.split(), "OUTPUT_DIR", str(folder)]
        process = subprocess.Popen(words, env=environment, stdout=out, stderr=subprocess.STDOUT)
        while process.poll() is None:
            # From the middle of a start to some checkpoints later.
            time.sleep(rng.uniform(2, 14))
            if killed < kills and len(ranks := ranks_of(process.pid)) == 2:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(ranks), signal.SIGKILL)
                    killed += 1
    if process.returncode:
        raise SystemExit(f"{folder}: exit code {process.returncode}\n{(folder / 'out.txt').read_text()[-4000:]}")
    return killed


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """The weights, and the metrics but for times and memory."""
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    kept = [{k: v for k, v in row.items() if "time" not in k and "memory" not in k} for row in rows]
    return torch.load(folder / "model_final.pth", weights_only=True)["model"], kept


def main() -> None:
    """Run and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="(default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    args = parser.parse_args()
    restarts = ["--max-restarts", str(args.kills + 10)]
    commands = {
        "undisturbed": [*TRAIN, "--num-gpus", "2"],
        "train_net": [*TRAIN, "--num-gpus", "2", *restarts],
        "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *restarts, *TRAIN],
    }
    with tempfile.TemporaryDirectory() as top:
        results = {}
        for name, command in commands.items():
            start = time.monotonic()
            killed = run(Path(top, name), command, 0 if name == "undisturbed" else args.kills, random.Random(args.seed))
            results[name] = outcome(Path(top, name))
            weights, metrics = results["undisturbed"]
            same = all(torch.equal(value, weights[key]) for key, value in results[name][0].items())
            equal = same and results[name][1] == metrics
            print(f"{name}: {killed} killed, {time.monotonic() - start:.0f} s, equal: {equal}", flush=True)


if __name__ == "__main__":
    main()
