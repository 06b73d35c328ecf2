"""A loss that is not finite ends the run before the weights change, without the GPU having to wait for the answer."""

import math

import torch

# Scalars of one step: tensors of one element on the device of the model.
Scalars = dict[str, torch.Tensor]


class LossCheck:
    """Looks at the loss of every step, at once or one step later.

    At once: ``begin_step`` reads the loss, for which the CPU waits until the GPU is through with the step. Later: the
    optimizer is told on the device to skip its step where the loss is not finite, the answer is copied in the
    background, and the ``settle`` of the next step, or of whatever saves, tests or writes before it, reads the copy. In
    both cases the error names the iteration of the loss, and the weights and the optimizer's state are as before it;
    the moving average of the weights may have moved once more towards them.
    """

    def __init__(self) -> None:
        self._iteration = 0
        self._scalars: Scalars = {}
        self._copied: torch.cuda.Event | None = None

    def begin_step(self, scalars: Scalars, iteration: int, optimizer: torch.optim.Optimizer, delayed: bool) -> None:
        """Check the step before, then this one, or arrange for that; call it when the gradients are there.

        Args:
            scalars: losses of this step, "total_loss" among them, the same on every rank.
            iteration: of this step.
            optimizer: is to skip its step on the device if ``delayed``; see ``can_skip``.
            delayed: whether to look at this step later.

        Raises:
            FloatingPointError: the loss of the step before, or of this one if not ``delayed``, is not finite.
        """
        self.settle()
        if not delayed:
            _check_finite(scalars, iteration)
            return
        # What gradient scalers use, too: the fused kernels leave everything as it is where this is 1.
        optimizer.found_inf = (~scalars["total_loss"].isfinite()).float()
        self._iteration = iteration
        self._scalars = {name: value.to("cpu", non_blocking=True) for name, value in scalars.items() if "loss" in name}
        if scalars["total_loss"].is_cuda:
            # Reading a tensor would wait for all that is queued behind it, the next step included; an event does not.
            self._copied = torch.cuda.Event()
            self._copied.record()

    @staticmethod
    def end_step(optimizer: torch.optim.Optimizer) -> None:
        """Take the mark off the optimizer again; call it behind the optimizer's step."""
        if hasattr(optimizer, "found_inf"):
            del optimizer.found_inf

    def settle(self) -> None:
        """Check a step that was put off.

        Raises:
            FloatingPointError: its loss is not finite.
        """
        if not self._scalars:
            return
        if self._copied is not None:
            self._copied.synchronize()
        scalars, self._scalars, self._copied = self._scalars, {}, None
        _check_finite(scalars, self._iteration)


def can_skip(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer can be told on the device to leave weights and state as they are: PyTorch's fused ones."""
    return all(group.get("fused") for group in optimizer.param_groups)


def _check_finite(scalars: Scalars, iteration: int) -> None:
    if math.isfinite(scalars["total_loss"]):
        return
    losses = ", ".join(f"{name} = {float(value)}" for name, value in scalars.items() if "loss" in name)
    raise FloatingPointError(
        f"iteration {iteration}: the loss is not finite ({losses}). Weights and checkpoints are as before it;"
        " lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_ITERS or clip gradients"
    )
