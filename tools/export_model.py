#!/usr/bin/env python3
"""Export a trained model to one file that runs without nlvideo: .pt2 (torch.export) or .onnx.

The graph takes uint8 clips (N, 3, T, H, W) and gives probabilities (N, classes). Before the file gets its name, its
scores are compared with the model's on a real clip. docs/export.md shows how to use it.

Examples:
    tools/export_model.py --model quickstart --output output/quickstart.onnx
    tools/export_model.py --config-file configs/quickstart/i3d_nl.yaml \\
        --weights output/quickstart/i3d_nl/model_final.pth --output output/model.pt2
"""

import argparse
import os

from nlvideo.engine.script import ScriptParser, add_model_arguments, chosen_model, run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser, device=False)
    parser.add_argument("--output", metavar="FILE", required=True, help="file to write, *.pt2 or *.onnx")
    parser.add_argument("--format", metavar="F", help="pt2 or onnx (default: the ending of --output)")
    parser.add_argument("--video", metavar="FILE", help="to compare on (default: the first of DATASETS.TEST)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Export, and print how far the scores are apart."""
    # Only now: --help answers without loading torch.
    from nlvideo.export.exporter import export_model
    from nlvideo.model_zoo import Predictor

    predictor = Predictor(**chosen_model(arguments) | {"device": "cpu"})
    done = export_model(
        predictor.model, predictor.cfg, predictor.classes, arguments.output, arguments.format, arguments.video,
        arguments.overwrite,
    )  # fmt: skip
    print(
        f"{done.path}: {len(done.recipe['classes'])} classes, {os.path.getsize(done.path) / 2**20:.1f} MiB; largest"
        f" difference of a probability from the model's on real clips, batches of 1 and 3: {done.difference:.1e}"
    )


if __name__ == "__main__":
    run_script(main, build_parser())
