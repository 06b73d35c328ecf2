#!/usr/bin/env python3
"""Fit only the classifier of a network to a dataset: each video passes through the backbone once.

Examples:
    python tools/linear_probe.py --config-file configs/quickstart/i3d_nl.yaml MODEL.WEIGHTS model.pth \\
        DATASETS.TRAIN "['folder:videos/train']" DATASETS.TEST "['folder:videos/val']" OUTPUT_DIR output/probe
"""

import argparse

from nlvideo.engine.script import ScriptParser, add_config_arguments, results_uploaded, run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML, see configs/")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="ranks on this machine (default: 1)")
    add_config_arguments(parser)
    parser.set_defaults(resume=False, eval_only=False)
    return parser


@results_uploaded()
def main(args: argparse.Namespace) -> None:
    """Fit and test on one rank."""
    from nlvideo.config import load_cfg
    from nlvideo.engine import default_setup
    from nlvideo.engine.linear_probe import linear_probe
    from nlvideo.utils import comm
    from nlvideo.visualization.report import try_write_report

    cfg = default_setup(load_cfg(args.config_file, args.opts, args.plugin), args)
    linear_probe(cfg)
    if comm.is_main_process():
        try_write_report(cfg.OUTPUT_DIR)


def start(args: argparse.Namespace) -> None:
    """Start the ranks."""
    # Only now: --help answers without loading torch.
    from nlvideo.config import load_cfg
    from nlvideo.engine.launch import launch

    # Here too, so that a mistake in the config is reported once and before anything starts.
    cfg = load_cfg(args.config_file, args.opts, args.plugin)
    launch(main, args.num_gpus, args=(args,), device=cfg.MODEL.DEVICE)


if __name__ == "__main__":
    run_script(start, build_parser())
