"""The training loop: hooks around one step. Everything else of the engine is a hook, or builds one of these."""

import logging
import math
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from nlvideo.engine.rng import preserved_rng
from nlvideo.errors import TrainingInterrupted
from nlvideo.utils import comm
from nlvideo.utils.events import EventStorage

logger = logging.getLogger(__name__)


class HookBase:
    """Something that happens around training steps. Every method does nothing unless a hook overrides it.

    A hook may use what the type of ``trainer`` has. `TrainerBase`, the type here, is the loop alone. A hook that needs
    the model or the data declares ``trainer: SimpleTrainer``.

    ``before_step`` and ``after_backward`` must be quick: they count as training time. A hook with a memory returns it
    from ``state_dict`` (tensors and plain types), and gets it back on resume.

    Attributes:
        name: key of the hook's state in checkpoints, unique within a trainer. Empty: the name of the class.
        trainer: set by ``register_hooks``.
    """

    name: str = ""
    trainer: "TrainerBase"

    def before_train(self) -> None:
        """Called once before the first iteration."""

    def after_train(self) -> None:
        """Called once after the last iteration, also after an error: never communicate with other ranks here."""

    def before_step(self) -> None:
        """Called before each iteration."""

    def after_backward(self) -> None:
        """Called when the gradients of an iteration are there, before the optimizer uses them."""

    def after_step(self) -> None:
        """Called after each iteration, on every rank.

        One hook saves the checkpoint. A resumed run begins by calling the hooks after that one, for that iteration.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""


class TrainerBase(ABC):
    """A loop that knows its hooks and nothing of models, data or losses.

    Attributes:
        iter: number of the current iteration, from 0. In ``after_step``, ``iter + 1`` iterations are done.
        start_iter: first iteration of this process; above 0 in a resumed run.
        max_iter: the iteration before which training ends. A hook that ends it earlier lowers this in ``after_step``,
            on every rank alike.
        schedule_offset: how far the schedule is ahead of ``iter``, in iterations; not 0 where a run went on with
            another number of ranks, for which the schedule is longer or shorter.
        storage: scalars of the run.
        stop_reason: set by a hook in ``after_step``, on every rank alike, to end training after this iteration.
        current_hook: the hook that is called now. A run that goes on at a checkpoint calls those after it first.
    """

    def __init__(self) -> None:
        self.hooks: list[HookBase] = []
        self.iter = self.start_iter = self.max_iter = self.schedule_offset = 0
        self.storage = EventStorage(0)
        self.stop_reason: str | None = None
        self.current_hook = self._saving_hook = ""

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Append hooks; they run in this order. None is skipped.

        Raises:
            ValueError: two hooks of one name, whose states could not be told apart in a checkpoint.
        """
        for hook in hooks:
            if hook is None:
                continue
            hook.name = hook.name or type(hook).__name__
            if any(hook.name == other.name for other in self.hooks):
                raise ValueError(f"two hooks are called {hook.name!r}: give one of them another name")
            # A proxy. Else trainer and hooks would keep each other, and the model, alive.
            hook.trainer = weakref.proxy(self)
            self.hooks.append(hook)

    @property
    def is_last_step(self) -> bool:
        """Whether the current iteration is the last of the schedule."""
        return self.iter + 1 >= self.max_iter

    def train(self, start_iter: int, max_iter: int) -> dict[str, Any]:
        """Run iterations ``start_iter`` to ``max_iter - 1``. Before them, finish that of the loaded checkpoint.

        Returns:
            The results of tests. This loop tests nothing, and returns an empty dict.

        Raises:
            TrainingInterrupted: a hook set ``stop_reason`` before the last iteration.
        """
        self.iter = self.start_iter = start_iter
        self.max_iter = self.storage.max_iter = max_iter
        if start_iter < max_iter:
            logger.info("Training iterations %d to %d", start_iter, max_iter)
        with self.storage:
            try:
                self._call_hooks("before_train")
                self._finish_saved_iteration()
                # Finishing that iteration may have ended the run.
                end = self.max_iter
                for self.iter in range(start_iter, end):
                    self.storage.iter = self.iter
                    self._call_hooks("before_step")
                    self.run_step()
                    self._call_hooks("after_step")
                    if self.stop_reason or self.is_last_step:
                        break
            finally:
                self._call_hooks("after_train")
        if self.stop_reason and not self.is_last_step:
            raise TrainingInterrupted(f"{self.stop_reason}: stopped after {self.iter + 1} of {max_iter} iterations")
        return {}

    @abstractmethod
    def run_step(self) -> None:
        """Do the work of one iteration."""

    def _call_hooks(self, method: str, after: str = "") -> None:
        names = [hook.name for hook in self.hooks]
        for hook in self.hooks[names.index(after) + 1 if after else 0 :]:
            self.current_hook = hook.name
            getattr(hook, method)()
        self.current_hook = ""

    def _finish_saved_iteration(self) -> None:
        """Call the hooks that come after the one that saved the loaded checkpoint.

        The process that saved it may have been killed before they evaluated or wrote, and their states are in the
        checkpoint as they were before they did.
        """
        saving, self._saving_hook = self._saving_hook, ""
        if any(hook.name == saving for hook in self.hooks):
            self.iter = self.storage.iter = self.start_iter - 1
            self._call_hooks("after_step", after=saving)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of finished iterations, the scalars so far and the hooks' states by name."""
        hooks = {hook.name: hook.state_dict() for hook in self.hooks}
        return {
            "iteration": self.iter + 1,
            "saved_by": self.current_hook,
            "storage": self.storage.state_dict(),
            "hooks": {name: state for name, state in hooks.items() if state},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned; hooks that are new or gone are named in the log."""
        self.start_iter = self.storage.start_iter = state_dict["iteration"]
        # Older checkpoints do not name this hook. Then no hook is called.
        self._saving_hook = state_dict.get("saved_by", "")
        self.storage.load_state_dict(state_dict["storage"])
        saved = dict(state_dict["hooks"])
        for hook in self.hooks:
            if hook.name in saved:
                hook.load_state_dict(saved.pop(hook.name))
            elif hook.state_dict():
                logger.warning("The checkpoint holds no state of the hook %s: it starts from its beginning", hook.name)
        if saved:
            logger.warning("The checkpoint holds states of hooks that are not there: %s", ", ".join(saved))


class SimpleTrainer(TrainerBase):
    """One model, one loader, one optimizer: forward, backward, step.

    All scalars that the model puts into the event storage during a step are averaged over its batches and over the
    ranks, so every rank must put the same names. On a GPU the CPU waits for one number of a step: a loss that is not
    finite must end the run before the weights change.

    Args:
        model: called with a batch, returns a dict of scalar losses; wrapped for distributed training or not.
        data_loader: endless. It may say how many videos it has (``dataset_size``). A batch may be a dict that lists the
            videos that could not be read: ``"failed": [(file, reason), ...]``, which the model does not get.
        optimizer: of the model's parameters.
        amp_dtype: ``torch.bfloat16`` or ``torch.float16`` for mixed precision, the latter with a gradient scaler.
        accumulate: batches per step. Losses are averaged over them, so that k batches of n equal one of k * n.
        clip: changes gradients in place, may return their norm.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        amp_dtype: torch.dtype | None = None,
        accumulate: int = 1,
        clip: Callable[[Iterable[nn.Parameter]], torch.Tensor | None] | None = None,
    ):
        super().__init__()
        self.model = model.train()
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.amp_dtype = amp_dtype
        self.accumulate = accumulate
        self.clip = clip
        self.device = next(model.parameters()).device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp_dtype is torch.float16)
        # (file, reason) of the videos of this step that could not be read, for a hook to take away.
        self.failed_files: list[tuple[str, str]] = []
        self._iterator: Iterator[Any] | None = None

    @property
    def dataset_size(self) -> int:
        """Number of training videos, over all ranks; 0 where the loader does not say (``dataset_size``)."""
        return getattr(self.data_loader, "dataset_size", 0)

    def run_step(self) -> None:
        """Train on ``accumulate`` batches.

        Raises:
            FloatingPointError: the loss is not finite; the weights are those from before the step.
        """
        self.optimizer.zero_grad()
        data_time = 0.0
        sums: dict[str, torch.Tensor] = {}
        for index in range(self.accumulate):
            start = time.perf_counter()
            batch = self._next_batch()
            data_time += time.perf_counter() - start
            # Ranks exchange gradients once per step, in the last backward pass.
            no_sync = getattr(self.model, "no_sync", nullcontext)
            with nullcontext() if index + 1 == self.accumulate else no_sync():
                for name, value in self._forward_backward(batch).items():
                    sums[name] = sums.get(name, 0.0) + value / self.accumulate
        # The loss is checked on the average over the ranks, so that all of them stop at the same place.
        scalars = comm.reduce_dict(sums)
        if not math.isfinite(scalars["total_loss"]):
            losses = ", ".join(f"{name} = {float(value)}" for name, value in scalars.items() if "loss" in name)
            raise FloatingPointError(
                f"iteration {self.iter}: the loss is not finite ({losses}). Weights and checkpoints are as before it;"
                " lower SOLVER.BASE_LR, warm up longer (SOLVER.WARMUP_*) or clip gradients"
            )
        self._call_hooks("after_backward")
        self.scaler.unscale_(self.optimizer)
        norm = self.clip(self.model.parameters()) if self.clip else None
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if norm is not None:
            scalars["grad_norm"] = norm
        for name, value in scalars.items():
            self.storage.put_scalar(name, value)
        self.storage.put_scalar("data_time", data_time)

    def _next_batch(self) -> Any:
        # Starting a loader draws from the global generator, and a resumed run starts one once more.
        with preserved_rng() if self._iterator is None else nullcontext():
            self._iterator = iter(self.data_loader) if self._iterator is None else self._iterator
            batch = next(self._iterator)
        if isinstance(batch, dict):
            self.failed_files += batch.pop("failed", ())
        return batch

    def _forward_backward(self, batch: Any) -> dict[str, torch.Tensor]:
        # Scalars that modules put into the storage meet here first, to be averaged like the losses.
        with EventStorage(self.iter) as inner:
            with torch.amp.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
                losses = self.model(batch)
            total = sum(losses.values())
        self.scaler.scale(total / self.accumulate).backward()
        scalars = {**inner.latest_tensors(self.device), **losses, "total_loss": total}
        # In double precision, as plain numbers would be.
        return {name: value.detach().double() for name, value in scalars.items()}
