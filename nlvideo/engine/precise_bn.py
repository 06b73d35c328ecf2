"""Statistics of batch norm over many batches of fixed weights, instead of a moving average while weights change."""

import logging
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nlvideo.engine.hooks import is_due
from nlvideo.engine.rng import preserved_rng
from nlvideo.engine.train_loop import HookBase
from nlvideo.layers.norm import BatchNorm
from nlvideo.solver import ModelEma
from nlvideo.utils import comm
from nlvideo.utils.events import EventStorage

logger = logging.getLogger(__name__)


class _Moments:
    """Mean and variance of all inputs that a layer has seen; used as its forward pre-hook."""

    def __init__(self, layer: BatchNorm):
        # count, count * mean, count * mean of squares, per channel
        self.sums = torch.zeros(3, layer.num_features, dtype=torch.float64, device=next(layer.buffers()).device)

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        variance, mean = torch.var_mean(x.float(), dim=[0, *range(2, x.dim())], correction=0)
        mean, variance = mean.double(), variance.double()
        self.sums += x.numel() // x.shape[1] * torch.stack([torch.ones_like(mean), mean, variance + mean.square()])

    def copy_to(self, layer: BatchNorm) -> None:
        """Make them the statistics that the layer uses in evaluation."""
        count, mean, square = self.sums / self.sums[0].clamp(min=1)
        if count.all() and layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean.copy_(mean)
            layer.running_var.copy_((square - mean.square()).clamp(min=0))


@torch.no_grad()
def recompute_bn_stats(model: nn.Module, batches: Iterable[Any], num_iters: int) -> None:
    """Set the statistics of each BN that trains to those of its inputs in ``num_iters`` batches of every rank.

    Weights, random states and scalars of the run stay as they are. The authors use 200 batches before a test.

    Args:
        model: in training mode, not wrapped; called with each batch.
        batches: at least ``num_iters`` of them.
        num_iters: batches per rank.
    """
    moments = {layer: _Moments(layer) for layer in model.modules() if isinstance(layer, BatchNorm) and layer.training}
    handles = [layer.register_forward_pre_hook(hook) for layer, hook in moments.items()]
    try:
        with preserved_rng(), EventStorage():
            for batch in islice(batches, num_iters if moments else 0):
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    for layer, hook in moments.items():
        if comm.get_world_size() > 1:
            dist.all_reduce(hook.sums)
        hook.copy_to(layer)


class PreciseBN(HookBase):
    """Recomputes the statistics of BN before checkpoints and evaluations; must come before their hooks.

    Args:
        model: not wrapped.
        build_loader: called with the iteration, returns a stream of training batches of its own: the training is not
            disturbed, and a resumed run computes the same.
        num_iters: batches per rank (``TEST.PRECISE_BN.NUM_ITERS``).
        periods: iterations between checkpoints, between evaluations, ... 0: never but at the end.
        ema: its average gets statistics of its own.
    """

    def __init__(
        self,
        model: nn.Module,
        build_loader: Callable[[int], Iterable[Any]],
        num_iters: int,
        periods: Iterable[int],
        ema: ModelEma | None = None,
    ):
        self._model, self._build_loader, self._num_iters = model, build_loader, num_iters
        self._periods, self._ema = tuple(periods), ema

    def after_step(self) -> None:
        """Recompute if a checkpoint or an evaluation is due.

        A run that is stopped early does not: an uninterrupted run would not do it in that iteration.
        """
        done = self.trainer.iter + 1
        if not (self.trainer.is_last_step or any(is_due(done, period) for period in self._periods)):
            return
        if not any(isinstance(module, BatchNorm) and module.training for module in self._model.modules()):
            logger.info("Precise BN: every norm is frozen")
            return
        logger.info("Precise BN: statistics of %d batches per rank", self._num_iters)
        with preserved_rng():
            recompute_bn_stats(self._model, self._build_loader(self.trainer.iter), self._num_iters)
        if self._ema is not None:
            with self._ema.apply(), preserved_rng():
                recompute_bn_stats(self._model, self._build_loader(self.trainer.iter), self._num_iters)
                self._ema.load_state_dict(self._model.state_dict())
