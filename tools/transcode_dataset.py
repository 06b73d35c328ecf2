#!/usr/bin/env python3
"""Encode the videos of a dataset again, small and with key-frames close together, so that training decodes fast."""

import argparse
import sys

from nlvideo.engine.script import ScriptParser, run_script
from nlvideo.utils.system.processes import usable_cpus


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(
        description=f"{__doc__} H.264 in MP4, no sound; every frame is kept. Run again, it goes on where it was.",
        epilog="Example: transcode_dataset.py list:videos/train.csv small, then use 'list:small/train.csv'",
    )
    parser.add_argument("name", metavar="DATASET", help="a name in the catalog, list:FILE or folder:DIR")
    parser.add_argument("out", metavar="OUT", help="folder for the new videos and their list")
    parser.add_argument("--short-side", type=int, default=256, metavar="PX", help="at most (%(default)s)")
    parser.add_argument(
        "--key-frame-distance", type=int, default=30, metavar="N", help="a key-frame every N frames (%(default)s)"
    )
    parser.add_argument("--crf", type=int, default=20, metavar="Q", help="0 is lossless, 51 the worst (%(default)s)")
    parser.add_argument("--preset", default="medium", help="of x264, ultrafast to veryslow (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace files in OUT that were made otherwise")
    parser.add_argument(
        "--num-workers", type=int, default=usable_cpus(), metavar="N", help="videos at once (%(default)s)"
    )
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Transcode, and print failures and a summary."""
    # Only now: --help answers without loading torch.
    from nlvideo.data import get_dataset
    from nlvideo.dataset_tools.transcode import PRESETS, TranscodeOptions, transcode_dataset

    for flag, low in (("short_side", 2), ("key_frame_distance", 1), ("num_workers", 1)):
        if getattr(arguments, flag) < low:
            given = getattr(arguments, flag)
            raise ValueError(f"--{flag.replace('_', '-')}: got {given}, allowed: {low} or more")
    if not 0 <= arguments.crf <= 51:
        raise ValueError(f"--crf: got {arguments.crf}, allowed: 0 to 51")
    if arguments.preset not in PRESETS:
        raise ValueError(f"--preset: got {arguments.preset}, allowed: {', '.join(PRESETS)}")
    records = get_dataset(arguments.name)
    if not records:
        raise ValueError(f"{arguments.name}: the dataset is empty")
    options = TranscodeOptions(arguments.short_side, arguments.key_frame_distance, arguments.crf, arguments.preset)
    done, listed = transcode_dataset(
        arguments.name, records, arguments.out, options, arguments.num_workers, arguments.overwrite
    )
    bad, good = ([result for result in done if (result.error is None) == well] for well in (False, True))
    for result in bad:
        print(f"{result.source}: {result.error}")
    kept = sum(result.kept for result in good)
    before, after = sum(r.bytes_before for r in good) / 2**20, sum(r.bytes_after for r in good) / 2**20
    print(f"{len(good)} videos transcoded ({kept} of them before), {len(bad)} failed; {before:.1f} to {after:.1f} MiB")
    print(f"Use them as 'list:{listed}'")
    if bad:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main, build_parser())
