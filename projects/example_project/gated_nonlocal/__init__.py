"""Non-local blocks with a learned gate."""

from gated_nonlocal.block import GatedNonLocalBlock
from gated_nonlocal.hooks import GateLogger
from nlvideo.config import CfgNode
from nlvideo.engine.train_loop import HookBase

__all__ = ["GateLogger", "GatedNonLocalBlock", "add_config", "build_hooks"]


def add_config(cfg: CfgNode) -> None:
    """Add the keys of this project, before the YAML is merged."""
    cfg.MODEL.GATED = CfgNode()
    # One gate per channel instead of one for the block.
    cfg.MODEL.GATED.PER_CHANNEL = False
    # Value of the gates at the start (SAGAN, Eq. 3: 0, so that the block begins as the identity).
    cfg.MODEL.GATED.INIT = 0.0


def build_hooks(cfg: CfgNode) -> list[HookBase]:
    """Return the hooks of this project; they run before the writers."""
    return [GateLogger(cfg.SOLVER.LOG_PERIOD)]
