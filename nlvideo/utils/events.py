"""Scalars of a run: any code puts them into the current EventStorage, and writers log them or write them to files."""

from __future__ import annotations

import datetime
import json
import logging
import math
import statistics
from collections import deque
from pathlib import Path
from typing import Any

import torch

from nlvideo.errors import LookupFailed
from nlvideo.utils.files.file_io import naming
from nlvideo.utils.messages import did_you_mean
from nlvideo.utils.registry import Registry

# Values kept per scalar: the largest window for smoothing, and what a checkpoint carries.
HISTORY_LENGTH = 1000
# The console's line shows them in places of their own, or not at all.
_TIMES = ("time", "data_time", "training_time", "lr", "peak_gpu_memory_mib", "peak_cpu_memory_mib")

_storages: list[EventStorage] = []


def has_event_storage() -> bool:
    """Return whether there is a current storage: whether a training loop is running."""
    return bool(_storages)


def get_event_storage() -> EventStorage:
    """Return the storage of the innermost ``with EventStorage()``, or raise ``RuntimeError`` where there is none."""
    if not _storages:
        raise RuntimeError("no EventStorage: call this inside `with EventStorage(start_iter):`")
    return _storages[-1]


class History:
    """The latest values of one scalar, each with its iteration."""

    def __init__(self, smoothing_hint: bool = True):
        self.smoothing_hint = smoothing_hint
        self._values: deque[tuple[float, int]] = deque(maxlen=HISTORY_LENGTH)
        self._pending: list[tuple[torch.Tensor, int]] = []

    def put(self, value: float | torch.Tensor, iteration: int) -> None:
        """Append a value. A tensor stays on its device until it is read, so that nothing waits for it before.

        Raises:
            ValueError: a tensor of several elements.
        """
        if not isinstance(value, torch.Tensor):
            self._flush()
            self._values.append((float(value), iteration))
            return
        if value.numel() != 1:
            raise ValueError(f"a scalar has one element, got shape {tuple(value.shape)}")
        # A copy: the tensor may be overwritten in place by the next iteration.
        self._pending.append((value.detach().clone().reshape(()), iteration))
        if len(self._pending) >= HISTORY_LENGTH:
            self._flush()

    def values(self) -> list[tuple[float, int]]:
        """Return the pairs (value, iteration), oldest first."""
        self._flush()
        return list(self._values)

    def latest(self) -> float:
        """Return the last value."""
        return self.values()[-1][0]

    def latest_tensor(self, device: torch.device | str) -> torch.Tensor:
        """Return the last value as a tensor () on a device, without waiting for one that is there already."""
        if self._pending:
            return self._pending[-1][0].to(device)
        return torch.full((), self._values[-1][0], dtype=torch.float64, device=device)

    def median(self, window: int) -> float:
        """Return the median of the last ``window`` values."""
        if not 1 <= window <= HISTORY_LENGTH:
            raise ValueError(f"window: got {window}, allowed: 1 to {HISTORY_LENGTH}")
        return float(statistics.median(value for value, _ in self.values()[-window:]))

    def _flush(self) -> None:
        if not self._pending:
            return
        # One transfer for all of them, in float64 so that the values are those of item().
        tensors, iterations = zip(*self._pending, strict=True)
        self._values.extend(zip(torch.stack([t.double() for t in tensors]).tolist(), iterations, strict=True))
        self._pending.clear()


class EventStorage:
    """The scalars of a run, current inside its ``with`` block.

    Args:
        start_iter: the first iteration of this process.
        max_iter: the iteration before which the run ends, for the time left.

    Example:
        >>> with EventStorage(start_iter=0) as storage:
        ...     get_event_storage().put_scalar("loss", 0.5)
        ...     storage.step()
    """

    def __init__(self, start_iter: int = 0, max_iter: int = 0):
        self.start_iter = self.iter = start_iter
        self.max_iter = max_iter
        self._histories: dict[str, History] = {}

    def put_scalar(self, name: str, value: float | torch.Tensor, smoothing_hint: bool = True) -> None:
        """Record a scalar at the current iteration.

        Args:
            name: names with a slash (``classification/top1``) are results of an evaluation.
            value: a number, or a tensor of one element; see ``History.put``.
            smoothing_hint: writers show the median of recent values (a loss), or the value as it is (a rate).
        """
        history = self._histories.setdefault(name, History(smoothing_hint))
        history.smoothing_hint = smoothing_hint
        history.put(value, self.iter)

    def step(self) -> None:
        """Move on to the next iteration."""
        self.iter += 1

    def history(self, name: str) -> History:
        """Return the history of a scalar, or raise ``LookupFailed`` where nothing was recorded under this name."""
        if name not in self._histories:
            raise LookupFailed(f"no scalar {name!r} was recorded. {did_you_mean(name, self._histories)}".rstrip())
        return self._histories[name]

    def latest(self) -> dict[str, tuple[float, int]]:
        """Return the last value of each scalar and its iteration."""
        return {name: history.values()[-1] for name, history in self._histories.items()}

    def latest_tensors(self, device: torch.device | str) -> dict[str, torch.Tensor]:
        """Return the last value of each scalar as ``History.latest_tensor`` does."""
        return {name: history.latest_tensor(device) for name, history in self._histories.items()}

    def smoothed(self, window: int) -> dict[str, tuple[float, int]]:
        """Return each scalar and its iteration; those with a smoothing hint as the median of the last ``window``."""
        smoothed = self.latest()
        for name, history in self._histories.items():
            if history.smoothing_hint:
                smoothed[name] = (history.median(window), smoothed[name][1])
        return smoothed

    def state_dict(self) -> dict[str, Any]:
        """Return the histories as plain types. The iteration belongs to the trainer and is not part of it."""
        return {
            name: {"smoothing_hint": history.smoothing_hint, "values": [list(pair) for pair in history.values()]}
            for name, history in self._histories.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace the histories. Smoothed values then continue as if the run had not stopped."""
        self._histories = {}
        for name, saved in state.items():
            history = self._histories[name] = History(saved["smoothing_hint"])
            for value, iteration in saved["values"]:
                history.put(value, iteration)

    def __enter__(self) -> EventStorage:
        _storages.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        _storages.remove(self)


WRITER = Registry(
    "WRITER",
    """Shows or saves the scalars of a run.

    Called as ``make(cfg)`` on rank 0, before training. It returns an `EventWriter`: ``write()`` is called every
    ``SOLVER.LOG_PERIOD`` iterations, after each evaluation and at the end, and reads ``get_event_storage()``;
    ``close()`` is called once at the end, also after an error. `IncrementalWriter` is a base class that gives each
    value once. A resumed run gives it back what ``state_dict()`` returned.
    """,
)


class EventWriter:
    """Base of what shows or saves the scalars of the current storage."""

    def write(self) -> None:
        """Write what is new in the current storage."""
        raise NotImplementedError

    def close(self) -> None:
        """Release files; nothing is written afterwards."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: plain types."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned, unless it was empty."""


class IncrementalWriter(EventWriter):
    """Base of writers to files: each value is written once, and none of an earlier process.

    Args:
        window: the number of values whose median stands for a smoothed scalar.
    """

    def __init__(self, window: int = 20):
        self._window = window
        self._next: dict[str, int] = {}

    def new_scalars(self) -> dict[str, tuple[float, int]]:
        """Return the (value, iteration) of each scalar that has a new value since the last call."""
        storage = get_event_storage()
        values = storage.smoothed(self._window).items()
        new = {name: value for name, value in values if value[1] >= self._next.get(name, storage.start_iter)}
        self._next.update({name: iteration + 1 for name, (_, iteration) in new.items()})
        return new

    def new_rows(self) -> list[tuple[int, dict[str, float]]]:
        """Return the same values by iteration, in order: [(iteration, {name: value})]."""
        rows: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in sorted(self.new_scalars().items()):
            rows.setdefault(iteration, {})[name] = value
        return sorted(rows.items())


class JSONWriter(IncrementalWriter):
    """Appends to a file, usually ``metrics.json``, lines of ``{"iteration": 19, "total_loss": 0.5, "lr": 0.01}``.

    A run that stopped between checkpoints and was resumed writes some iterations twice; the later line counts.
    """

    def __init__(self, path: str, window: int = 20):
        super().__init__(window)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def write(self) -> None:
        """Append a line for each iteration that has new values."""
        # A gradient's norm may be infinite, which JSON does not know.
        rows = [
            {"iteration": iteration, **{name: value for name, value in scalars.items() if math.isfinite(value)}}
            for iteration, scalars in self.new_rows()
        ]
        # Opened each time: the lines of an earlier run may have been moved to another file since.
        with naming(self._path), open(self._path, "a", encoding="utf8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


class TensorBoardWriter(IncrementalWriter):
    """Writes the scalars to a TensorBoard event file in ``log_dir``, the folder that TensorBoard is pointed at."""

    def __init__(self, log_dir: str, window: int = 20):
        super().__init__(window)
        # Importing it takes a second, and only training needs it.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(log_dir)

    def write(self) -> None:
        """Add the new values."""
        with naming(self._writer.log_dir):
            for name, (value, iteration) in self.new_scalars().items():
                self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Flush and close the event file."""
        with naming(self._writer.log_dir):
            self._writer.close()


class ConsoleWriter(EventWriter):
    """Logs one line: time left, iteration, losses and metrics, seconds per iteration, learning rate, memory.

    Args:
        period: iterations between lines, which is also the window of smoothing.
    """

    def __init__(self, period: int = 20):
        self._period = period
        self._logger = logging.getLogger(__name__)

    def write(self) -> None:
        """Log the line of the current iteration."""
        storage = get_event_storage()
        scalars = storage.smoothed(self._period)
        parts = [f"iter: {storage.iter}"]
        if "time" in scalars:
            left = storage.history("time").median(HISTORY_LENGTH) * (storage.max_iter - storage.iter - 1)
            parts.insert(0, f"eta: {datetime.timedelta(seconds=max(0, int(left)))}")
        # Losses first; results of an evaluation (with a slash) have a table of their own.
        metrics = [name for name in scalars if name not in _TIMES and "/" not in name]
        metrics.sort(key=lambda name: ("loss" not in name, name))
        parts += [f"{name}: {scalars[name][0]:.4g}" for name in metrics]
        parts += [f"{name}: {scalars[name][0]:.4f}" for name in ("time", "data_time") if name in scalars]
        if "lr" in scalars:
            parts.append(f"lr: {scalars['lr'][0]:.5g}")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self._logger.info("  ".join(parts))
