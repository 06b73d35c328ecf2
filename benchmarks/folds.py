#!/usr/bin/env python3
"""Cross-validate a config on a small dataset, beside logistic regression on pixels.

    python benchmarks/folds.py finetune/tiny_few list:fights/train.csv list:fights/val.csv

All videos of the datasets are put together and dealt into folds, class by class. Each fold is the validation set once,
and the others train. With few videos this says more than one split does. Options come first, overrides last.
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from nlvideo.data import get_dataset

ROOT = Path(__file__).resolve().parent.parent


def deal(datasets: list[str], num_folds: int, seed: int) -> list[list[tuple[str, int]]]:
    """Return the folds: (path, label) of each video. The same seed deals the same folds."""
    by_class = defaultdict(list)
    for record in (record for name in datasets for record in get_dataset(name)):
        by_class[record["label"]].append(os.path.abspath(record["file_name"]))
    folds: list[list[tuple[str, int]]] = [[] for _ in range(num_folds)]
    for label, paths in sorted(by_class.items()):
        paths.sort()
        random.Random(seed).shuffle(paths)
        for index, path in enumerate(paths):
            folds[index % num_folds].append((path, label))
    return folds


def write_list(path: Path, rows: list[tuple[str, int]]) -> str:
    """Write a list of videos and return its name as a dataset."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return f"list:{path}"


def train(config: str, train_list: str, val_list: str, out: Path, overrides: list[str]) -> float:
    """Train and test with the stock tool and return the top-1 accuracy in percent."""
    words = ["DATASETS.TRAIN", f"['{train_list}']", "DATASETS.TEST", f"['{val_list}']", "OUTPUT_DIR", str(out)]
    command = [sys.executable, "tools/train_net.py", "--config-file", f"configs/{config}.yaml", *words, *overrides]
    with open(out.parent / f"{out.name}.txt", "w") as console:
        subprocess.run(command, stdout=console, stderr=subprocess.STDOUT, cwd=ROOT, check=True)
    (result,) = (out / "inference").glob("*.json")
    return json.loads(result.read_text())["classification"]["top1"]


def main() -> None:
    """Print the accuracy of each fold, and the mean over all videos."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config below configs, such as finetune/tiny_few")
    parser.add_argument("train", help="a dataset as in DATASETS.TRAIN")
    parser.add_argument("val", help="a dataset as in DATASETS.TEST")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1, help="of the deal")
    parser.add_argument("--out", type=Path, default=ROOT / "output/folds", help="folder of lists, logs and runs")
    args = parser.parse_args()
    from pixel_baseline import accuracies  # a script beside this one: only there when this one is run

    folds = deal([args.train, args.val], args.folds, args.seed)
    rows = []
    for index, fold in enumerate(folds):
        others = [row for other in folds if other is not fold for row in other]
        train_list = write_list(args.out.resolve() / f"train{index}.csv", others)
        val_list = write_list(args.out.resolve() / f"val{index}.csv", fold)
        top1 = train(args.config, train_list, val_list, args.out.resolve() / f"run{index}", args.opts)
        rows.append((top1, *accuracies(train_list, val_list)))
        print(f"fold {index}: {top1:.1f} %, logistic regression {rows[-1][1]:.1f} and {rows[-1][2]:.1f} %", flush=True)
    means = np.average(rows, axis=0, weights=[len(fold) for fold in folds])
    print(f"mean: {means[0]:.1f} %, logistic regression {means[1]:.1f} (in order) and {means[2]:.1f} % (order lost)")


if __name__ == "__main__":
    main()
