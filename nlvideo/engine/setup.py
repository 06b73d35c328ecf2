"""The start of a run: its folder, logs, seeds, and a record of what was started."""

import argparse
import logging
import os
import shlex
import sys

from nlvideo.checkpoint.earlier_run import config_path, is_own
from nlvideo.checkpoint.remote_run import RemoteRun
from nlvideo.checkpoint.trained import weights_for_test, with_classes_of
from nlvideo.config import CfgNode
from nlvideo.engine.resolve import config_in, resolve_from_data, resolve_split
from nlvideo.errors import FORESEEN, portable
from nlvideo.utils import comm
from nlvideo.utils.console import setup_logger
from nlvideo.utils.files.file_io import is_remote, make_writable, write_text
from nlvideo.utils.files.locks import lock_folder
from nlvideo.utils.plugins import load_plugin
from nlvideo.utils.system.env import append_invocation, collect_env, environment, seed_everything
from nlvideo.utils.system.processes import job

logger = logging.getLogger(__name__)


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> CfgNode:
    """Prepare a run: folder, logs, seeds, and a record of what was started.

    Args:
        cfg: left as it is.
        args: from :func:`default_argument_parser`. ``resume`` becomes True where a launcher started the ranks of a run
            again.

    Returns:
        The config of the run, with a seed, a local ``OUTPUT_DIR``, and what its training data decides (see
        `resolve_from_data`). It is also written to ``OUTPUT_DIR/config.yaml``. A test in the folder of a training
        writes ``inference/config.yaml`` instead, and a training in the folder of an earlier one ``config.next.yaml``
        until it saves something.

    Raises:
        ValueError: ``OUTPUT_DIR`` cannot be written, another training is writing there, or the training data is faulty.
        OSError, ImportError: ``OUTPUT_DIR`` is in object storage that cannot be used.
        LookupFailed: an unknown dataset.
    """
    eval_only = bool(getattr(args, "eval_only", False))
    cfg, remote = _with_local_folder(cfg, args.resume, eval_only)
    make_writable(cfg.OUTPUT_DIR, "OUTPUT_DIR")
    if started_again := not (eval_only or args.resume) and comm.all_gather_object(is_own(cfg.OUTPUT_DIR))[0]:
        args.resume = True
    if not eval_only:
        _lock(cfg.OUTPUT_DIR)
    given_seed, dump = cfg.SEED, os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    # A resumed run goes on with the seed that it has drawn.
    seed = config_in(cfg.OUTPUT_DIR).get("SEED", -1) if given_seed < 0 and args.resume else given_seed
    cfg = cfg.with_overrides(["SEED", seed_everything(seed)])
    _start_log(cfg)
    if started_again:
        logger.warning("The ranks of this run started again: going on from its last checkpoint, if there is one")
    if eval_only:
        # A test has the classes of the weights, and the videos that the run has kept for a test.
        cfg = with_classes_of(resolve_split(cfg, resume=True, eval_only=True), weights_for_test(cfg, args.resume))
    else:
        cfg = resolve_from_data(cfg, args.resume)
    if comm.is_main_process():
        if not eval_only:
            dump = config_path(cfg.OUTPUT_DIR, args.resume)
        elif os.path.isfile(dump):
            dump = os.path.join(cfg.OUTPUT_DIR, "inference", "config.yaml")
            os.makedirs(os.path.dirname(dump), exist_ok=True)
        write_text(dump, cfg.dump())
        logger.info("Full config: %s", dump)
        append_invocation(
            cfg.OUTPUT_DIR,
            environment(),
            eval_only=eval_only,
            resume=bool(args.resume),
            world_size=comm.get_world_size(),
            drawn_seed=cfg.SEED if given_seed < 0 else None,
            job=job(),
        )
        if remote:
            remote.start()
    # Every rank waits until the config is written.
    comm.synchronize()
    return cfg


def _with_local_folder(cfg: CfgNode, resume: bool, eval_only: bool) -> tuple[CfgNode, RemoteRun | None]:
    """Where ``OUTPUT_DIR`` is remote, put a local folder there; one rank of each machine downloads what this lacks."""
    if not is_remote(cfg.OUTPUT_DIR):
        return cfg, None
    failed, run = None, RemoteRun(cfg.OUTPUT_DIR)
    try:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            run.fetch(resume, eval_only, cfg.SOLVER.CHECKPOINT_KEEP)
    except FORESEEN as error:
        failed = portable(error)
    # All ranks end together, and all wait for the download.
    if errors := [error for error in comm.all_gather_object(failed) if error]:
        raise errors[0]
    return cfg.with_overrides(["OUTPUT_DIR", run.folder]), run


def _start_log(cfg: CfgNode) -> None:
    # Each package has its own logger: those of plugins are not children of ours.
    for name in ["nlvideo", *(load_plugin(spec).module.__name__ for spec in cfg.PLUGINS)]:
        setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name=name)
    logger.info("Environment:\n%s", collect_env())
    logger.info("Command line: %s", shlex.join(sys.argv))
    logger.info("Ranks: %d", comm.get_world_size())


def _lock(folder: str) -> None:
    if holder := comm.on_main_process(lambda: lock_folder(folder)):
        raise ValueError(
            f"OUTPUT_DIR: got {folder!r}, in which another run is writing ({holder}), allowed: another folder, or this"
            " one once that run has ended"
        )
