"""Learning-rate schedules: factors on the base rate by iteration, and the scheduler that applies them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from nlvideo.config.validate import ALLOWED
from nlvideo.utils.messages import check_one_of


def lr_factor(
    schedule: str,
    max_iter: int,
    *,
    steps: Sequence[int] = (),
    gamma: float = 0.1,
    end_factor: float = 0.0,
    warmup_iters: int = 0,
    start_factor: float = 0.1,
) -> Callable[[int], float]:
    """Return the schedule as one function of the iteration; the warm-up multiplies whatever it overlaps.

    Args:
        schedule: ``"step"``, or ``"cosine"``: half a wave from 1 at iteration 0 to ``end_factor`` at ``max_iter``.
        max_iter: length of the run.
        steps: iterations at which the rate is multiplied by ``gamma``; only for ``"step"``.
        gamma: 0.1 in the paper (Sec. 4.1).
        end_factor: where ``"cosine"`` ends.
        warmup_iters: a straight line from ``start_factor`` to 1; 0 is none, as in the authors' configurations.
        start_factor: where the warm-up starts.

    Raises:
        ValueError: an unknown schedule, or one that does not fit into ``max_iter``.
    """
    check_one_of("schedule", schedule, ALLOWED["SOLVER.LR_SCHEDULE"])
    if max_iter < 1:
        raise ValueError(f"max_iter: got {max_iter}, allowed: 1 or more")
    if not 0 <= warmup_iters < max_iter:
        raise ValueError(f"warmup_iters: got {warmup_iters}, allowed: 0 to max_iter - 1 = {max_iter - 1}")
    fits = list(steps) == sorted(set(steps)) and all(0 < step < max_iter for step in steps)
    if schedule == "step" and not fits:
        allowed = f"increasing iterations above 0 and below max_iter = {max_iter}"
        raise ValueError(f"steps: got {list(steps)}, allowed: {allowed}")

    def factor(iteration: int) -> float:
        """The factor of one iteration."""
        if schedule == "step":
            decay = gamma ** sum(iteration >= step for step in steps)
        else:
            wave = 1.0 + math.cos(math.pi * min(iteration / max_iter, 1.0))
            decay = end_factor + (1.0 - end_factor) * 0.5 * wave
        if iteration >= warmup_iters:
            return decay
        return (start_factor + (1.0 - start_factor) * iteration / warmup_iters) * decay

    return factor


class IterationLR(LambdaLR):
    """A ``LambdaLR`` whose checkpoint holds the position in the schedule and nothing of the schedule itself.

    PyTorch's own schedulers also save their base rates: a run that is resumed with another ``BASE_LR`` would go on with
    the old one. Here the config says what the schedule is, and the checkpoint where the run was.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return ``{"last_epoch": iteration}`` (PyTorch's name for the position)."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the saved iteration and set its rates. Load the optimizer first: it brings the old rates with it."""
        self.last_epoch = state_dict["last_epoch"]
        self._last_lr = [
            base * factor(self.last_epoch) for base, factor in zip(self.base_lrs, self.lr_lambdas, strict=True)
        ]
        for group, rate, base in zip(self.optimizer.param_groups, self._last_lr, self.base_lrs, strict=True):
            group["lr"], group["initial_lr"] = rate, base
