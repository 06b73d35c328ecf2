#!/usr/bin/env python3
"""Print parameters and multiply-adds of a model or of all configs, or plan a training: memory, time, network."""

import argparse
import json

from nlvideo.engine.script import ScriptParser, add_config_arguments, run_script

# Options of --plan and their defaults.
PLAN = {"gpu": "h100", "num_gpus": [1], "videos": 240000, "video_profile": "kinetics"}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(
        description="Parameters and multiply-adds of a model, for one training clip. Nothing is loaded or computed: "
        "the model lives on the meta device. Non-local blocks count as their dense algorithm."
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--config-file", metavar="FILE", help="YAML file of the model")
    which.add_argument("--all", action="store_true", help="one row for each config under configs/, beside the paper's")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    plan = parser.add_argument_group("plan of a training")
    plan.add_argument("--plan", action="store_true", help="what the training of the config needs; no GPU is used")
    plan.add_argument("--num-gpus", type=_numbers, metavar="N,...", help="a column for each number (default: 1)")
    plan.add_argument("--gpu", metavar="G", help="h100 (default), a100, l40s, rtx4090, or cpu: this machine")
    plan.add_argument("--videos", type=int, metavar="N", help="in the training data (default: 240000)")
    plan.add_argument(
        "--video-profile", metavar="P", help="kinetics (default), something, charades, full_hd: size of the videos"
    )
    add_config_arguments(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Print the costs as tables or as JSON."""
    # Only now: --help answers without loading torch.
    given = [flag for flag in PLAN if getattr(arguments, flag) is not None]
    if not arguments.plan and given:
        raise ValueError(f"--{given[0].replace('_', '-')}: allowed with --plan")
    if arguments.plan:
        print_plan(arguments)
        return
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


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def print_plan(arguments: argparse.Namespace) -> None:
    """Print the plan of the training of a config."""
    from nlvideo.config import load_cfg
    from nlvideo.tools.lib.planning.plan import Planner, format_sections

    if arguments.all:
        raise ValueError("--plan: allowed with --config-file")
    cfg = load_cfg(arguments.config_file, arguments.opts, arguments.plugin)
    options = {
        name: value if getattr(arguments, name) is None else getattr(arguments, name) for name, value in PLAN.items()
    }
    sections = Planner(cfg, **options).sections()
    if arguments.json:
        print(json.dumps({title: [figure._asdict() for figure in rows] for title, rows in sections.items()}))
        return
    print(format_sections(sections, options["num_gpus"]))


def print_all(arguments: argparse.Namespace) -> None:
    """Print a row for each config of the repository."""
    from nlvideo.model_zoo import list_networks
    from nlvideo.tools.lib.cost_table import cost_rows, format_cost_rows
    from nlvideo.tools.lib.ledger import read_ledger

    rows = list(cost_rows(list_networks(), read_ledger(), arguments.opts))
    print(json.dumps(rows) if arguments.json else format_cost_rows(rows))


if __name__ == "__main__":
    run_script(main, build_parser())
