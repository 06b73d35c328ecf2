"""Precise statistics of batch norm."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from nlvideo.engine.precise_bn import PreciseBN, recompute_bn_stats
from nlvideo.engine.train_loop import TrainerBase
from nlvideo.errors import TrainingInterrupted
from nlvideo.layers.norm import get_norm
from nlvideo.solver import ModelEma
from nlvideo.utils.events import EventStorage, get_event_storage


class Model(nn.Module):
    """A norm between dropout and a convolution; also puts a scalar and draws."""

    def __init__(self, norm: str = "BN"):
        super().__init__()
        self.conv = nn.Conv3d(2, 3, 1)
        self.norm = get_norm(norm, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, batch: torch.Tensor) -> dict:
        get_event_storage().put_scalar("top1", 1.0)
        return {"loss": self.dropout(self.norm(self.conv(batch))).square().mean()}


def _batches(count: int, seed: int = 0) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Of different sizes, and means far from zero: neither may distort the result.
    return iter([100 + torch.randn(2 + i, 2, 2, 3, 3, generator=generator) for i in range(count)])


def test_statistics_are_those_of_all_activations_together() -> None:
    model = Model().train()
    recompute_bn_stats(model, _batches(4), 4)
    x = torch.cat([model.conv(batch) for batch in _batches(4)])
    torch.testing.assert_close(model.norm.running_mean, x.mean((0, 2, 3, 4)))
    torch.testing.assert_close(model.norm.running_var, x.var((0, 2, 3, 4), correction=0), rtol=1e-4, atol=1e-5)


def test_only_as_many_batches_as_asked_for() -> None:
    batches = _batches(5)
    recompute_bn_stats(Model().train(), batches, 2)
    assert next(batches).shape[0] == 4


def test_nothing_else_changes() -> None:
    model = Model().train()
    weights = {name: value.clone() for name, value in model.named_parameters()}
    rng = torch.get_rng_state()
    with EventStorage() as storage:
        recompute_bn_stats(model, _batches(3), 3)
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(weights[name], value) for name, value in model.named_parameters())
    assert storage.latest() == {}
    assert model.training and model.norm.momentum == 0.1 and not model.norm._forward_pre_hooks


def test_frozen_norms_and_norms_in_evaluation_are_left_alone() -> None:
    for model in (Model("FrozenBN").train(), Model().train()):
        model.norm.eval()
        recompute_bn_stats(model, _batches(3), 3)
        assert torch.equal(model.norm.running_mean, torch.zeros(3))


def test_a_norm_that_was_not_used_keeps_its_statistics() -> None:
    model = Model().train()
    model.unused = nn.BatchNorm3d(3)
    recompute_bn_stats(model, _batches(2), 2)
    assert torch.equal(model.unused.running_var, torch.ones(3))


class Trainer(TrainerBase):
    """Changes the weights in each step."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.stop_in = model, None

    def run_step(self) -> None:
        with torch.no_grad():
            self.model.conv.weight.add_(0.1)
        if self.iter == self.stop_in:
            self.stop_reason = "test"


def test_hook_reads_a_stream_of_its_own_before_checkpoints_and_evaluations() -> None:
    asked: list[int] = []
    model = Model().train()

    def build_loader(iteration: int) -> Iterator[torch.Tensor]:
        asked.append(iteration)
        return _batches(2, seed=iteration)

    trainer = Trainer(model)
    trainer.register_hooks([PreciseBN(model, build_loader, 2, (4, 3, 0))])
    trainer.train(0, 7)
    assert asked == [2, 3, 5, 6]
    x = torch.cat([model.conv(batch) for batch in _batches(2, seed=6)])
    torch.testing.assert_close(model.norm.running_mean, x.mean((0, 2, 3, 4)))


def test_a_stopped_run_computes_nothing_extra() -> None:
    model = Model().train()
    trainer = Trainer(model)
    trainer.stop_in = 4
    trainer.register_hooks([PreciseBN(model, lambda iteration: 1 / 0, 2, (10,))])
    with pytest.raises(TrainingInterrupted):
        trainer.train(0, 7)


def test_the_average_gets_statistics_of_its_own() -> None:
    model = Model().train()
    ema = ModelEma(model, 0.9)
    ema.update()
    average = ema.state_dict()["conv.weight"].clone()
    trainer = Trainer(model)
    trainer.register_hooks([PreciseBN(model, lambda iteration: _batches(2), 2, (), ema)])
    trainer.train(0, 1)
    assert torch.equal(ema.state_dict()["conv.weight"], average)
    assert not torch.equal(model.conv.weight, average)
    with ema.apply(), torch.no_grad():
        x = torch.cat([model.conv(batch) for batch in _batches(2)])
        torch.testing.assert_close(model.norm.running_mean, x.mean((0, 2, 3, 4)))
    x = torch.cat([model.conv(batch) for batch in _batches(2)])
    torch.testing.assert_close(model.norm.running_mean, x.mean((0, 2, 3, 4)))
