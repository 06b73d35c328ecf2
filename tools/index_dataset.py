#!/usr/bin/env python3
"""Index every video of a dataset, so that training opens each without reading it whole; exits with 1 if some fail."""

import argparse
import sys

from nlvideo.engine.script import ScriptParser, run_script
from nlvideo.utils.system.processes import usable_cpus


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(
        description=__doc__,
        epilog="Example: index_dataset.py folder:videos/train --index-dir videos/index; then DATALOADER.INDEX_DIR"
        " videos/index. Each video is decoded once, and frames by random access are compared with what comes out. A"
        " video that fails is read from its start in training. Videos that were compared before, and have not changed,"
        " are left alone.",
    )
    parser.add_argument("name", metavar="NAME", help="a name in the catalog, list:FILE or folder:DIR")
    parser.add_argument("--index-dir", required=True, metavar="DIR", help="folder of the index, made if missing")
    parser.add_argument(
        "--num-workers", type=int, default=usable_cpus(), metavar="N", help="videos read at once (%(default)s)"
    )
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Print the videos that cannot be indexed, and a summary."""
    # Only now: --help answers without loading torch.
    from nlvideo.data import get_dataset
    from nlvideo.dataset_tools.indexing import index_videos

    if arguments.num_workers < 1:
        raise ValueError(f"--num-workers: got {arguments.num_workers}, allowed: 1 or more")
    records = get_dataset(arguments.name)
    if not records:
        raise ValueError(f"{arguments.name}: the dataset is empty")
    result = index_videos([record["file_name"] for record in records], arguments.index_dir, arguments.num_workers)
    for path, reason in result.failed:
        print(f"{path}: {reason}")
    print(
        f"{arguments.name}: {result.num_indexed} videos indexed, {result.num_known} known before,"
        f" {result.num_slow} to be read from their beginning, {len(result.failed)} failed"
    )
    if result.failed:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main, build_parser())
