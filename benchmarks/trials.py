#!/usr/bin/env python3
"""Train a grid of models with several seeds and write the table: ``python benchmarks/trials.py beacon``.

A trial is a list of rows (a name, a config below ``configs``, overrides) that share one schedule. Every run
is the stock ``tools/train_net.py`` in a process of its own, so the table shows what a user of that command gets. A
finished run leaves a file in ``benchmarks/results/<trial>`` and is not repeated while that is there. So it may be
stopped at any time and started again. ``--again`` measures again. ``--report`` prints the table of what has finished.
"""

import argparse
import concurrent.futures
import functools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FOUR_MODELS = [
    ("C2D", "quickstart/c2d", []),
    ("C2D + non-local", "quickstart/c2d_nl", []),
    ("I3D", "quickstart/i3d", []),
    ("I3D + non-local", "quickstart/i3d_nl", []),
]
ATTENDING = [
    ("I3D + non-local, space only", "quickstart/i3d_nl", ["MODEL.NONLOCAL.ATTEND", "space"]),
    ("I3D + non-local, time only", "quickstart/i3d_nl", ["MODEL.NONLOCAL.ATTEND", "time"]),
]
FORMS = [
    ("I3D + embedded Gaussian", "quickstart/i3d_nl", ["MODEL.NONLOCAL.PAIRWISE", "embedded_gaussian"]),
    (
        "I3D + embedded Gaussian, He et al.",
        "quickstart/i3d_nl",
        ["MODEL.NONLOCAL.PAIRWISE", "embedded_gaussian", "MODEL.NONLOCAL.INIT_STD", "0.0"],
    ),
    ("I3D + dot product", "quickstart/i3d_nl", ["MODEL.NONLOCAL.PAIRWISE", "dot_product"]),
    ("I3D + concatenation", "quickstart/i3d_nl", ["MODEL.NONLOCAL.PAIRWISE", "concatenation"]),
]


def own_videos(config: str) -> list[tuple[str, str, list[str]]]:
    """The rows of a config for videos of one's own."""
    return [
        ("C2D", config, ["MODEL.BACKBONE.TEMPORAL", "c2d"]),
        ("I3D", config, []),
        ("I3D + non-local", f"{config}_nl", []),
    ]


# R(2+1)D-18 of torchvision from random weights, with frames half as large and half as many as usual: for two cores.
SMALL_R2PLUS1D = [
    *("MODEL.WEIGHTS", "", "SOLVER.HEAD_LR_FACTOR", "1.0", "SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", "0.0005"),
    *("SOLVER.WEIGHT_DECAY", "0.05", "SOLVER.MIN_ITER", "300", "SOLVER.MAX_EPOCHS", "5.0"),
    *("INPUT.NUM_FRAMES", "8", "INPUT.CLIP_SAMPLER", "SegmentClip", "INPUT.FPS", "0.0", "DATALOADER.NUM_WORKERS", "1"),
    *("INPUT.CROP_SIZE", "56", "INPUT.SHORT_SIDE_RANGE", "[56, 68]", "TEST.SHORT_SIDE", "56", "TEST.CROP_SIZE", "56"),
    *("TEST.CLIP_SAMPLER", "SegmentClip", "TEST.NUM_CLIPS", "2"),
]
R2PLUS1D = [("R(2+1)D-18, 8 x 56 pixels", "finetune/r2plus1d_18", SMALL_R2PLUS1D)]


def data_overrides(name: str) -> list[str]:
    """What README has a user type for videos of their own: the two lists.

    Raises:
        SystemExit: NLVIDEO_TEST_DATA is not set or has no such folder.
    """
    folder = Path(os.environ.get("NLVIDEO_TEST_DATA", "")) / name
    if not (folder / "train.csv").is_file():
        sys.exit(f"set NLVIDEO_TEST_DATA to a folder with {name}/train.csv and {name}/val.csv")
    return [
        "DATASETS.TRAIN",
        f"['list:{folder.resolve()}/train.csv']",
        "DATASETS.TEST",
        f"['list:{folder.resolve()}/val.csv']",
    ]


def thermal_overrides() -> list[str]:
    """What turns a quickstart config into one for the thermal clips: the data and the sampling."""
    return [
        *data_overrides("thermal"),
        "MODEL.HEAD.NUM_CLASSES",
        "7",
        "MODEL.HEAD.DROPOUT",
        "0.2",
        # Real video asks for more than beacon: twice the layers (10 of them left the training clips at 80 %).
        "MODEL.BACKBONE.DEPTH",
        "18",
        "MODEL.NONLOCAL.BLOCKS",
        "['res2.1']",
        # A clip is the whole event, whatever its length; left and right mean nothing here.
        "INPUT.CLIP_SAMPLER",
        "SegmentClip",
        "TEST.CLIP_SAMPLER",
        "SegmentClip",
        "INPUT.FLIP_PROB",
        "0.5",
        "INPUT.SHORT_SIDE_RANGE",
        "[64, 76]",
        "SOLVER.MAX_ITER",
        "2000",
        "SOLVER.WEIGHT_DECAY",
        "0.05",
    ]


TRIALS = {
    "beacon": {"rows": FOUR_MODELS + ATTENDING, "overrides": list},
    "forms": {"rows": FORMS, "overrides": list},
    "thermal": {"rows": FOUR_MODELS, "overrides": thermal_overrides},
    "finetune_fights": {
        "rows": own_videos("finetune/tiny_few") + R2PLUS1D,
        "overrides": functools.partial(data_overrides, "fights"),
    },
    "finetune_thermal": {
        "rows": own_videos("finetune/tiny") + R2PLUS1D,
        "overrides": functools.partial(data_overrides, "thermal"),
    },
}


def run(
    trial: str, config: str, overrides: list[str], seed: int, threads: int, result_file: Path, out: Path, again: bool
) -> dict:
    """Train and test one model, if its result is not there already or ``again``; return the result."""
    if result_file.is_file() and not again:
        return json.loads(result_file.read_text())
    out.mkdir(parents=True, exist_ok=True)
    words = [
        "--config-file",
        f"configs/{config}.yaml",
        *TRIALS[trial]["overrides"](),
        *overrides,
        "TEST.EVAL_PERIOD",
        "0",
        "TEST.EVAL_FRACTION",
        "0.0",
        "SEED",
        str(seed),
        "OUTPUT_DIR",
        str(out),
    ]
    start = time.time()
    with open(out / "console.txt", "w") as console:
        done = subprocess.run(
            [sys.executable, "tools/train_net.py", *words],
            stdout=console,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: see {out / 'console.txt'}")
    metrics = last_metrics(out / "metrics.json")
    result = {
        "top1": metrics["classification/top1"],
        "top5": metrics["classification/top5"],
        "num_videos": metrics["classification/num_videos"],
        "minutes": round((time.time() - start) / 60, 1),
        "config": config,
        "overrides": overrides,
        "seed": seed,
        "threads": threads,
        "machine": machine(),
    }
    result_file.parent.mkdir(parents=True, exist_ok=True)
    result_file.write_text(json.dumps(result, indent=2) + "\n")
    return result


def last_metrics(path: Path) -> dict:
    """The newest value of every metric in a metrics.json."""
    latest: dict = {}
    for line in path.read_text().splitlines():
        latest.update(json.loads(line))
    return latest


def report(trial: str, results: dict[tuple[str, int], dict], seeds: list[int]) -> str:
    """The table in Markdown: mean and standard deviation over the seeds, every single result beside it."""
    lines = [
        "| model | top-1 (mean ± std) | " + " | ".join(f"seed {s}" for s in seeds) + " | minutes a run |",
        "|---|---|" + "---|" * len(seeds) + "---|",
    ]
    for name, _, _ in TRIALS[trial]["rows"]:
        runs = [results[name, s] for s in seeds if (name, s) in results]
        if not runs:
            continue
        top1 = [r["top1"] for r in runs]
        spread = f"{statistics.mean(top1):.1f}"
        spread += f" ± {statistics.stdev(top1):.1f}" if len(top1) > 1 else " (one seed)"
        cells = [f"{results[name, s]['top1']:.1f}" if (name, s) in results else "" for s in seeds]
        minutes = statistics.median(r["minutes"] for r in runs)
        lines.append(f"| {name} | {spread} | " + " | ".join(cells) + f" | {minutes:.1f} |")
    return "\n".join(lines)


def machine() -> str:
    """Processor and versions, for the line under a table."""
    import av
    import torch

    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return (
        f"{os.cpu_count()} cores of {(names or [platform.processor()])[0]}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, PyAV {av.__version__}, {time.strftime('%Y-%m-%d')}"
    )


def main() -> None:
    """Run a trial and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", choices=sorted(TRIALS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", help="names of the rows to run (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    parser.add_argument("--out", type=Path, default=ROOT / "output/trials", help="folder of logs and checkpoints")
    parser.add_argument("--again", action="store_true", help="train also what has a result, and replace that")
    parser.add_argument("--report", action="store_true", help="only print the table of what has finished")
    args = parser.parse_args()
    if not args.report:
        TRIALS[args.trial]["overrides"]()  # Says what is missing before anything starts.
    results = {}
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        futures = {}
        for seed in args.seeds:  # Seeds outside, so that a grid cut short still compares all models.
            for name, config, overrides in TRIALS[args.trial]["rows"]:
                if args.rows and name not in args.rows:
                    continue
                stem = f"{re.sub('[^a-z0-9]+', '_', name.lower())}_seed{seed}"
                result_file = ROOT / "benchmarks/results" / args.trial / f"{stem}.json"
                if args.report and not result_file.is_file():
                    continue
                out = args.out.resolve() / args.trial / stem
                job = pool.submit(run, args.trial, config, overrides, seed, args.threads, result_file, out, args.again)
                futures[job] = (name, seed)
        for job in concurrent.futures.as_completed(futures):
            name, seed = futures[job]
            results[name, seed] = job.result()
            print(f"{name}, seed {seed}: {results[name, seed]['top1']:.2f} %", flush=True)
    print(report(args.trial, results, args.seeds))


if __name__ == "__main__":
    main()
