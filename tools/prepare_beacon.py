#!/usr/bin/env python3
"""Make a "beacon" dataset: small videos that a network can classify only if it relates positions far apart.

The default dataset is made by itself, the first time that "beacon_train" or "beacon_val" is used. This tool makes it
ahead of time, or makes harder and easier ones. Train on those with DATASETS.TRAIN "['list:OUT/train.csv']".
"""

import argparse
from dataclasses import fields

from nlvideo.engine.script import ScriptParser, run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line; what is not given takes the default of ``BeaconSpec``."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="folder to make (default: $NLVIDEO_DATASETS/beacon or ./datasets/beacon)")
    parser.add_argument("--agents", type=int, dest="num_agents", help="agents in each clip (default: 3)")
    parser.add_argument("--colours", type=int, dest="num_colours", help="colours to draw from (default: 3)")
    parser.add_argument("--frames", type=int, dest="num_frames", help="frames of a clip (default: 8)")
    parser.add_argument("--size", type=int, help="height and width in pixels (default: 64)")
    parser.add_argument("--overlap", action="store_true", default=None, help="agents enter before the lamp goes out")
    parser.add_argument("--train", type=int, dest="num_train", help="clips of the training split (default: 4000)")
    parser.add_argument("--val", type=int, dest="num_val", help="clips of the validation split (default: 800)")
    parser.add_argument("--seed", type=int, help="of everything random (default: 0)")
    parser.add_argument("--processes", type=int, help="processes that draw and encode (default: one for each core)")
    return parser


def main(args: argparse.Namespace) -> None:
    """Make the dataset and say where it is."""
    # Only now: --help answers without loading torch.
    from nlvideo.data.datasets.beacon import BeaconSpec, generate_beacon
    from nlvideo.data.datasets.official import datasets_root

    given = {f.name: getattr(args, f.name) for f in fields(BeaconSpec) if getattr(args, f.name) is not None}
    root = generate_beacon(args.out or datasets_root() / "beacon", BeaconSpec(**given), args.processes)
    print(f"{root}: train.csv, val.csv, classes.txt, truth.jsonl, spec.json, videos/")


if __name__ == "__main__":
    run_script(main, build_parser())
