#!/usr/bin/env python3
"""Write MODEL_ZOO.md from the ledger, or check that it is up to date."""

import argparse
import sys
from pathlib import Path

from nlvideo.engine.script import ScriptParser, run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the file is stale")
    parser.add_argument("--ledger", metavar="FILE", help="(default: that of nlvideo)")
    parser.add_argument("--output", default="MODEL_ZOO.md", metavar="FILE", help="(default: %(default)s)")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Write the file, or compare it."""
    # Only now: --help answers without loading torch.
    from nlvideo.model_zoo import list_networks
    from nlvideo.tools.lib.ledger import LEDGER_FILE, format_model_zoo, read_ledger
    from nlvideo.utils.files.file_io import write_text

    ledger = arguments.ledger or LEDGER_FILE
    text = format_model_zoo(read_ledger(ledger), list_networks())
    output = Path(arguments.output)
    if arguments.check:
        if not output.is_file() or output.read_text(encoding="utf8") != text:
            print(f"{output} is not what {ledger} gives: run tools/make_model_zoo.py")
            sys.exit(1)
        print(f"{output} is up to date")
        return
    write_text(output, text)
    print(f"Wrote {output}")


if __name__ == "__main__":
    run_script(main, build_parser())
