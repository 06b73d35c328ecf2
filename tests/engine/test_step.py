"""What is read of a step, and what a loss that is not finite leaves."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from nlvideo.config import CfgNode
from nlvideo.engine import DefaultTrainer
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


def _trainer(bad: int | None = None, optimizer: str = "SGD", fused: bool = True, **arguments):
    """A trainer of ten different batches, of which one, counted from 0, has a loss of NaN."""
    generator = torch.Generator().manual_seed(1)
    batches = [
        {"x": torch.randn(4, 3, generator=generator), "y": torch.randn(4, 1, generator=generator)} for _ in range(10)
    ]
    if bad is not None:
        batches[bad]["y"].fill_(float("nan"))
    model = Line()
    built = OPTIMIZERS[optimizer](model.parameters(), fused)
    return SimpleTrainer(model, itertools.cycle(batches), built, **arguments)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("amp_dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_weights_and_the_state_are_those_of_before(
    optimizer: str, amp_dtype: torch.dtype | None, fused: bool
) -> None:
    trainer = _trainer(bad=2, optimizer=optimizer, fused=fused, amp_dtype=amp_dtype)
    if trainer.scaler.is_enabled():
        # With the usual scale the first steps overflow and are skipped.
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    trainer.register_hooks([states := StatesBefore()])
    with pytest.raises(FloatingPointError, match=r"iteration 2: the loss is not finite \(loss_cls = nan, total_loss"):
        trainer.train(0, 10)
    assert trainer.iter == 2
    now = _tensors(trainer)
    assert len(now) == len(states.kept[2]) > 2
    assert all(torch.equal(ours, before) for ours, before in zip(now, states.kept[2]))
    assert not torch.equal(now[0], states.kept[0][0])  # the steps before were made


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


def test_a_step_reads_the_loss_and_nothing_else(reads: list[str]) -> None:
    trainer = _trainer(clip=lambda parameters: nn.utils.clip_grad_norm_(parameters, 1e-3))
    trainer._next_batch()  # starting the loader keeps the random states, which are read
    reads.clear()
    with trainer.storage:
        trainer.run_step()
    assert reads == ["__float__"]
    assert trainer.storage.history("grad_norm").latest() > 0


def test_a_run_saves_writes_and_tests_nothing_of_a_bad_step(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = tiny_cfg("SOLVER.CHECKPOINT_PERIOD", "1", "TEST.PRECISE_BN.ENABLED", "False")
    trainer = DefaultTrainer(cfg)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="iteration 0: the loss is not finite"):
        trainer.train()
    files = {path.name for path in Path(cfg.OUTPUT_DIR).iterdir()}
    assert not any(name.endswith(".pth") for name in files)
    assert not any(path.stat().st_size for path in Path(cfg.OUTPUT_DIR).glob("metrics.json*"))


def test_half_precision_trains_on_although_its_first_steps_are_skipped(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = tiny_cfg("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "float16", "SOLVER.MAX_ITER", "8")
    trainer = DefaultTrainer(cfg)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)  # so large that steps are skipped for certain
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert trainer.scaler.get_scale() < 2.0**20
    after = [*trainer.model.parameters()]
    assert all(parameter.isfinite().all() for parameter in after)
    assert any(not torch.equal(*pair) for pair in zip(before, after))
