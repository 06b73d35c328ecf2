#!/usr/bin/env python3
"""Write a trained model to hand on: weights without the optimizer's state, config, names of classes.

Every --model takes the folder, or the file *.safetensors that has all of them.

Examples:
    tools/pack_model.py --model output/mine --output output/mine_packed
    tools/pack_model.py --model output/mine --output mine.safetensors
"""

import argparse
import os

from nlvideo.engine.script import ScriptParser, add_model_arguments, chosen_model, run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser, device=False)
    parser.add_argument(
        "--output", required=True, metavar="OUT", help="folder for model.pth, config.yaml, ..., or *.safetensors"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Pack, and say how large the weights are."""
    # Only now: --help answers without loading torch.
    from nlvideo.model_zoo import Predictor, get
    from nlvideo.model_zoo.pack import pack_model

    predictor = Predictor(**chosen_model(arguments) | {"device": "cpu"})
    # Not its own model, whose norms are folded into convolutions.
    model = get(predictor.cfg, entry=arguments.entry)
    weights = pack_model(model, predictor.cfg, predictor.classes, arguments.output, arguments.overwrite)
    size = os.path.getsize(weights) / 2**20
    print(f"{arguments.output}: {len(predictor.classes)} classes, weights of {size:.1f} MiB")


if __name__ == "__main__":
    run_script(main, build_parser())
