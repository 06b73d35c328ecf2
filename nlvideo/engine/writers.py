"""The writers of a run: the registry's own, built from a config."""

import os

from nlvideo.config import CfgNode
from nlvideo.utils import comm
from nlvideo.utils.events import WRITER, ConsoleWriter, EventWriter, JSONWriter, TensorBoardWriter


def build_writers(cfg: CfgNode) -> list[EventWriter]:
    """Return the writers that ``WRITERS`` names; only rank 0 has any.

    Raises:
        LookupFailed: a name that is not registered, on every rank.
        ImportError: a package is missing; the message has the command that installs it.
    """
    makers = [WRITER.get(name, "WRITERS") for name in cfg.WRITERS]
    return [make(cfg) for make in makers] if comm.is_main_process() else []


@WRITER.register(name="ConsoleWriter")
def _console(cfg: CfgNode) -> EventWriter:
    return ConsoleWriter(cfg.SOLVER.LOG_PERIOD)


@WRITER.register(name="JSONWriter")
def _json(cfg: CfgNode) -> EventWriter:
    return JSONWriter(os.path.join(cfg.OUTPUT_DIR, "metrics.json"))


@WRITER.register(name="TensorBoardWriter")
def _tensorboard(cfg: CfgNode) -> EventWriter:
    return TensorBoardWriter(cfg.OUTPUT_DIR)
