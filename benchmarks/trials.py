#!/usr/bin/env python3
"""Train a grid of models with several seeds and write the table: ``python benchmarks/trials.py beacon``.

A trial is a list of rows (a name, a config below ``configs``, overrides) that share one schedule. Every run
is the stock ``tools/train_net.py`` in a process of its own, so the table shows what a user of that command gets. A
finished run leaves a file in ``benchmarks/results/<trial>`` and is not repeated while that is there. So it may be
stopped at any time and started again. ``--again`` measures again. ``--report`` prints the table of what has finished.

The rows of "variants" and "mosaic" come from the registry ``NONLOCAL``: a block that is registered is a row.
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
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
Row = tuple[str, str, list[str]]
# What variant_costs.py measured.
VARIANT_COSTS = ROOT / "benchmarks/results/variants/costs.json"

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


def own_videos(config: str) -> list[Row]:
    """The rows of a config for videos of one's own."""
    return [
        ("C2D", config, ["MODEL.BACKBONE.TEMPORAL", "c2d"]),
        ("I3D", config, []),
        ("I3D + non-local", f"{config}_nl", []),
    ]


# What the rows with the same network begin with, in the trials that say so.
STARTS: list[Row] = [("C2D, the start", "quickstart/c2d", []), ("I3D, the start", "quickstart/i3d", [])]
# Blocks whose channels inside have another name, and one that mixes frames only where it is told to.
OWN_ARGS = {
    "GlobalContext": [["ratio", 2]],
    "GlobalReasoning": [["nodes", 8]],
    "BilinearAttentionTransform": [["frames", 4]],
}


def variant_rows() -> list[Row]:
    """C2D and I3D without a block, and I3D with each registered block: the paper's in its four forms, others by name.

    All have the usual arguments but for the channels inside. They are half of the map's 16, as in the paper's block.
    The usual share of some, such as an eighth, would leave one or two.
    """
    from nlvideo.modeling.nonlocal_block import NONLOCAL  # only now: --help answers without loading torch
    from nlvideo.modeling.nonlocal_block.base import constructor_arguments
    from nlvideo.modeling.nonlocal_block.block import PAIRWISE

    rows = [
        *STARTS,
        *FOUR_MODELS[::2],
        *((f"NonLocalBlock, {form}", "quickstart/i3d_nl", ["MODEL.NONLOCAL.PAIRWISE", form]) for form in PAIRWISE),
    ]
    for name in sorted(set(NONLOCAL) - {"NonLocalBlock"}):
        args = list(OWN_ARGS.get(name, []))
        if "inner_channels" in constructor_arguments(NONLOCAL.get(name)):
            args.append(["inner_channels", 8])
        # Blocks that have pairwise functions take the usual one, not quickstart's.
        words = ["MODEL.NONLOCAL.NAME", name, "MODEL.NONLOCAL.PAIRWISE", "embedded_gaussian"]
        rows.append((name, "quickstart/i3d_nl", [*words, "MODEL.NONLOCAL.ARGS", str(args)]))
    return rows


def slow_rows() -> list[Row]:
    """The rows of "variants" whose mean is below 50 %, and what they begin with: is three times the schedule enough?"""
    rows = variant_rows()
    files = (ROOT / "benchmarks/results/variants").glob("*_seed*.json")
    found = [(path.stem.rpartition("_")[0], json.loads(path.read_text())["top1"]) for path in files]
    low = {stem for stem, _ in found if statistics.mean(top1 for other, top1 in found if other == stem) < 50}
    return [*STARTS, *(row for row in rows[len(STARTS) :] if stem_of(row[0]) in low)]


def small_r2plus1d(side: int, epochs: str) -> list[tuple[str, str, list[str]]]:
    """R(2+1)D-18 of torchvision from random weights, with smaller and fewer frames than usual: for two cores."""
    overrides = [
        *("MODEL.WEIGHTS", "", "SOLVER.HEAD_LR_FACTOR", "1.0", "SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", "0.0005"),
        *("SOLVER.WEIGHT_DECAY", "0.05", "SOLVER.MIN_ITER", "300", "SOLVER.MAX_EPOCHS", epochs),
        *("INPUT.NUM_FRAMES", "8", "INPUT.CLIP_SAMPLER", "SegmentClip", "INPUT.FPS", "0.0"),
        *("INPUT.CROP_SIZE", f"{side}", "INPUT.SHORT_SIDE_RANGE", f"[{side}, {side * 17 // 14}]"),
        *("TEST.SHORT_SIDE", f"{side}", "TEST.CROP_SIZE", f"{side}", "TEST.CLIP_SAMPLER", "SegmentClip"),
        *("TEST.NUM_CLIPS", "2", "DATALOADER.NUM_WORKERS", "1"),
    ]
    return [(f"R(2+1)D-18, 8 x {side} pixels", "finetune/r2plus1d_18", overrides)]


def list_overrides(root: Path) -> list[str]:
    """The lists of a dataset in a folder."""
    train, val = (f"['list:{root}/{split}.csv']" for split in ("train", "val"))
    return ["DATASETS.TRAIN", train, "DATASETS.TEST", val]


def data_overrides(name: str) -> list[str]:
    """What README has a user type for videos of their own: the two lists.

    Raises:
        SystemExit: NLVIDEO_TEST_DATA is not set or has no such folder.
    """
    folder = Path(os.environ.get("NLVIDEO_TEST_DATA", "")) / name
    if not (folder / "train.csv").is_file():
        sys.exit(f"set NLVIDEO_TEST_DATA to a folder with {name}/train.csv and {name}/val.csv")
    return list_overrides(folder.resolve())


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


# Frames of 48 pixels, for less than half the time. He et al.: with 0.01 a softmax of embeddings starts almost uniform.
SCHEDULE = [
    *("INPUT.CROP_SIZE", "48", "TEST.SHORT_SIDE", "48", "TEST.CROP_SIZE", "48", "TEST.NUM_CROPS", "1"),
    *("MODEL.NONLOCAL.INIT_STD", "0.0", "SOLVER.MAX_ITER", "1000", "SOLVER.BASE_LR", "0.003"),
]
VARIANTS = [*SCHEDULE, "INPUT.SHORT_SIDE_RANGE", "[48, 52]"]


def beacon_alone() -> list[str]:
    """The start of "variants": videos of a single agent, which are made on first use."""
    from nlvideo.data.datasets.beacon import BeaconSpec, generate_beacon
    from nlvideo.data.datasets.official import datasets_root

    return list_overrides(generate_beacon(datasets_root() / "beacon_alone", BeaconSpec(num_agents=1, num_val=400)))


def mosaic_overrides() -> list[str]:
    """What turns a quickstart config into one for mosaic, which is made on first use.

    Training takes the easier videos, too: without them a network forgets the actions before it knows which one counts.
    """
    root = mosaic()
    lists = ", ".join(f"'list:{root}/train{kind}.csv'" for kind in ("", "_pair", "_everywhere"))
    return [
        *list_overrides(root),
        *("DATASETS.TRAIN", f"[{lists}]", *SCHEDULE),
        *("INPUT.NUM_FRAMES", "28", "INPUT.SHORT_SIDE_RANGE", "[48, 48]", "INPUT.FLIP_PROB", "0.5"),
        *("MODEL.HEAD.NUM_CLASSES", "4", "SOLVER.MAX_ITER", "2000"),
    ]


def mosaic_start() -> list[str]:
    """The start of "mosaic": one clip in all quadrants or in its own, to be named with its colour."""
    return [*list_overrides(mosaic() / "start"), "MODEL.HEAD.NUM_CLASSES", "16"]


@functools.cache
def mosaic() -> Path:
    """The folder of the dataset mosaic.

    Raises:
        SystemExit: NLVIDEO_TEST_DATA has no thermal clips, which it is made of.
    """
    from mosaic import make  # a script beside this one: only there when this one is run

    from nlvideo.data.datasets.official import datasets_root

    data_overrides("thermal")  # says what is missing
    thermal = Path(os.environ["NLVIDEO_TEST_DATA"]).resolve() / "thermal"
    return make(thermal, datasets_root().resolve() / "mosaic")


# Functions are called when they are needed. "seeded" rows have all the seeds, the others the first alone. "start": what
# STARTS are trained on; the other rows begin with their weights.
TRIALS: dict[str, dict[str, Any]] = {
    "variants": {"rows": variant_rows, "overrides": lambda: VARIANTS, "start": beacon_alone},
    "variants_long": {
        "rows": slow_rows,
        "overrides": lambda: [*VARIANTS, "SOLVER.MAX_ITER", "3000"],
        "start": lambda: [*beacon_alone(), "SOLVER.MAX_ITER", "1000"],
        "seeded": 0,
    },
    "mosaic": {"rows": variant_rows, "overrides": mosaic_overrides, "start": mosaic_start, "seeded": len(STARTS) + 6},
    "beacon": {"rows": lambda: FOUR_MODELS + ATTENDING, "overrides": lambda: ["SOLVER.MAX_ITER", "2000"]},
    "forms": {"rows": lambda: FORMS, "overrides": lambda: ["SOLVER.MAX_ITER", "2000"]},
    "thermal": {"rows": lambda: FOUR_MODELS, "overrides": thermal_overrides},
    "finetune_fights": {
        "rows": lambda: own_videos("finetune/tiny_few") + small_r2plus1d(56, "5.0"),
        "overrides": functools.partial(data_overrides, "fights"),
    },
    "finetune_thermal": {
        "rows": lambda: own_videos("finetune/tiny") + small_r2plus1d(32, "3.0"),
        "overrides": functools.partial(data_overrides, "thermal"),
    },
}


def plan(trial: str, seeds: list[int]) -> list[tuple[Row, int]]:
    """The runs of a trial: row and seed. A grid that is cut short still compares all models."""
    rows = TRIALS[trial]["rows"]()
    seeded = TRIALS[trial].get("seeded", len(rows))
    return [(row, seed) for index, seed in enumerate(seeds) for row in (rows if index == 0 else rows[:seeded])]


def stem_of(name: str) -> str:
    """The name of a row as its files have it."""
    return re.sub("[^a-z0-9]+", "_", name.lower())


def place(trial: str, name: str, seed: int, out: Path) -> tuple[Path, Path]:
    """The file of the result of a run, and its folder below ``out``."""
    stem = f"{stem_of(name)}_seed{seed}"
    return ROOT / "benchmarks/results" / trial / f"{stem}.json", out.resolve() / trial / stem


def start_of(trial: str, row: Row) -> str | None:
    """The name of the row whose weights another begins with, or None: that with the same network without a block."""
    begins = {config: name for name, config, _ in STARTS} if "start" in TRIALS[trial] and row not in STARTS else {}
    return begins.get(row[1].removesuffix("_nl"))


def run(trial: str, row: Row, seed: int, args: argparse.Namespace, start: concurrent.futures.Future | None) -> dict:
    """Train and test one model, if its result is not there already or ``args.again``; return the result.

    Args:
        trial: a key of ``TRIALS``.
        row: one of its rows.
        seed: of the run.
        args: the command line.
        start: the run that must have ended before; None where nothing must.
    """
    name, config, overrides = row
    result_file, out = place(trial, name, seed, args.out)
    if result_file.is_file() and not args.again:
        return json.loads(result_file.read_text())
    out.mkdir(parents=True, exist_ok=True)
    words = [*TRIALS[trial]["overrides"](), *overrides]
    if row in STARTS:
        words += TRIALS[trial]["start"]()
    if start is not None:
        start.result()
        begin = str(start_of(trial, row))
        weights = place(trial, begin, seed, args.out)[1] / "model_final.pth"
        if not weights.is_file():
            raise RuntimeError(f"no weights in {weights}: run --rows {begin!r} --again")
        words += ["MODEL.WEIGHTS", str(weights)]
    words = [
        *("--config-file", f"configs/{config}.yaml", *words, "TEST.EVAL_PERIOD", "0", "TEST.EVAL_FRACTION", "0.0"),
        *("SEED", str(seed), "OUTPUT_DIR", str(out)),
    ]
    begun = time.time()
    with open(out / "console.txt", "w") as console:
        done = subprocess.run(
            [sys.executable, "tools/train_net.py", *words],
            stdout=console,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
        )
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: see {out / 'console.txt'}")
    metrics = last_metrics(out / "metrics.json")
    result = {
        "top1": metrics["classification/top1"],
        "top5": metrics["classification/top5"],
        "num_videos": metrics["classification/num_videos"],
        "minutes": round((time.time() - begun) / 60, 1),
        "config": config,
        "overrides": overrides,
        "seed": seed,
        "threads": args.threads,
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
    added, costs = cost_columns() if trial == "variants" else ([], {})
    titles = ["model", "top-1 (mean ± std)", *(f"seed {s}" for s in seeds), "minutes a run", *added]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, _, _ in TRIALS[trial]["rows"]():
        runs = [results[name, s] for s in seeds if (name, s) in results]
        if not runs:
            continue
        top1 = [r["top1"] for r in runs]
        spread = f"{statistics.mean(top1):.1f}"
        spread += f" ± {statistics.stdev(top1):.1f}" if len(top1) > 1 else " (one seed)"
        cells = [f"{results[name, s]['top1']:.1f}" if (name, s) in results else "" for s in seeds]
        minutes = statistics.median(r["minutes"] for r in runs)
        lines.append(f"| {' | '.join([name, spread, *cells, f'{minutes:.1f}', *costs.get(name, [''] * len(added))])} |")
    return "\n".join(lines)


def cost_columns() -> tuple[list[str], dict[str, list[str]]]:
    """Titles, and the cells of each row, of what ``variant_costs.py`` measured; without its file there are none."""
    if not VARIANT_COSTS.is_file():
        return [], {}
    found = json.loads(VARIANT_COSTS.read_text())
    titles = ["parameters of the block", "million multiply-adds of the block"]
    titles += [f"{name}: {unit}" for name in found["maps"] for unit in ("ms", "MiB")]
    cells = {}
    for name in found["maps"]["beacon"]:
        block = found["blocks"].get(name)
        cells[name] = [f"{block['params']:,}", f"{1e3 * block['gmacs']:.2f}"] if block else ["", ""]
        for rows in found["maps"].values():
            row = rows.get(name)
            peak = "" if not row or row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}"
            cells[name] += [f"{1e3 * row['seconds']:.0f}" if row else "", peak]
    return titles, cells


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
        for key in ("overrides", "start"):  # says what is missing, and makes it, before anything starts
            TRIALS[args.trial].get(key, list)()
    results = {}
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        futures: dict[tuple[str | None, int], concurrent.futures.Future] = {}
        for row, seed in plan(args.trial, args.seeds):
            name, wanted = row[0], args.rows or [row[0]]
            if name not in wanted and not (row in STARTS and not args.report):
                continue
            if args.report and not place(args.trial, name, seed, args.out)[0].is_file():
                continue
            # A start is submitted before what begins with it, so that the wait for it ends.
            start = futures.get((start_of(args.trial, row), seed))
            futures[name, seed] = pool.submit(run, args.trial, row, seed, args, start)
        names = {job: key for key, job in futures.items()}
        for job in concurrent.futures.as_completed(names):
            name, seed = names[job]
            results[name, seed] = job.result()
            print(f"{name}, seed {seed}: {results[name, seed]['top1']:.2f} %", flush=True)
    print(report(args.trial, results, args.seeds))


if __name__ == "__main__":
    main()
