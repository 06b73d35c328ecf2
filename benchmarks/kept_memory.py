#!/usr/bin/env python3
"""What keeping freed memory is worth to a training step on a CPU: ``python benchmarks/kept_memory.py``.

Processes with ``nlvideo.utils.system.processes.keep_freed_memory`` and without it take turns, because the
C library is set once for a process. Each makes some steps. Figures are medians of its steps, and the ratio is the
median over pairs of processes.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NL_I3D = "configs/kinetics/i3d_r50_32x2_nl5.yaml"
# Name: config, clips of a step (0: the config's), steps that count, overrides.
CASES: dict[str, tuple[str, int, int, list[str]]] = {
    "quickstart, 16 clips of 8x64": ("configs/quickstart/i3d_nl.yaml", 0, 60, []),
    "NL I3D-R50, 2 clips of 8x224": (NL_I3D, 2, 6, ["INPUT.NUM_FRAMES", "8"]),
    "NL I3D-R50, 1 clip of 32x224": (NL_I3D, 1, 4, []),
}


def run_steps(case: str, keep: bool) -> dict[str, float]:
    """Make the steps of a case in this process: "seconds" and "page_faults" of one, "peak_mib" of the process."""
    from nlvideo.tools.lib.benchmarking.train import Trial, load_variant
    from nlvideo.utils.system.processes import keep_freed_memory

    if keep and not keep_freed_memory():
        raise RuntimeError("this C library, or the environment, does not let memory be kept")
    config, clips, steps, overrides = CASES[case]
    trial = Trial(load_variant(str(ROOT / config), ["MODEL.DEVICE", "cpu", *overrides], clips), "synthetic", None)
    for _ in range(max(2, steps // 10)):
        trial.step()
    faults, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, []
    for _ in range(steps):
        begin = time.perf_counter()
        trial.step()
        seconds.append(time.perf_counter() - begin)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": statistics.median(seconds),
        "page_faults": (usage.ru_minflt - faults) / steps,
        "peak_mib": usage.ru_maxrss / 1024,
    }


def in_process(case: str, keep: bool) -> dict[str, float]:
    """The same in a process of its own."""
    ignored = ("MALLOC_", "GLIBC_TUNABLES")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ignored)}
    command = [sys.executable, __file__, "--case", case, *(["--keep"] if keep else [])]
    return json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)


def compare(case: str, rounds: int) -> dict[str, Any]:
    """Run a case with and without, in pairs; every second pair the other way round."""
    runs: dict[str, list[dict[str, float]]] = {"as glibc does": [], "kept": []}
    for number in range(rounds):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            runs[name].append(in_process(case, name == "kept"))
    pairs = zip(runs["kept"], runs["as glibc does"], strict=True)
    ratio = statistics.median(kept["seconds"] / other["seconds"] for kept, other in pairs)
    medians = {name: {key: statistics.median(run[key] for run in of) for key in of[0]} for name, of in runs.items()}
    return {"case": case, "ratio": ratio, "medians": medians, "runs": runs}


def main() -> None:
    """Measure all cases and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="pairs of processes (%(default)s)")
    parser.add_argument(
        "--json", type=Path, default=ROOT / "benchmarks/results/training/kept_memory.json", metavar="OUT"
    )
    parser.add_argument("--case", choices=CASES, help="make only the steps of this case, in this process")
    parser.add_argument("--keep", action="store_true", help="with --case: keep freed memory")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(run_steps(args.case, args.keep)))
        return
    from nlvideo.tools.lib.benchmarking.timing import environment

    rows = []
    for case in CASES:
        rows.append(compare(case, args.rounds))
        print(json.dumps({key: value for key, value in rows[-1].items() if key != "runs"}), flush=True)
    args.json.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
