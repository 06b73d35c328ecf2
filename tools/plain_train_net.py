#!/usr/bin/env python3
"""Train and test as tools/train_net.py does, without a trainer and hooks: one loop to read and to edit.

What it refuses: averaging of weights, precise BN, gradient accumulation, mixed precision, a protocol for validation,
early stopping, removal of checkpoints. What it has not: the best checkpoint, the failure budget, stopping on Ctrl-C,
hooks of projects, a resumed run that equals an uninterrupted one to the bit, and one that goes on in its run of W&B or
MLflow.

Example:
    python tools/plain_train_net.py --config-file configs/quickstart/instant_test.yaml
"""

import argparse

from nlvideo.engine.script import default_argument_parser, launch_options, results_uploaded, run_script
from nlvideo.errors import UnexpectedResults


def do_test(cfg, model) -> dict:
    """Evaluate the model on each test set; results are on rank 0."""
    from nlvideo.data import build_test_loader
    from nlvideo.evaluation import build_evaluator, inference_on_dataset, print_results
    from nlvideo.utils import comm

    results: dict = {}
    for name in cfg.DATASETS.TEST:
        loader = build_test_loader(cfg, name)
        results[name] = inference_on_dataset(model, loader, build_evaluator(cfg, name))
    results = results.popitem()[1] if len(results) == 1 else results
    if comm.is_main_process():
        print_results(results)
    return results


def do_train(cfg, model, resume: bool) -> None:
    """Train the model, in place, to SOLVER.MAX_ITER."""
    import time

    import torch

    from nlvideo.checkpoint import Checkpointer
    from nlvideo.data import build_train_loader
    from nlvideo.data.checks import dataset_classes
    from nlvideo.engine.trainer import distribute
    from nlvideo.engine.writers import build_writers
    from nlvideo.modeling.backbone import inflate_2d_weights
    from nlvideo.solver import build_gradient_clipper, build_lr_scheduler, build_optimizer
    from nlvideo.utils import comm
    from nlvideo.utils.events import EventStorage

    solver = cfg.SOLVER
    for key, given, allowed in (
        ("SOLVER.ACCUMULATE", solver.ACCUMULATE, 1),
        ("SOLVER.AMP.ENABLED", solver.AMP.ENABLED, False),
        ("SOLVER.BN_MODE", solver.BN_MODE, "unfrozen"),
        ("MODEL.BACKBONE.FREEZE_UNTIL", cfg.MODEL.BACKBONE.FREEZE_UNTIL, 0),
        ("SOLVER.EMA.ENABLED", solver.EMA.ENABLED, False),
        ("SOLVER.EARLY_STOPPING.PATIENCE", solver.EARLY_STOPPING.PATIENCE, 0),
        ("SOLVER.CHECKPOINT_KEEP", solver.CHECKPOINT_KEEP, 0),
        ("TEST.VALIDATION.ENABLED", cfg.TEST.VALIDATION.ENABLED, False),
        ("TEST.PRECISE_BN.ENABLED", cfg.TEST.PRECISE_BN.ENABLED, False),
    ):
        if given != allowed:
            raise ValueError(f"{key}: got {given}, allowed in this script: {allowed}; use train_net.py")
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    clip = build_gradient_clipper(cfg)
    checkpointer = Checkpointer(
        model, cfg.OUTPUT_DIR, adapt_weights=inflate_2d_weights, cfg=cfg, optimizer=optimizer, scheduler=scheduler
    )
    start_iter = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume).get("iteration", 0)
    writers = build_writers(cfg)
    # One stream over all ranks, entered where the last run left it.
    batches = iter(build_train_loader(cfg, start_iter))
    wrapped = distribute(model.train())

    with EventStorage(start_iter, cfg.SOLVER.MAX_ITER) as storage:
        for iteration in range(start_iter, solver.MAX_ITER):
            start = time.perf_counter()
            batch = next(batches)
            storage.put_scalar("data_time", time.perf_counter() - start)

            losses = wrapped(batch)
            total = sum(losses.values())
            reduced = comm.reduce_dict({**losses, "total_loss": total})
            if not torch.isfinite(reduced["total_loss"]):
                raise FloatingPointError(f"iteration {iteration}: the loss is not finite: {reduced}")
            optimizer.zero_grad()
            total.backward()
            if clip is not None:
                clip(model.parameters())
            optimizer.step()
            for name, value in reduced.items():
                storage.put_scalar(name, value)
            group = optimizer.param_groups[0]
            storage.put_scalar("lr", group["lr"] / group.get("lr_factor", 1.0), smoothing_hint=False)
            scheduler.step()
            storage.put_scalar("time", time.perf_counter() - start)

            done = iteration + 1
            if done % solver.CHECKPOINT_PERIOD == 0 or done == solver.MAX_ITER:
                name = "model_final" if done == solver.MAX_ITER else f"model_{done:07d}"
                checkpointer.save(name, iteration=done, classes=dataset_classes(cfg.DATASETS.TRAIN))
            # After the last iteration the caller tests.
            if cfg.TEST.EVAL_PERIOD and done % cfg.TEST.EVAL_PERIOD == 0 and done != solver.MAX_ITER:
                checkpointer.set_earlier_run_aside()
                do_test(cfg, model)
            if done % solver.LOG_PERIOD == 0 or done == solver.MAX_ITER:
                for writer in writers:
                    writer.write()
            storage.step()
    for writer in writers:
        writer.close()


@results_uploaded()
def main(args: argparse.Namespace) -> None:
    """Train and test on one rank."""
    from nlvideo.checkpoint import load_model_for_test
    from nlvideo.config import load_cfg
    from nlvideo.engine import default_setup
    from nlvideo.evaluation import verify_results
    from nlvideo.modeling import build_model
    from nlvideo.solver import scale_to_world_size
    from nlvideo.utils import comm

    cfg = default_setup(load_cfg(args.config_file, args.opts, args.plugin), args)
    if args.eval_only:
        model = load_model_for_test(cfg, args.resume)
    else:
        cfg = scale_to_world_size(cfg, comm.get_world_size())
        model = build_model(cfg)
        do_train(cfg, model, args.resume)
    if not verify_results(cfg, do_test(cfg, model)):
        raise UnexpectedResults("the results are not those of TEST.EXPECTED_RESULTS, see the lines MISMATCH in the log")


def start(args: argparse.Namespace) -> None:
    """Start the ranks."""
    # Only now, so that --help does not wait for torch.
    from nlvideo.config import load_cfg
    from nlvideo.engine.launch import launch

    cfg = load_cfg(args.config_file, args.opts, args.plugin)
    launch(main, device=cfg.MODEL.DEVICE, **launch_options(args))


if __name__ == "__main__":
    run_script(start, default_argument_parser(__doc__))
