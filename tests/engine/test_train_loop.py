"""The loop, its hooks, and one training step."""

import itertools
import math

import pytest
import torch
from torch import nn

from nlvideo.engine.train_loop import HookBase, SimpleTrainer, TrainerBase
from nlvideo.errors import TrainingInterrupted
from nlvideo.utils.events import get_event_storage

METHODS = ("before_train", "before_step", "after_backward", "after_step", "after_train")


class Recorder(HookBase):
    """Writes down what is called, with the iteration."""

    def __init__(self, calls: list, name: str | None = None):
        self.calls, self.name = calls, name
        for method in METHODS:
            setattr(self, method, lambda method=method: calls.append((self.name, method, self.trainer.iter)))


class CountingTrainer(TrainerBase):
    """A trainer whose step puts the iteration into the storage."""

    def run_step(self) -> None:
        get_event_storage().put_scalar("seen", self.iter)


class StopAfter(HookBase):
    """Asks to stop in one iteration."""

    def __init__(self, iteration: int):
        self.iteration = iteration

    def after_step(self) -> None:
        if self.trainer.iter == self.iteration:
            self.trainer.stop_reason = "test"


class Counter(HookBase):
    """A hook with a memory."""

    def __init__(self, name: str = "counter"):
        self.name, self.count = name, 0

    def after_step(self) -> None:
        self.count += 1

    def state_dict(self) -> dict:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict) -> None:
        self.count = state_dict["count"]


class Saver(HookBase):
    """Saves the state in one iteration."""

    state: dict

    def after_step(self) -> None:
        if self.trainer.iter == 1:
            self.state = self.trainer.state_dict()


@pytest.mark.parametrize("max_iter", [3, 2, 1])
def test_a_resumed_run_finishes_the_iteration_of_its_checkpoint(max_iter: int) -> None:
    """The process that saved may have been killed before the hooks after the saving one were called."""
    saver, first, calls = Saver(), CountingTrainer(), []
    first.register_hooks([Counter("before"), saver, Counter("after")])
    first.train(0, 2)
    assert saver.state["hooks"] == {"before": {"count": 2}, "after": {"count": 1}}
    trainer = CountingTrainer()
    trainer.register_hooks([Counter("before"), Saver(), Counter("after"), Recorder(calls, "last")])
    trainer.load_state_dict(saver.state)
    trainer.train(2, max_iter)
    steps = [("last", "before_step", 2), ("last", "after_step", 2)] if max_iter == 3 else []
    assert [call for call in calls if "step" in call[1]] == [("last", "after_step", 1), *steps]
    assert [hook.count for hook in trainer.hooks if isinstance(hook, Counter)] == ([3, 3] if max_iter == 3 else [2, 2])
    # Once only.
    calls.clear()
    trainer.train(2, 2)
    assert not [call for call in calls if "step" in call[1]]


def test_nothing_is_finished_of_a_state_that_no_hook_saved() -> None:
    first, second, calls = CountingTrainer(), CountingTrainer(), []
    first.register_hooks([Recorder([], "a")])
    first.train(0, 2)
    second.register_hooks([Recorder(calls, "a")])
    state = first.state_dict()
    for saved in (state, {**state, "saved_by": "gone"}, {key: state[key] for key in state if key != "saved_by"}):
        second.load_state_dict(saved)
        second.train(2, 2)
    assert not [call for call in calls if "step" in call[1]]


def test_hooks_run_in_order_around_every_step() -> None:
    calls: list = []
    trainer = CountingTrainer()
    trainer.register_hooks([Recorder(calls, "a"), None, Recorder(calls, "b")])
    trainer.train(3, 5)
    expected = []
    for method, iteration in (("before_train", 3), ("before_step", 3), ("after_step", 3),
                              ("before_step", 4), ("after_step", 4), ("after_train", 4)):  # fmt: skip
        expected += [("a", method, iteration), ("b", method, iteration)]
    assert calls == expected
    assert trainer.storage.history("seen").values() == [(3.0, 3), (4.0, 4)]


def test_after_train_runs_after_an_error() -> None:
    calls: list = []
    trainer = CountingTrainer()
    trainer.register_hooks([Recorder(calls)])
    trainer.run_step = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.train(0, 2)
    assert [call[1] for call in calls] == ["before_train", "before_step", "after_train"]


def test_two_hooks_of_one_name_are_refused() -> None:
    trainer = CountingTrainer()
    with pytest.raises(ValueError, match="two hooks are called 'StopAfter'"):
        trainer.register_hooks([StopAfter(1), StopAfter(2)])


def test_stopping_finishes_the_iteration_and_raises() -> None:
    trainer = CountingTrainer()
    trainer.register_hooks([StopAfter(1)])
    with pytest.raises(TrainingInterrupted, match="test: stopped after 2 of 5 iterations"):
        trainer.train(0, 5)
    assert trainer.iter == 1
    assert trainer.state_dict()["iteration"] == 2


def test_stopping_in_the_last_iteration_is_a_normal_end() -> None:
    trainer = CountingTrainer()
    trainer.register_hooks([StopAfter(4)])
    trainer.train(0, 5)
    assert trainer.iter == 4


def test_state_of_hooks_goes_by_name(caplog: pytest.LogCaptureFixture) -> None:
    first = CountingTrainer()
    first.register_hooks([Counter("one"), Counter("gone")])
    first.train(0, 3)
    second = CountingTrainer()
    second.register_hooks([Counter("new"), Counter("one")])
    second.load_state_dict(first.state_dict())
    assert [hook.count for hook in second.hooks] == [0, 3]
    assert second.start_iter == 3
    assert second.storage.history("seen").latest() == 2
    assert "no state of the hook new" in caplog.text and "not there: gone" in caplog.text


class Regression(nn.Module):
    """Squared error of a linear map of the batch's ``x``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 1)
        self.dtypes: set = set()

    def forward(self, batch: dict) -> dict:
        output = self.linear(batch["x"])
        self.dtypes.add(output.dtype)
        get_event_storage().put_scalar("mean_x", batch["x"].mean())
        return {"loss_a": (output - batch["y"]).square().mean(), "loss_b": 0.1 * output.abs().mean()}


def _batches(size: int, count: int) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"x": torch.randn(size, 3, generator=generator), "y": torch.randn(size, 1, generator=generator)}
        for _ in range(count)
    ]


def _halves(batches: list[dict]) -> list[dict]:
    parts = slice(0, 4), slice(4, 8)
    return [{key: value[part] for key, value in batch.items()} for batch in batches for part in parts]


def _train(batches: list[dict], steps: int = 3, **arguments: object) -> SimpleTrainer:
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = SimpleTrainer(model, itertools.cycle(batches), optimizer, **arguments)
    if trainer.scaler.is_enabled():
        # The usual scale overflows at first, and the scaler skips those steps.
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    trainer.train(0, steps)
    return trainer


def test_training_lowers_the_loss_and_records_it() -> None:
    trainer = _train(_batches(8, 2), steps=30)
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert len(losses) == 30 and losses[-1] < losses[0]
    latest = {name: value for name, (value, _) in trainer.storage.latest().items()}
    assert latest["total_loss"] == pytest.approx(latest["loss_a"] + latest["loss_b"], rel=1e-6)
    assert latest["data_time"] >= 0


def test_accumulated_batches_equal_one_large_batch() -> None:
    large = _batches(8, 3)
    one, two = _train(large), _train(_halves(large), accumulate=2)
    torch.testing.assert_close(one.model.linear.weight, two.model.linear.weight)
    for name in ("total_loss", "mean_x"):
        torch.testing.assert_close(one.storage.history(name).values(), two.storage.history(name).values())


def test_gradients_are_exchanged_in_the_last_batch_only() -> None:
    calls: list = []

    class Wrapped(Regression):
        """Says, like a distributed wrapper, when gradients are not exchanged."""

        def no_sync(self) -> object:
            calls.append("no_sync")
            return torch.enable_grad()

    model = Wrapped()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trainer = SimpleTrainer(model, itertools.cycle(_batches(2, 1)), optimizer, accumulate=3)
    trainer.train(0, 2)
    assert calls == ["no_sync"] * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_runs_the_forward_in_its_dtype(dtype: torch.dtype) -> None:
    trainer = _train(_batches(8, 3), amp_dtype=dtype)
    assert trainer.model.dtypes == {dtype}
    assert trainer.model.linear.weight.dtype == torch.float32
    assert trainer.scaler.is_enabled() == (dtype == torch.float16)
    expected = _train(_batches(8, 3)).model.linear.weight
    torch.testing.assert_close(trainer.model.linear.weight, expected, atol=0.02, rtol=0)


def test_clipping_sees_unscaled_gradients() -> None:
    norms = []
    for dtype in (None, torch.float16):
        clip = lambda parameters: nn.utils.clip_grad_norm_(parameters, 1e-3)  # noqa: E731
        trainer = _train(_batches(8, 3), amp_dtype=dtype, clip=clip, steps=1)
        norms.append(trainer.storage.history("grad_norm").latest())
        total = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in trainer.model.parameters()))
        assert total == pytest.approx(1e-3, rel=1e-2)
    assert norms[0] == pytest.approx(norms[1], rel=1e-2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(bad: float) -> None:
    batches = _batches(8, 3)
    batches[2]["y"] = torch.full((8, 1), bad)
    good = _train(batches, steps=2)
    model = Regression()
    trainer = SimpleTrainer(model, itertools.cycle(batches), torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
    losses = rf"loss_a = {bad}, loss_b = 0\.\d+, total_loss = {bad}"
    with pytest.raises(FloatingPointError, match=f"iteration 2: .*{losses}"):
        trainer.train(0, 3)
    assert torch.equal(model.linear.weight, good.model.linear.weight)


def test_starting_the_loader_leaves_the_random_state_alone() -> None:
    class Drawing:
        """Draws when it is started and with its first batch, as a loader with workers does."""

        def __iter__(self) -> object:
            torch.rand(1)
            yield from itertools.cycle(_batches(2, 1))

    model = Regression()
    trainer = SimpleTrainer(model, Drawing(), torch.optim.SGD(model.parameters(), 0.1))
    before = torch.get_rng_state()
    trainer.train(0, 2)
    assert torch.equal(before, torch.get_rng_state())


def test_failures_of_a_batch_wait_for_a_hook() -> None:
    batch = {**_batches(2, 1)[0], "failed": [("a.mp4", "broken")]}
    model = Regression()
    trainer = SimpleTrainer(model, iter([dict(batch), dict(batch)]), torch.optim.SGD(model.parameters(), 0.1))
    trainer.train(0, 2)
    assert trainer.failed_files == [("a.mp4", "broken")] * 2
