"""Hooks of every run."""

import logging
import time

import pytest
import torch
from torch import nn

from nlvideo.engine.hooks import (
    IterationTimer,
    LearningRate,
    PeriodicWriter,
    RandomStates,
    WeightAverage,
    is_due,
    total_over_ranks,
)
from nlvideo.engine.train_loop import HookBase, TrainerBase
from nlvideo.solver import ModelEma
from nlvideo.utils.events import EventWriter, get_event_storage


class Trainer(TrainerBase):
    """A trainer that sleeps."""

    def __init__(self, seconds: float = 0.0):
        super().__init__()
        self.seconds = seconds

    def run_step(self) -> None:
        time.sleep(self.seconds)
        self.storage.put_scalar("data_time", self.seconds / 4)


def _run(*hooks: HookBase, steps: int = 4, **arguments: object) -> Trainer:
    trainer = Trainer(**arguments)
    trainer.register_hooks(hooks)
    trainer.train(0, steps)
    return trainer


def test_is_due() -> None:
    assert [done for done in range(1, 8) if is_due(done, 3)] == [3, 6]
    assert not any(is_due(done, 0) for done in range(8))


def test_total_of_one_rank() -> None:
    assert total_over_ranks(3) == 3
    assert total_over_ranks(True) == 1


def test_timer_measures_steps_and_not_other_hooks(caplog: pytest.LogCaptureFixture) -> None:
    class Slow(HookBase):
        """A hook that takes longer than a step."""

        def after_step(self) -> None:
            time.sleep(0.25)

    caplog.set_level(logging.INFO, "nlvideo")
    trainer = _run(IterationTimer(), Slow(), seconds=0.02)
    times = [value for value, _ in trainer.storage.history("time").values()]
    assert len(times) == 4 and all(0.02 <= value < 0.25 for value in times)
    assert "4 iterations in" in caplog.text
    share = float(caplog.text.split("(data_time) took ")[1].split("%")[0])
    assert 0 < share <= 25


def test_timer_counts_a_single_iteration(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nlvideo")
    _run(IterationTimer(), steps=1)
    assert "1 iterations in" in caplog.text


def test_timer_of_a_trainer_that_does_not_measure_data(caplog: pytest.LogCaptureFixture) -> None:
    class Own(Trainer):
        """A trainer of a project."""

        def run_step(self) -> None:
            time.sleep(0.01)

    caplog.set_level(logging.INFO, "nlvideo")
    trainer = Own()
    trainer.register_hooks([IterationTimer()])
    trainer.train(0, 3)
    assert "(data_time) took 0.0% of" in caplog.text


def test_the_time_of_a_run_goes_on_where_it_is_resumed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nlvideo")
    first = IterationTimer()
    trainer = _run(first, seconds=0.01)
    times = [value for value, _ in trainer.storage.history("time").values()]
    totals = [value for value, _ in trainer.storage.history("training_time").values()]
    assert totals == pytest.approx([sum(times[: i + 1]) for i in range(4)])
    second = IterationTimer()
    second.load_state_dict({"training_time": 3600 + first.state_dict()["training_time"]})
    _run(second, seconds=0.01)
    assert second.state_dict()["training_time"] > 3600 + totals[-1]
    assert "4 iterations in 1:00:00 (0.0" in caplog.text


def test_learning_rate_is_that_of_the_step() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda iteration: 0.5**iteration)
    optimizer.step()
    trainer = _run(LearningRate(optimizer, scheduler))
    assert [value for value, _ in trainer.storage.history("lr").values()] == [1.0, 0.5, 0.25, 0.125]
    assert optimizer.param_groups[0]["lr"] == 0.0625


def test_weight_average_follows_the_model() -> None:
    model = nn.Linear(1, 1, bias=False)
    ema = ModelEma(model, 0.5)

    class Move(HookBase):
        """Sets the weight to the iteration."""

        def before_step(self) -> None:
            nn.init.constant_(model.weight, self.trainer.iter)

    _run(Move(), WeightAverage(ema), steps=3)
    assert ema.state_dict()["weight"].item() == 0.5 * (0.5 * 0 + 0.5 * 1) + 0.5 * 2


class Lines(EventWriter):
    """Remembers when it was asked to write."""

    def __init__(self) -> None:
        self.iterations: list[int] = []
        self.closed = False

    def write(self) -> None:
        self.iterations.append(get_event_storage().iter)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("period", "eval_period", "expected"), [(3, 0, [2, 5, 7]), (3, 4, [2, 3, 5, 7]), (100, 0, [7]), (4, 0, [3, 7])]
)
def test_writers_write_by_period_at_evaluations_and_at_the_end(period: int, eval_period: int, expected: list) -> None:
    writer = Lines()
    _run(PeriodicWriter([writer], period, eval_period), steps=8)
    assert writer.iterations == expected and writer.closed


def test_random_states_continue() -> None:
    first = RandomStates()
    state = first.state_dict()
    expected = torch.rand(2)
    second = RandomStates()
    second.load_state_dict(state)
    torch.rand(5)
    _run(second, steps=0)
    assert torch.equal(torch.rand(2), expected)


def test_random_states_of_another_number_of_ranks_are_not_used() -> None:
    hook = RandomStates()
    hook.load_state_dict({"ranks": hook.state_dict()["ranks"] * 2})
    before = torch.get_rng_state()
    _run(hook, steps=0)
    assert torch.equal(before, torch.get_rng_state())
