#!/usr/bin/env python3
"""Test MODEL.WEIGHTS, or with --resume the last checkpoint in OUTPUT_DIR, on DATASETS.TEST.

Examples:
    python tools/test_net.py --config-file output/config.yaml --resume
    python tools/test_net.py --config-file configs/quickstart/instant_test.yaml MODEL.WEIGHTS output/model_final.pth
"""

import argparse

from nlvideo.engine.script import default_argument_parser, launch_options, results_uploaded, run_script
from nlvideo.errors import UnexpectedResults


@results_uploaded()
def main(args: argparse.Namespace) -> None:
    """Test on one rank."""
    from nlvideo.config import load_cfg
    from nlvideo.engine import DefaultTrainer, default_setup
    from nlvideo.evaluation import verify_results

    cfg = default_setup(load_cfg(args.config_file, args.opts, args.plugin), args)
    results = DefaultTrainer.test_checkpoint(cfg, args.resume)
    if not verify_results(cfg, results):
        raise UnexpectedResults("the results are not those of TEST.EXPECTED_RESULTS, see the lines MISMATCH in the log")


def start(args: argparse.Namespace) -> None:
    """Start the ranks."""
    # Only now, so that --help does not wait for torch.
    from nlvideo.config import load_cfg
    from nlvideo.engine.launch import launch

    args.eval_only = True
    cfg = load_cfg(args.config_file, args.opts, args.plugin)
    launch(main, device=cfg.MODEL.DEVICE, **launch_options(args))


if __name__ == "__main__":
    run_script(start, default_argument_parser(__doc__))
