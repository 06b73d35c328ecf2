"""When checkpoints are saved and models evaluated."""

import math

import pytest

from nlvideo.engine.checkpoint_hooks import BestCheckpointer, EvalHook, PeriodicCheckpointer, flatten_results
from nlvideo.engine.errors import TrainingInterrupted
from nlvideo.engine.train_loop import HookBase, TrainerBase


class Trainer(TrainerBase):
    """A trainer that does nothing, and may be stopped early."""

    def __init__(self, stop_in: int | None = None):
        super().__init__()
        self.stop_in = stop_in

    def run_step(self) -> None:
        if self.iter == self.stop_in:
            self.stop_reason = "test"


def _run(*hooks: HookBase, steps: int = 7, stop_in: int | None = None) -> Trainer:
    trainer = Trainer(stop_in)
    trainer.register_hooks(hooks)
    try:
        trainer.train(0, steps)
    except TrainingInterrupted:
        assert stop_in is not None
    return trainer


class Saved(list):
    """Calls of the save function."""

    def __call__(self, name: str, tag_last: bool) -> None:
        self.append((name, tag_last))


def test_checkpoints_are_named_by_finished_iterations() -> None:
    saved = Saved()
    _run(PeriodicCheckpointer(saved, 3))
    assert saved == [("model_0000003", True), ("model_0000006", True), ("model_final", True)]


def test_the_last_checkpoint_is_saved_once() -> None:
    saved = Saved()
    _run(PeriodicCheckpointer(saved, 3), steps=3)
    assert saved == [("model_final", True)]


def test_a_stopped_run_saves_at_once() -> None:
    saved = Saved()
    _run(PeriodicCheckpointer(saved, 3), stop_in=3)
    assert saved == [("model_0000003", True), ("model_0000004", True)]


@pytest.mark.parametrize(("period", "expected"), [(0, [6]), (3, [2, 5, 6]), (7, [6])])
def test_evaluation_by_period_and_at_the_end(period: int, expected: list[int]) -> None:
    results = iter(range(10))
    trainer = _run(EvalHook(lambda: {"classification": {"top1": next(results)}}, period))
    history = trainer.storage.history("classification/top1")
    assert [iteration for _, iteration in history.values()] == expected
    assert [value for value, _ in history.values()] == list(range(len(expected)))
    assert not history.smoothing_hint


def test_a_stopped_run_does_not_evaluate() -> None:
    hook = EvalHook(lambda: 1 / 0, 4)
    _run(hook, stop_in=2)
    assert hook.results == {} and hook.evaluated_iter == -1


def _evaluate_with(values: list[float]) -> tuple[Saved, BestCheckpointer]:
    saved, results = Saved(), iter(values)
    evaluation = EvalHook(lambda: {"classification": {"top1": next(results), "top5": 100.0}}, 1)
    best = BestCheckpointer(evaluation, saved)
    _run(evaluation, best, steps=len(values))
    return saved, best


def test_best_is_saved_when_it_is_beaten() -> None:
    saved, best = _evaluate_with([10.0, 5.0, 10.0, 11.0])
    assert saved == [("model_best", False)] * 2
    assert best.state_dict() == {"best": 11.0}


def test_best_before_a_resume_counts() -> None:
    saved, first = Saved(), BestCheckpointer(EvalHook(dict, 1), Saved())
    first.load_state_dict({"best": 50.0})
    evaluation = EvalHook(lambda: {"classification": {"top1": 40.0}}, 1)
    second = BestCheckpointer(evaluation, saved)
    second.load_state_dict(first.state_dict())
    _run(evaluation, second, steps=2)
    assert saved == []


def test_best_of_nothing_is_nothing() -> None:
    saved = Saved()
    evaluation = EvalHook(dict, 1)
    _run(evaluation, BestCheckpointer(evaluation, saved), steps=2)
    assert saved == []


def test_flatten_results() -> None:
    results = {"a": {"top1": 1, "nan": math.nan, "text": "x"}, "b": {"c": {"top1": 2.5}}}
    assert flatten_results(results) == {"a/top1": 1.0, "b/c/top1": 2.5}
