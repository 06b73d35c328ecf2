#!/usr/bin/env python3
"""Write the videos of a dataset into tar files that WebDataset reads, to be used as 'wds:PATTERN'."""

import argparse

from nlvideo.engine.script import ScriptParser, run_script
from nlvideo.utils.system.processes import usable_cpus


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(
        description=__doc__ + " Run again, it goes on where it was interrupted.",
        epilog="Example: make_shards.py list:videos/train.csv 'shards/train-{000000..000099}.tar'",
    )
    parser.add_argument("name", metavar="DATASET", help="a name in the catalog, list:FILE or folder:DIR")
    parser.add_argument("pattern", metavar="PATTERN", help="paths of the shards; their number is that of the pattern")
    parser.add_argument("--keep-order", action="store_true", help="do not shuffle the videos; for testing only")
    workers = usable_cpus()
    parser.add_argument("--num-workers", type=int, default=workers, metavar="N", help="shards at once (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that hold something else")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Write the shards and print what was done."""
    # Only now: --help answers without loading torch.
    from nlvideo.data import MetadataCatalog, get_dataset
    from nlvideo.data.records.shard_files import expand_pattern
    from nlvideo.dataset_tools.shard_writing import write_shards
    from nlvideo.utils.files.file_io import absolute_path

    if arguments.num_workers < 1:
        raise ValueError(f"--num-workers: got {arguments.num_workers}, allowed: 1 or more")
    if "*" in arguments.pattern:
        raise ValueError(f"PATTERN: got {arguments.pattern}, allowed: a range such as train-{{000000..000099}}.tar")
    if arguments.name.startswith("wds:"):
        raise ValueError(f"DATASET: got {arguments.name}, whose videos are in shards already; allowed: other datasets")
    records = get_dataset(arguments.name)
    made = write_shards(
        records,
        [absolute_path(path) for path in expand_pattern(arguments.pattern)],
        classes=MetadataCatalog.get(arguments.name).classes,
        shuffle_seed=None if arguments.keep_order else 0,
        num_workers=arguments.num_workers,
        overwrite=arguments.overwrite,
    )
    size = f"{made.num_bytes / 2**20:.1f} MiB"
    print(f"{len(records)} videos, {size}: wrote {len(made.written)} shards, kept {len(made.kept)} that were there")
    print(f"Use them as 'wds:{arguments.pattern}'")


if __name__ == "__main__":
    run_script(main, build_parser())
