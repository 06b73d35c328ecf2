#!/usr/bin/env python3
"""Print parameters and multiply-adds: of one model, stage by stage and with its non-local blocks, or of all configs."""

import argparse
import json

from nlvideo.engine.script import ScriptParser, add_config_arguments, run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(
        description="Parameters and multiply-adds of a model, for one training clip. Nothing is loaded or computed: "
        "the model lives on the meta device. Non-local blocks count as their dense algorithm."
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--config-file", metavar="FILE", help="YAML file of the model")
    which.add_argument("--all", action="store_true", help="one row for each config under configs/, beside the paper's")
    parser.add_argument("--json", action="store_true", help="print params, gmacs and nonlocal_blocks, as JSON")
    add_config_arguments(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Print the costs as tables or as JSON."""
    # Only now: --help answers without loading torch.
    if arguments.all:
        print_all(arguments)
        return
    from nlvideo.config import load_cfg
    from nlvideo.modeling.costs import meta_model, model_costs, stage_table
    from nlvideo.modeling.nonlocal_block.summary import describe_input, format_nonlocal_table

    cfg = load_cfg(arguments.config_file, arguments.opts, arguments.plugin)
    costs = model_costs(cfg)
    if arguments.json:
        print(json.dumps(costs))
        return
    example = describe_input(meta_model(cfg)[1])
    print(f"{costs['params'] / 1e6:.2f} M parameters, {costs['gmacs']:.2f} GMACs for one {example}\n")
    print(stage_table(cfg))
    print(f"\n{format_nonlocal_table(costs['nonlocal_blocks'])}")


def print_all(arguments: argparse.Namespace) -> None:
    """Print a row for each config of the repository."""
    from nlvideo.model_zoo import list_networks
    from nlvideo.tools.lib.cost_table import cost_rows, format_cost_rows
    from nlvideo.tools.lib.ledger import read_ledger

    rows = list(cost_rows(list_networks(), read_ledger(), arguments.opts))
    print(json.dumps(rows) if arguments.json else format_cost_rows(rows))


if __name__ == "__main__":
    run_script(main, build_parser())
