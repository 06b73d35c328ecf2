#!/usr/bin/env python3
"""Decode every video of a dataset from end to end and list those that fail; exits with 1 where there are any."""

import argparse
import os
import sys

from nlvideo.engine.script import run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="Example: check_dataset.py list:videos/train.csv")
    parser.add_argument("name", metavar="NAME", help="a name in the catalog, list:FILE or folder:DIR")
    parser.add_argument(
        "--num-workers", type=int, default=os.cpu_count() or 1, metavar="N", help="videos decoded at once (%(default)s)"
    )
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Print the bad videos and a summary."""
    # Only now: --help answers without loading torch.
    from nlvideo.data import get_dataset
    from nlvideo.data.checks import find_bad_videos, fingerprint

    if arguments.num_workers < 1:
        raise ValueError(f"--num-workers: got {arguments.num_workers}, allowed: 1 or more")
    records = get_dataset(arguments.name)
    if not records:
        raise ValueError(f"{arguments.name}: the dataset is empty")
    bad = find_bad_videos(records, arguments.num_workers)
    for path, reason in bad:
        print(f"{path}: {reason}")
    print(f"{arguments.name}: {len(records)} videos, {len(bad)} bad, fingerprint {fingerprint(records)}")
    if bad:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main, build_parser())
