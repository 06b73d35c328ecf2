#!/usr/bin/env python3
"""Print the parameters and multiply-adds of a config's model, stage by stage, and its non-local blocks."""

import argparse
import json

from nlvideo.engine.script import run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Parameters and multiply-adds of a model, for one training clip. Nothing is loaded or computed: "
        "the model lives on the meta device. Non-local blocks count as their dense algorithm."
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML file of the model")
    parser.add_argument("--json", action="store_true", help="print params, gmacs and nonlocal_blocks, as JSON")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config, after all flags"
    )
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Print the costs as tables or as JSON."""
    # Only now: --help answers without loading torch.
    from nlvideo.config import load_cfg
    from nlvideo.modeling.costs import model_costs, stage_table
    from nlvideo.modeling.nonlocal_block.summary import format_nonlocal_table

    cfg = load_cfg(arguments.config_file, arguments.opts)
    costs = model_costs(cfg)
    if arguments.json:
        print(json.dumps(costs))
        return
    size = f"{cfg.INPUT.NUM_FRAMES}x{cfg.INPUT.CROP_SIZE}x{cfg.INPUT.CROP_SIZE}"
    print(f"{costs['params'] / 1e6:.2f} M parameters, {costs['gmacs']:.2f} GMACs for one clip of {size}\n")
    print(stage_table(cfg))
    print(f"\n{format_nonlocal_table(costs['nonlocal_blocks'])}")


if __name__ == "__main__":
    run_script(main, build_parser())
