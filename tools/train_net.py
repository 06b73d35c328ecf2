#!/usr/bin/env python3
"""Train the network of a config, or test it with --eval-only.

Examples:
    tools/train_net.py --config-file configs/quickstart/instant_test.yaml
    tools/train_net.py --config-file configs/quickstart/instant_test.yaml --num-gpus 2 SOLVER.MAX_ITER 6
    tools/train_net.py --config-file configs/quickstart/instant_test.yaml --resume SOLVER.MAX_ITER 9
"""

import argparse

from nlvideo.engine.errors import UnexpectedResults
from nlvideo.engine.script import default_argument_parser, run_script


def main(args: argparse.Namespace) -> None:
    """Train or test on one rank."""
    from nlvideo.config import load_cfg
    from nlvideo.engine import DefaultTrainer, default_setup, load_model_for_test
    from nlvideo.evaluation import verify_results

    cfg = default_setup(load_cfg(args.config_file, args.opts, args.plugin), args)
    if args.eval_only:
        results = DefaultTrainer.test(cfg, load_model_for_test(cfg, args.resume))
    else:
        trainer = DefaultTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train()
    if not verify_results(cfg, results):
        raise UnexpectedResults("the results are not those of TEST.EXPECTED_RESULTS, see the lines MISMATCH in the log")


def start(args: argparse.Namespace) -> None:
    """Start the ranks."""
    # Only now, so that --help does not wait for torch.
    from nlvideo.config import load_cfg
    from nlvideo.engine.launch import launch

    # Here too, so that a mistake in the config is reported once and before anything starts.
    cfg = load_cfg(args.config_file, args.opts, args.plugin)
    launch(
        main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,), device=cfg.MODEL.DEVICE
    )


if __name__ == "__main__":
    run_script(start, default_argument_parser(__doc__))
