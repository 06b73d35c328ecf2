#!/usr/bin/env python3
"""Train the network of a config, or test it with --eval-only.

Examples:
    python tools/train_net.py --config-file configs/quickstart/instant_test.yaml
    python tools/train_net.py --config-file configs/quickstart/instant_test.yaml --num-gpus 2 SOLVER.MAX_ITER 6
    python tools/train_net.py --config-file configs/quickstart/instant_test.yaml --resume SOLVER.MAX_ITER 9
    python tools/train_net.py --config-file configs/kinetics/i3d_r50_32x2_nl5.yaml --reduced
"""

import argparse
from typing import TYPE_CHECKING

from nlvideo.engine.script import default_argument_parser, launch_options, results_uploaded, run_script
from nlvideo.errors import UnexpectedResults

if TYPE_CHECKING:
    from nlvideo.config import CfgNode


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = default_argument_parser(__doc__)
    parser.add_argument(
        "--reduced",
        action="store_true",
        help="one iteration at a size for the CPU, on the embedded data set, without weights: does this config run?",
    )
    return parser


def read_config(args: argparse.Namespace) -> "CfgNode":
    """The config that the arguments describe."""
    # Only now, so that --help does not wait for torch.
    from nlvideo.config import load_cfg, reduced

    cfg = load_cfg(args.config_file, args.opts, args.plugin)
    return reduced(cfg, args.opts) if args.reduced else cfg


@results_uploaded()
def main(args: argparse.Namespace) -> None:
    """Train or test on one rank."""
    from nlvideo.engine import DefaultTrainer, default_setup
    from nlvideo.evaluation import verify_results
    from nlvideo.utils import comm
    from nlvideo.visualization.report import try_write_report

    cfg = default_setup(read_config(args), args)
    if args.eval_only:
        results = DefaultTrainer.test_checkpoint(cfg, args.resume)
    else:
        trainer = DefaultTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train()
        if comm.is_main_process():
            try_write_report(cfg.OUTPUT_DIR)
    if not verify_results(cfg, results):
        raise UnexpectedResults("the results are not those of TEST.EXPECTED_RESULTS, see the lines MISMATCH in the log")


def start(args: argparse.Namespace) -> None:
    """Start the ranks."""
    from nlvideo.engine.launch import launch

    # Here too, so that a mistake in the config is reported once and before anything starts.
    cfg = read_config(args)
    launch(main, device=cfg.MODEL.DEVICE, **launch_options(args))


if __name__ == "__main__":
    run_script(start, build_parser())
