#!/usr/bin/env python3
"""Decode every video of a dataset from end to end, say what is in it and what fails; exits with 1 where any does."""

import argparse
import sys

from nlvideo.engine.script import ScriptParser, run_script
from nlvideo.utils.system.processes import usable_cpus


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(
        description=f"{__doc__} Ctrl-C stops it and reports what was found.",
        epilog="Example: check_dataset.py list:videos/train.csv --json found.json",
    )
    parser.add_argument("name", metavar="NAME", help="a name in the catalog, list:FILE, folder:DIR or wds:PATTERN")
    parser.add_argument("--json", metavar="OUT", help="write all that was found about every file")
    parser.add_argument("--fix-list", metavar="OUT", help="write a list without the bad files, for list:OUT")
    parser.add_argument(
        "--short-side", type=int, default=256, metavar="PX", help="of the frames that training will use (%(default)s)"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="look at so many files, evenly spread (default: all)")
    parser.add_argument(
        "--clip-frames", type=int, default=64, metavar="N", help="from a training clip's first to last (%(default)s)"
    )
    parser.add_argument(
        "--num-workers", type=int, default=usable_cpus(), metavar="N", help="videos decoded at once (%(default)s)"
    )
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Print the bad videos, tables and a summary."""
    # Only now: --help answers without loading torch.
    from nlvideo.data import get_dataset
    from nlvideo.data.checks import fingerprint
    from nlvideo.data.datasets.list_files import prepare_to_write_list, write_list
    from nlvideo.tools.lib.survey import advise, format_survey, negative_labels, survey_dataset, to_json
    from nlvideo.utils.files.file_io import write_json

    for flag in ("num_workers", "clip_frames", "short_side", "sample"):
        given = getattr(arguments, flag)
        if given is not None and given < 1:
            raise ValueError(f"--{flag.replace('_', '-')}: got {given}, allowed: 1 or more")
    if arguments.fix_list and arguments.sample:
        raise ValueError("--fix-list: a list without the bad files needs a look at all, allowed: without --sample")
    records = get_dataset(arguments.name)
    if not records:
        raise ValueError(f"{arguments.name}: the dataset is empty")
    if arguments.fix_list:
        prepare_to_write_list(arguments.name, records, arguments.fix_list)
    bad_labels = negative_labels(records)
    survey, complete = survey_dataset(records, arguments.num_workers, arguments.sample)
    for facts in survey.bad:
        print(f"{facts.path}: {facts.error}")
    for video_id, reason in [*survey.bad_parts.items(), *bad_labels.items()]:
        print(f"{video_id}: {reason}")
    print(f"\n{format_survey(survey)}\n")
    if advice := advise(survey.good, arguments.clip_frames, arguments.short_side):
        print(f"{advice}\n")
    if arguments.json:
        write_json(arguments.json, to_json(survey) | {"dataset": arguments.name, "complete": complete})
    if not complete:
        print(f"stopped: {len(survey.files)} of {survey.num_files} files looked at, {len(survey.bad)} bad")
        raise KeyboardInterrupt
    bad_files, bad_ids = {facts.path for facts in survey.bad}, survey.bad_parts.keys() | bad_labels.keys()
    good = [record for record in records if record["file_name"] not in bad_files and record["video_id"] not in bad_ids]
    if arguments.fix_list:
        write_list(arguments.name, good, arguments.fix_list)
    looked_at = f" ({len(survey.files)} of {survey.num_files} files looked at)" if arguments.sample else ""
    num_bad = len(records) - len(good)
    print(f"{arguments.name}: {len(records)} videos{looked_at}, {num_bad} bad, fingerprint {fingerprint(records)}")
    if num_bad:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main, build_parser())
