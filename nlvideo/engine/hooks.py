"""Hooks of every run: times, memory, learning rate, weight average, random states, writers."""

import datetime
import logging
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nlvideo.engine.rng import get_rng_state, set_rng_state
from nlvideo.engine.train_loop import HookBase
from nlvideo.solver import ModelEma
from nlvideo.utils import comm
from nlvideo.utils.events import EventWriter

logger = logging.getLogger(__name__)


def is_due(iterations_done: int, period: int) -> bool:
    """Return whether something that happens every ``period`` iterations happens now; period 0 is never."""
    return period > 0 and iterations_done % period == 0


def total_over_ranks(count: int) -> int:
    """Return the sum of ``count`` over all ranks, on every rank: so ranks agree on what to do next."""
    return int(comm.reduce_dict({"count": torch.tensor(float(count))}, average=False)["count"])


class IterationTimer(HookBase):
    """Measures iterations, and says at the end how much of their time was spent waiting for data.

    Must be the first hook: what the others do after a step does not count.
    """

    def __init__(self) -> None:
        # The total is of the whole run, also before a resume. The others leave out the first iteration of this process.
        self._start = self._total = self._training_time = self._data_time = 0.0
        self._iterations = 0

    def before_step(self) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def after_step(self) -> None:
        """Put the seconds of the iteration (``time``) and of the run so far (``training_time``) into the storage."""
        seconds = time.perf_counter() - self._start
        self._total += seconds
        self.trainer.storage.put_scalar("time", seconds)
        self.trainer.storage.put_scalar("training_time", self._total, smoothing_hint=False)
        # The first iteration starts the loader's workers and chooses kernels.
        if self.trainer.iter == self.trainer.start_iter and not self.trainer.is_last_step:
            return
        self._iterations += 1
        self._training_time += seconds
        self._data_time += self.trainer.storage.latest().get("data_time", (0.0, 0))[0]

    def after_train(self) -> None:
        """Log the time of the run, the mean of an iteration and the share of it that was waiting for data."""
        if not self._iterations:
            return
        logger.info(
            "%d iterations in %s (%.4f s each after the first); waiting for data (data_time) took %.1f%% of the"
            " iteration time",
            self.trainer.iter + 1,
            datetime.timedelta(seconds=round(self._total)),
            self._training_time / self._iterations,
            100 * self._data_time / self._training_time,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the time of the run so far."""
        return {"training_time": self._total}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there."""
        self._total = state_dict["training_time"]


class MemoryStats(HookBase):
    """Puts the peak of memory so far into the storage, in MiB, whenever a line is about to be written.

    On a GPU it is what torch has allocated there, ``peak_gpu_memory_mib``. Else it is what the process has held in
    memory, ``peak_cpu_memory_mib``, without the workers that decode. It is the peak of rank 0.
    """

    def __init__(self, model: nn.Module, period: int):
        self._device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self._period = period

    def after_step(self) -> None:
        """Look if it is time."""
        if not (is_due(self.trainer.iter + 1, self._period) or self.trainer.is_last_step):
            return
        if self._device.type == "cuda":
            name, num_bytes = "peak_gpu_memory_mib", torch.cuda.max_memory_allocated(self._device)
        else:
            # Linux counts in KiB, macOS in bytes.
            unit = 1 if sys.platform == "darwin" else 1024
            name, num_bytes = "peak_cpu_memory_mib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        self.trainer.storage.put_scalar(name, num_bytes / 2**20, smoothing_hint=False)


class LearningRate(HookBase):
    """Records the learning rate of each step, then moves the schedule on."""

    def __init__(self, optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler):
        self._optimizer, self._scheduler = optimizer, scheduler

    def after_step(self) -> None:
        """Put ``lr``, without the factors of stages and head, into the storage and set the rates of the next step."""
        group = self._optimizer.param_groups[0]
        self.trainer.storage.put_scalar("lr", group["lr"] / group.get("lr_factor", 1.0), smoothing_hint=False)
        self._scheduler.step()


class WeightAverage(HookBase):
    """Updates the moving average of the weights after each step."""

    def __init__(self, ema: ModelEma):
        self._ema = ema

    def after_step(self) -> None:
        """Move the average towards the model."""
        self._ema.update()


class PeriodicWriter(HookBase):
    """Lets the writers write every ``period`` iterations, at evaluations and at the end. Must be the last hook.

    Args:
        writers: none on ranks other than 0.
        period: iterations between lines.
        eval_period: iterations between evaluations, whose results a run that stops would lose. 0: no evaluations.
    """

    def __init__(self, writers: Sequence[EventWriter], period: int, eval_period: int = 0):
        self._writers, self._period, self._eval_period = writers, period, eval_period

    def after_step(self) -> None:
        """Write if it is time. A run that is being stopped leaves an evaluation, and its line, to the resumed run."""
        done, evaluates = self.trainer.iter + 1, is_due(self.trainer.iter + 1, self._eval_period)
        if self.trainer.is_last_step or (not self.trainer.stop_reason if evaluates else is_due(done, self._period)):
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        """Close the writers."""
        for writer in self._writers:
            writer.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the writers that have one, by the names of their classes."""
        return {type(writer).__name__: state for writer in self._writers if (state := writer.state_dict())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back."""
        for writer in self._writers:
            if state := state_dict.get(type(writer).__name__):
                writer.load_state_dict(state)


class RandomStates(HookBase):
    """Carries the random generators of all ranks through checkpoints.

    Must come after every hook that draws random numbers in ``before_train``: an uninterrupted run calls that once.
    """

    def __init__(self) -> None:
        self._loaded: list[dict[str, Any]] = []

    def before_train(self) -> None:
        """Go on where the generators of this rank were."""
        # The states of another number of ranks fit none of these.
        if len(self._loaded) == comm.get_world_size():
            set_rng_state(self._loaded[comm.get_rank()])

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all ranks, on rank 0; call it on every rank."""
        return {"ranks": comm.gather_object(get_rng_state())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training begins."""
        self._loaded = state_dict["ranks"]
