"""What the gates do during training."""

import torch

from gated_nonlocal.block import GatedNonLocalBlock
from nlvideo.engine.hooks import is_due
from nlvideo.engine.train_loop import HookBase, SimpleTrainer


class GateLogger(HookBase):
    """Records ``gate``, the mean absolute value of all gates, whenever a line of the log is written."""

    # The model is looked at: a TrainerBase has none.
    trainer: SimpleTrainer

    def __init__(self, period: int):
        self._period = period

    def after_step(self) -> None:
        """Put ``gate`` into the storage."""
        if not (is_due(self.trainer.iter + 1, self._period) or self.trainer.is_last_step):
            return
        blocks = [module for module in self.trainer.model.modules() if isinstance(module, GatedNonLocalBlock)]
        if blocks:
            gates = torch.cat([block.gate.detach() for block in blocks])
            self.trainer.storage.put_scalar("gate", gates.abs().mean(), smoothing_hint=False)
