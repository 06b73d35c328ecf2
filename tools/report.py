#!/usr/bin/env python3
"""Write one HTML page that tells what a run did, or how several runs compare: curves, results, mistakes, costs.

Examples:
    tools/report.py output/quickstart/i3d_nl
    tools/report.py output/quickstart/i3d output/quickstart/i3d_nl --output comparison.html
"""

import argparse
import os

from nlvideo.engine.script import ScriptParser, run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(
        description=__doc__,
        epilog="The page needs no other file: send it, open it without a network, print it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="OUTPUT_DIR of a run")
    parser.add_argument(
        "--output", metavar="FILE", help="file to write (default: report.html in RUN; of several in the current folder)"
    )
    parser.add_argument(
        "--clips-mb", type=float, default=4.0, metavar="MB", help="size of all clips together (default: %(default)s)"
    )
    parser.add_argument(
        "--heat", action="store_true", help="run the network on the mistakes: show what spoke for the predicted class"
    )
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Write the page and say where it is."""
    # Only now: --help answers without loading torch.
    from nlvideo.visualization.report import write_report
    from nlvideo.visualization.report.clips import Budget

    if not arguments.clips_mb >= 0:
        raise ValueError(f"--clips-mb: got {arguments.clips_mb}, allowed: 0 or more")
    runs = arguments.runs
    for run in runs:
        if not os.path.isdir(run):
            raise ValueError(f"{run}: there is no such folder")
    output = arguments.output or os.path.join(runs[0] if len(runs) == 1 else "", "report.html")
    # Checked before the work. The error of writing would name a temporary file.
    if os.path.isdir(output) or not os.path.isdir(os.path.dirname(os.path.abspath(output))):
        raise ValueError(f"--output: got {output!r}, allowed: a file in a folder that is there")
    write_report(runs, output, Budget(num_bytes=int(arguments.clips_mb * 1e6)), arguments.heat)
    print(f"Wrote {output} ({os.path.getsize(output) / 1e6:.1f} MB)")


if __name__ == "__main__":
    run_script(main, build_parser())
