"""Schedules: exact values, refusals, and the scheduler's checkpoint."""

import pytest
import torch
from torch import nn

from nlvideo.solver.lr_schedule import IterationLR, lr_factor


@pytest.mark.parametrize("iteration, expected", [(0, 1), (149, 1), (150, 0.1), (299, 0.1), (300, 0.01), (400, 0.01)])
def test_step_factor(iteration, expected):
    assert lr_factor("step", 450, steps=(150, 300))(iteration) == pytest.approx(expected)


@pytest.mark.parametrize(
    "iteration, end, expected",
    [(0, 0.0, 1), (50, 0.0, 0.5), (100, 0.0, 0), (150, 0.0, 0), (50, 0.1, 0.55), (100, 0.1, 0.1)],
)
def test_cosine_factor(iteration, end, expected):
    assert lr_factor("cosine", 100, end_factor=end)(iteration) == pytest.approx(expected)


@pytest.mark.parametrize("iteration, expected", [(0, 0.1), (5, 0.55), (9, 0.91), (10, 1), (11, 1)])
def test_warmup_factor(iteration, expected):
    assert lr_factor("step", 100, warmup_iters=10)(iteration) == pytest.approx(expected)


def test_no_warmup_is_one_from_the_start():
    assert lr_factor("step", 100)(0) == 1


def test_warmup_multiplies_the_schedule():
    step = lr_factor("step", 100, steps=(5,), gamma=0.1, warmup_iters=10, start_factor=0.0)
    assert step(4) == pytest.approx(0.4)
    assert step(6) == pytest.approx(0.06)
    cosine = lr_factor("cosine", 100, warmup_iters=50, start_factor=0.5)
    assert cosine(25) == pytest.approx(0.75 * lr_factor("cosine", 100)(25))


def test_steps_may_be_left_out():
    assert [lr_factor("step", 10)(i) for i in (0, 9)] == [1, 1]


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"schedule": "linear", "max_iter": 10}, "schedule: got 'linear', allowed: 'step', 'cosine'"),
        ({"schedule": "cosine", "max_iter": 0}, "max_iter: got 0"),
        ({"schedule": "cosine", "max_iter": 10, "warmup_iters": 34}, "warmup_iters: got 34, allowed: 0 to .* = 9"),
        ({"schedule": "step", "max_iter": 10, "warmup_iters": -1}, "warmup_iters: got -1"),
        ({"schedule": "step", "max_iter": 10, "steps": [5, 10]}, r"steps: got \[5, 10\], allowed: .*max_iter = 10"),
        ({"schedule": "step", "max_iter": 10, "steps": [5, 5]}, r"steps: got \[5, 5\]"),
        ({"schedule": "step", "max_iter": 10, "steps": [0, 5]}, r"steps: got \[0, 5\]"),
    ],
)
def test_refusals_are_one_line_and_name_the_argument(arguments, named):
    with pytest.raises(ValueError, match=f"^{named}") as error:
        lr_factor(**arguments)
    assert "\n" not in str(error.value)


def test_cosine_does_not_look_at_steps():
    assert lr_factor("cosine", 10, steps=(150, 300))(10) == pytest.approx(0)


def _scheduler(factor, lr=2.0):
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))]}], lr=lr)
    return optimizer, IterationLR(optimizer, factor)


def _run(optimizer, scheduler, iterations):
    rates = []
    for _ in range(iterations):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_iteration_i_trains_with_factor_i():
    optimizer, scheduler = _scheduler(lr_factor("step", 6, steps=(2, 4), gamma=0.1))
    assert _run(optimizer, scheduler, 6) == pytest.approx([2, 2, 0.2, 0.2, 0.02, 0.02])


def test_resumed_rates_equal_uninterrupted_ones():
    factor = lr_factor("cosine", 20, warmup_iters=5)
    whole = _run(*_scheduler(factor), 20)
    optimizer, scheduler = _scheduler(factor)
    first = _run(optimizer, scheduler, 7)
    saved = optimizer.state_dict(), scheduler.state_dict()
    optimizer, scheduler = _scheduler(factor)
    optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    assert first + _run(optimizer, scheduler, 13) == whole


def test_resume_follows_the_new_configuration():
    optimizer, scheduler = _scheduler(lr_factor("step", 10, steps=(5,)), lr=1.0)
    _run(optimizer, scheduler, 6)
    saved = optimizer.state_dict(), scheduler.state_dict()
    optimizer, scheduler = _scheduler(lr_factor("step", 20, steps=(8,)), lr=3.0)
    optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    assert optimizer.param_groups[0]["lr"] == 3.0
    assert _run(optimizer, scheduler, 3) == pytest.approx([3.0, 3.0, 0.3])


def test_scheduler_state_is_the_position_alone():
    optimizer, scheduler = _scheduler(lr_factor("cosine", 10))
    _run(optimizer, scheduler, 3)
    assert scheduler.state_dict() == {"last_epoch": 3}
    assert scheduler.get_last_lr() == [optimizer.param_groups[0]["lr"]]
