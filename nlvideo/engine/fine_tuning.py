"""Hooks of fine-tuning: which stages of the backbone train, and which statistics batch norm uses."""

import logging
from collections.abc import Callable

from torch import nn

from nlvideo.config.validate import ALLOWED
from nlvideo.engine.train_loop import HookBase, SimpleTrainer
from nlvideo.layers.norm import BatchNorm
from nlvideo.solver.build import stages_of
from nlvideo.utils.messages import check_one_of

logger = logging.getLogger(__name__)


class StageFreezing(HookBase):
    """Keeps the first stages of the backbone as they are, for good or until an iteration.

    Must come before `BatchNormMode`, which sets the modes of their modules.

    Args:
        model: not wrapped; its optimizer has all parameters that are to train at some time.
        count: how many stages (``MODEL.BACKBONE.FREEZE_AT``).
        until: the iteration at which they begin to train; 0: never, and the model has been built so.
        wrap: makes the model ready for several ranks. The wrapper exchanges the gradients of those parameters that
            need one when it is made, so each change needs another wrapper.

    Attributes:
        modules: of these stages.
        frozen: whether they are frozen in the current iteration.

    Raises:
        ValueError: the backbone has no stages, or fewer.
    """

    trainer: SimpleTrainer

    def __init__(self, model: nn.Module, count: int, until: int, wrap: Callable[[nn.Module], nn.Module]):
        stages = stages_of(model, "MODEL.BACKBONE.FREEZE_AT")
        check_one_of("MODEL.BACKBONE.FREEZE_AT", count, range(len(stages) + 1))
        self._names = ", ".join(list(stages)[:count])
        self.modules = [module for modules in list(stages.values())[:count] for module in modules]
        parameters = (parameter for module in self.modules for parameter in module.parameters())
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._model, self._until, self._wrap = model, until, wrap
        self.frozen = not until

    def before_train(self) -> None:
        """Say what is frozen."""
        logger.info("Frozen: %s, %s", self._names, f"until iteration {self._until}" if self._until else "for good")

    def before_step(self) -> None:
        """Freeze the stages before the first step, and let them train from their iteration on."""
        frozen = not self._until or self.trainer.iter < self._until
        if frozen == self.frozen:
            return
        self.frozen = frozen
        for parameter in self._parameters:
            parameter.requires_grad_(not frozen)
        self.trainer.model = self._wrap(self._model)
        if not frozen:
            logger.info("From iteration %d on, %s train", self.trainer.iter, self._names)


class BatchNormMode(HookBase):
    """Sets the modes of all modules before each step: frozen norms and frozen stages are in evaluation mode.

    A frozen BN normalises with its stored statistics and does not change them. Its weight and bias train.

    Args:
        model: not wrapped.
        mode: a value of ``SOLVER.BN_MODE``.
        change_at: iteration from which the norms are frozen ("frozen_after") or no longer frozen ("unfrozen_after").
        freezing: knows the frozen stages; None: there are none.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(self, model: nn.Module, mode: str, change_at: int = 0, freezing: StageFreezing | None = None):
        check_one_of("mode", mode, ALLOWED["SOLVER.BN_MODE"])
        self._model, self._mode, self._change_at, self._freezing = model, mode, change_at, freezing
        self._norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
        self._frozen: bool | None = None

    def before_step(self) -> None:
        """Set the modes, and log those of the norms where they change."""
        changed = self.trainer.iter >= self._change_at
        frozen = {"unfrozen": False, "frozen": True, "frozen_after": changed, "unfrozen_after": not changed}[self._mode]
        if frozen != self._frozen:
            what = "the stored statistics, which stay as they are" if frozen else "the statistics of each batch"
            text = "From iteration %d on, %d batch norms use %s (SOLVER.BN_MODE %s)"
            logger.info(text, self.trainer.iter, len(self._norms), what, self._mode)
            self._frozen = frozen
        if self._mode == "unfrozen" and self._freezing is None:
            return  # A model may have norms of its own in evaluation mode.
        self._model.train()
        if self._freezing is not None and self._freezing.frozen:
            for module in self._freezing.modules:
                module.eval()
        for norm in self._norms if frozen else ():
            norm.eval()
