"""The recent values of one scalar."""

import statistics
from collections import deque

import torch

# Values kept per scalar: the largest window that can be smoothed over, and what a checkpoint carries.
HISTORY_LENGTH = 1000


class History:
    """The latest values of one scalar, each with its iteration."""

    def __init__(self, smoothing_hint: bool = True):
        self.smoothing_hint = smoothing_hint
        self._values: deque[tuple[float, int]] = deque(maxlen=HISTORY_LENGTH)
        self._pending: list[tuple[torch.Tensor, int]] = []

    def put(self, value: float | torch.Tensor, iteration: int) -> None:
        """Append a value; a tensor stays on its device, so that nothing waits for it before it is read."""
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
        """Return the last value as a tensor () on a device; one that is there already is not waited for."""
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
        tensors = [value.double() for value, _ in self._pending]
        self._values.extend(zip(torch.stack(tensors).tolist(), [iteration for _, iteration in self._pending]))
        self._pending.clear()
