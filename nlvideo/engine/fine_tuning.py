"""Fine-tuning: which stages of the backbone train, and which statistics batch norm uses."""

import logging
from collections.abc import Callable

from torch import nn

from nlvideo.config.validate import ALLOWED
from nlvideo.engine.train_loop import HookBase, SimpleTrainer
from nlvideo.layers.norm import BatchNorm
from nlvideo.solver.build import stages_of
from nlvideo.utils.messages import check_one_of

logger = logging.getLogger(__name__)


class FineTuning(HookBase):
    """Keeps the first stages of the backbone as they are, and sets the modes of all modules before each step.

    Stages are frozen for good or until an iteration. A frozen stage and a frozen BN are in evaluation mode: BN
    normalises with its stored statistics and does not change them. Outside of frozen stages its weight and bias train.

    Args:
        model: not wrapped; its optimizer has all parameters that are to train at some time.
        wrap: makes the model ready for several ranks. The wrapper exchanges the gradients of those parameters that
            need one when it is made, so each change needs another wrapper.
        freeze_at: how many stages are frozen (``MODEL.BACKBONE.FREEZE_AT``).
        freeze_until: the iteration at which they begin to train; 0: never, and the model has been built so.
        bn_mode: a value of ``SOLVER.BN_MODE``.
        change_at: iteration from which the norms are frozen ("frozen_after") or no longer frozen ("unfrozen_after").

    Raises:
        ValueError: the backbone has no stages, or fewer; an unknown mode.
    """

    trainer: SimpleTrainer

    def __init__(
        self,
        model: nn.Module,
        wrap: Callable[[nn.Module], nn.Module],
        freeze_at: int = 0,
        freeze_until: int = 0,
        bn_mode: str = "unfrozen",
        change_at: int = 0,
    ):
        check_one_of("bn_mode", bn_mode, ALLOWED["SOLVER.BN_MODE"])
        self._model, self._wrap, self._until = model, wrap, freeze_until
        self._mode, self._change_at = bn_mode, change_at
        stages = stages_of(model, "MODEL.BACKBONE.FREEZE_AT") if freeze_at else {}
        check_one_of("MODEL.BACKBONE.FREEZE_AT", freeze_at, range(len(stages) + 1))
        self._names = ", ".join(list(stages)[:freeze_at])
        self._modules = [module for modules in list(stages.values())[:freeze_at] for module in modules]
        parameters = (parameter for module in self._modules for parameter in module.parameters())
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
        self._stages_are_frozen = not freeze_until
        self._norms_are_frozen: bool | None = None

    def before_train(self) -> None:
        """Say what is frozen."""
        if self._modules:
            logger.info("Frozen: %s, %s", self._names, f"until iteration {self._until}" if self._until else "for good")

    def before_step(self) -> None:
        """Freeze the stages before the first step, let them train from their iteration on, and set the modes."""
        iteration = self.trainer.iter + self.trainer.schedule_offset
        frozen = not self._until or iteration < self._until
        if frozen != self._stages_are_frozen:
            self._stages_are_frozen = frozen
            for parameter in self._parameters:
                parameter.requires_grad_(not frozen)
            self.trainer.model = self._wrap(self._model)
            if not frozen:
                logger.info("From iteration %d on, %s train", iteration, self._names)
        changed = iteration >= self._change_at
        frozen = {"unfrozen": False, "frozen": True, "frozen_after": changed, "unfrozen_after": not changed}[self._mode]
        if frozen != self._norms_are_frozen:
            what = "the stored statistics, which stay as they are" if frozen else "the statistics of each batch"
            text = "From iteration %d on, %d batch norms use %s (SOLVER.BN_MODE %s)"
            logger.info(text, iteration, len(self._norms), what, self._mode)
            self._norms_are_frozen = frozen
        if self._mode == "unfrozen" and not self._modules:
            return  # A model may have norms of its own in evaluation mode.
        self._model.train()
        for module in [*(self._modules if self._stages_are_frozen else ()), *(self._norms if frozen else ())]:
            module.eval()
