"""Exponential moving average of a model's weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nlvideo.utils.messages import some


class ModelEma:
    """Average of the parameters over the training steps, with the buffers as they are.

    The average starts as a copy of the model at the first :meth:`update`, not at construction: pre-trained weights that
    are loaded in between must not be averaged with the random ones before them.

    Args:
        model: the model itself, not its DistributedDataParallel wrapper, whose names would differ.
        decay: weight of the old average in each update; 0 follows the model, 1 never moves.

    Raises:
        ValueError: a decay outside [0, 1].
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"decay: got {decay}, allowed: 0 to 1")
        self.model = model
        self.decay = decay
        self._average: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the model; call it after each optimizer step."""
        current = self.model.state_dict()
        if not self._average:
            self._average = {name: tensor.detach().clone() for name, tensor in current.items()}
            return
        parameters = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        for name, tensor in current.items():
            if name in parameters:
                self._average[name].lerp_(tensor, 1.0 - self.decay)
            else:
                self._average[name].copy_(tensor)

    @contextmanager
    def apply(self) -> Iterator[None]:
        """Put the average into the model, in place, for the time of a ``with`` block, and undo what the block does."""
        own = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self.state_dict())
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average under the names of the model's own state dict; before any update, the model's values."""
        return dict(self._average) if self._average else dict(self.model.state_dict())

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Continue from what :meth:`state_dict` returned.

        Raises:
            ValueError: names that are not exactly the model's.
        """
        current = self.model.state_dict()
        differing = sorted(current.keys() ^ state_dict.keys())
        if differing:
            raise ValueError(f"the saved average belongs to another model: {some(differing)} only on one side")
        self._average = {name: state_dict[name].to(tensor, copy=True) for name, tensor in current.items()}
