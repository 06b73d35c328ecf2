#!/usr/bin/env python3
"""Make lists for DATASETS.TRAIN and DATASETS.TEST from a dataset's official annotation files and a folder of videos.

Writes train.csv, val.csv and classes.txt, to be used as 'list:OUT/train.csv', and missing.txt where videos are missing.
Exits with 1 where more videos are missing than allowed or an annotation file is not one of this dataset.
"""

import argparse
import sys
from pathlib import Path

from nlvideo.engine.script import ScriptParser, run_script

NAMES = (
    "kinetics400, kinetics600, kinetics700, ssv1, ssv2, charades, diving48,"
    " ucf101_split1 (2, 3), hmdb51_split1 (2, 3); see datasets/README.md"
)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help=NAMES)
    parser.add_argument(
        "--videos", type=Path, required=True, metavar="DIR", help="videos or folders of frames, up to 3 folders deep"
    )
    parser.add_argument(
        "--annotations", type=Path, nargs="+", required=True, metavar="FILE",
        help="official files, or folders that hold them; their names tell what they are",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write into")
    parser.add_argument(
        "--max-missing", type=float, metavar="F",
        help="fraction of a split that may be missing (default: Kinetics 0.1, else 0)",
    )  # fmt: skip
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Write the lists and print what was found."""
    # Only now: --help answers without loading torch.
    from nlvideo.dataset_tools.prepare import count_table, prepare_dataset
    from nlvideo.errors import AnnotationError
    from nlvideo.utils.console import create_table
    from nlvideo.utils.files.file_io import must_be_local

    if arguments.max_missing is not None and not 0 <= arguments.max_missing <= 1:
        raise ValueError(f"--max-missing: got {arguments.max_missing}, allowed: 0 to 1")
    # As text: a Path would make one slash of two.
    must_be_local("--out", arguments.out)
    try:
        prepared = prepare_dataset(
            arguments.name, arguments.videos, arguments.annotations, Path(arguments.out), arguments.max_missing
        )
    except AnnotationError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    print(create_table(count_table(prepared.splits)))
    for title, found in prepared.splits.items():
        extra = f", {found.repeated} repeated entries left out" if found.repeated else ""
        share = f"{len(found.missing)} missing ({found.missing_fraction:.1%})"
        print(f"{title}: {len(found.records)} videos, {len(found.classes)} classes, {share}{extra}")
    if prepared.shared:
        print(f"warning: {len(prepared.shared)} videos are in both lists, such as {prepared.shared[0]}")
    print(f"written: {', '.join(map(str, prepared.files)) or 'nothing'}")
    if prepared.too_many_missing:
        lists = " and ".join(prepared.too_many_missing)
        sys.exit(f"{Path(sys.argv[0]).name}: too many videos of {lists} are missing, see --max-missing; no lists made")


if __name__ == "__main__":
    run_script(main, build_parser())
