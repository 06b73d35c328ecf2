"""A loss that is not finite: found at once or a step later, and the weights are those of before in both cases."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from nlvideo.config import CfgNode
from nlvideo.engine import DefaultTrainer
from nlvideo.engine.loss_check import LossCheck, can_skip
from nlvideo.engine.train_loop import HookBase, SimpleTrainer
from nlvideo.utils.events import get_event_storage

READS = ("item", "tolist", "__float__", "__int__", "__bool__", "numpy")
OPTIMIZERS = {
    "SGD": lambda parameters, fused: torch.optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True, fused=fused),
    "AdamW": lambda parameters, fused: torch.optim.AdamW(parameters, 0.1, fused=fused),
}


class Line(nn.Module):
    """Squared error of a linear map; puts a scalar, too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 1)

    def forward(self, batch: dict) -> dict:
        get_event_storage().put_scalar("mean_x", batch["x"].mean())
        return {"loss_cls": (self.linear(batch["x"]) - batch["y"]).square().mean()}


class StatesBefore(HookBase):
    """Keeps weights and the optimizer's state as they were before each step."""

    def __init__(self) -> None:
        self.kept: list[list[torch.Tensor]] = []

    def before_step(self) -> None:
        self.kept.append(_tensors(self.trainer))


def _tensors(trainer: SimpleTrainer) -> list[torch.Tensor]:
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    return [tensor.detach().clone() for tensor in [*trainer.model.parameters(), *states]]


def _trainer(bad: int | None = None, optimizer: str = "SGD", fused: bool = True, delayed: bool = True, **arguments):
    """A trainer of ten different batches, of which one, counted from 0, has a loss of NaN."""
    generator = torch.Generator().manual_seed(1)
    batches = [
        {"x": torch.randn(4, 3, generator=generator), "y": torch.randn(4, 1, generator=generator)} for _ in range(10)
    ]
    if bad is not None:
        batches[bad]["y"].fill_(float("nan"))
    model = Line()
    built = OPTIMIZERS[optimizer](model.parameters(), fused)
    return SimpleTrainer(model, itertools.cycle(batches), built, delay_check=delayed, **arguments)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("last", [True, False])
def test_found_a_step_later_the_weights_are_those_of_before(optimizer: str, last: bool) -> None:
    trainer = _trainer(bad=2, optimizer=optimizer)
    trainer.register_hooks([states := StatesBefore()])
    with pytest.raises(FloatingPointError, match=r"iteration 2: the loss is not finite \(loss_cls = nan, total_loss"):
        trainer.train(0, 3 if last else 10)
    # With more steps to come, the next one had begun; it has not stepped either.
    assert trainer.iter == (2 if last else 3)
    now = _tensors(trainer)
    assert len(now) == len(states.kept[2]) > 2
    assert all(torch.equal(ours, before) for ours, before in zip(now, states.kept[2]))


@pytest.mark.parametrize("how", [{"fused": False}, {"delayed": False}])
def test_found_at_once_where_it_cannot_be_put_off_or_is_not_to_be(how: dict) -> None:
    trainer = _trainer(bad=2, **how)
    with pytest.raises(FloatingPointError, match="iteration 2: "):
        trainer.train(0, 10)
    assert trainer.iter == 2 and not hasattr(trainer.optimizer, "found_inf")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_looking_later_changes_no_number(optimizer: str) -> None:
    later, at_once = (_trainer(optimizer=optimizer, delayed=delayed) for delayed in (True, False))
    for trainer in (later, at_once):
        trainer.train(0, 5)
    assert all(torch.equal(a, b) for a, b in zip(_tensors(later), _tensors(at_once)))
    for name in ("total_loss", "loss_cls", "mean_x"):
        assert later.storage.history(name).values() == at_once.storage.history(name).values()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the methods that brought a tensor's value to Python since the test began."""
    found: list[str] = []
    for name in READS:
        original = getattr(torch.Tensor, name)

        def read(self, *args, original=original, name=name):
            found.append(name)
            return original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, read)
    yield found


@pytest.mark.parametrize("delayed", [True, False])
def test_no_step_reads_a_value_of_its_own(reads: list[str], delayed: bool) -> None:
    trainer = _trainer(delayed=delayed, clip=lambda parameters: nn.utils.clip_grad_norm_(parameters, 1e-3))
    trainer._next_batch()  # starting the loader keeps the random states, which are read
    reads.clear()
    with trainer.storage:
        trainer.run_step()
    assert reads == ([] if delayed else ["__float__"])
    trainer.settle()
    assert reads == ["__float__"] and trainer.storage.history("grad_norm").latest() > 0


def test_what_is_put_off_is_settled_before_a_state_is_taken() -> None:
    trainer = _trainer(bad=0)
    with trainer.storage:
        trainer.run_step()
    with pytest.raises(FloatingPointError, match="iteration 0"):
        trainer.state_dict()
    trainer.settle()  # once is enough


def test_a_run_saves_writes_and_tests_nothing_of_a_bad_step(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = tiny_cfg("SOLVER.CHECKPOINT_PERIOD", "1", "TEST.PRECISE_BN.ENABLED", "False")
    trainer = DefaultTrainer(cfg)
    for group in trainer.optimizer.param_groups:
        group["fused"] = True
    trainer._delay_check = True
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="iteration 0: the loss is not finite"):
        trainer.train()
    files = {path.name for path in Path(cfg.OUTPUT_DIR).iterdir()}
    assert not any(name.endswith(".pth") for name in files)
    assert (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text() == ""


def test_which_optimizers_can_skip() -> None:
    parameters = [nn.Parameter(torch.zeros(2))]
    assert can_skip(OPTIMIZERS["SGD"](parameters, True)) and not can_skip(OPTIMIZERS["SGD"](parameters, None))


def test_nothing_to_settle_is_fine() -> None:
    LossCheck().settle()


def test_a_gradient_scaler_has_the_loss_read_at_once() -> None:
    trainer = _trainer(bad=2, amp_dtype=torch.float16)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    with pytest.raises(FloatingPointError, match="iteration 2: "):
        trainer.train(0, 10)
    assert trainer.iter == 2
    first = _trainer().model.linear.weight
    assert not torch.equal(trainer.model.linear.weight, first)  # the steps before were made
