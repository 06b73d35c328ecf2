"""When checkpoints are saved and models evaluated."""

import math

import numpy as np
import pytest
import torch

from nlvideo.checkpoint.plain import to_plain
from nlvideo.config import load_cfg
from nlvideo.engine.checkpoint_hooks import (
    BestCheckpointer,
    EvalHook,
    PeriodicCheckpointer,
    Settings,
    flatten_results,
)
from nlvideo.engine.train_loop import HookBase, SimpleTrainer
from nlvideo.errors import TrainingInterrupted


class Trainer(SimpleTrainer):
    """A trainer that does nothing, and may be stopped early."""

    def __init__(self, stop_in: int | None = None):
        model = torch.nn.Linear(1, 1)
        super().__init__(model, [], torch.optim.SGD(model.parameters()))
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
    results = {"classification": {"top1": 11.0, "top5": 100.0}}
    assert best.state_dict() == {
        "metric": "classification/top1", "best": 11.0, "iteration": 4, "results": results, "evaluations_since": 0
    }  # fmt: skip


def test_best_before_a_resume_counts() -> None:
    saved, first = Saved(), BestCheckpointer(EvalHook(dict, 1), Saved())
    first.load_state_dict({"best": 50.0})
    evaluation = EvalHook(lambda: {"classification": {"top1": 40.0}}, 1)
    second = BestCheckpointer(evaluation, saved)
    second.load_state_dict(first.state_dict())
    _run(evaluation, second, steps=2)
    assert saved == []


@pytest.mark.parametrize("results", [{}, {"task": {}}])
def test_best_of_nothing_is_nothing(results: dict) -> None:
    saved = Saved()
    evaluation = EvalHook(lambda: results, 1)
    _run(evaluation, BestCheckpointer(evaluation, saved), steps=2)
    assert saved == []


class Loader:
    """What a hook sees of the training data."""

    def __init__(self, fingerprint: str):
        self.dataset_size, self.fingerprint = 8, fingerprint


def _resume_with(saved: dict, *opts: str, fingerprint: str = "aa") -> None:
    hook = Settings(load_cfg(None, list(opts)))
    hook.load_state_dict(saved)
    trainer = Trainer()
    trainer.data_loader = Loader(fingerprint)
    trainer.register_hooks([hook])
    trainer.train(0, 0)


@pytest.mark.parametrize(
    ("opts", "fingerprint", "said"),
    [
        (("SOLVER.CLIPS_PER_BATCH", "16"), "aa", "SOLVER.CLIPS_PER_BATCH was 8 and is 16"),
        (("SOLVER.ACCUMULATE", "2", "SEED", "5"), "aa", "SEED was 1 and is 5; SOLVER.ACCUMULATE was 1 and is 2"),
        (("SOLVER.STEPS", "[3]"), "aa", "SOLVER.STEPS was "),
        (("DATASETS.TRAIN", "['a']"), "aa", "DATASETS.TRAIN was "),
        ((), "bb", "training data was '8 videos with fingerprint aa' and is '8 videos with fingerprint bb'"),
        (("TEST.NUM_CROPS", "1"), "aa", "TEST.NUM_CROPS was "),
        ((), "aa", ""),
        (("OUTPUT_DIR", "x", "DATALOADER.NUM_WORKERS", "7", "SOLVER.LOG_PERIOD", "3"), "aa", ""),
    ],
)
def test_other_settings_are_said_at_a_resume(
    opts: tuple, fingerprint: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    same = ("SOLVER.CLIPS_PER_BATCH", "8", "SEED", "1")
    hook = Settings(load_cfg(None, list(same)))
    trainer = Trainer()
    trainer.data_loader = Loader("aa")
    trainer.register_hooks([hook])
    trainer.train(0, 0)
    saved = to_plain(hook.state_dict(), "settings")
    assert "settings" not in caplog.text.lower()
    _resume_with(saved, *same, *opts, fingerprint=fingerprint)
    assert (said in caplog.text) if said else not caplog.records
    assert caplog.text.count(" was ") == said.count(" was ")


def test_a_loader_of_a_project_needs_no_fingerprint(caplog: pytest.LogCaptureFixture) -> None:
    _resume_with({"settings": {"training data": "8 videos with fingerprint aa"}}, fingerprint="")
    assert not caplog.records
    hook, trainer = Settings(load_cfg(None)), Trainer()
    trainer.data_loader = []
    trainer.register_hooks([hook])
    trainer.train(0, 0)
    assert "training data" not in hook.state_dict()["settings"]


def test_another_number_of_ranks_is_said(caplog: pytest.LogCaptureFixture) -> None:
    _resume_with({"settings": {"ranks": 2, "A.KEY.OF.AN.OLDER.VERSION": 1}})
    assert "ranks was 2 and is 1. The result will" in caplog.text and "A.KEY" not in caplog.text


def test_flatten_results() -> None:
    results = {"a": {"top1": 1, "text": "x"}, "b": {"c": {"top1": 2.5}}}
    assert flatten_results(results) == {"a/top1": 1.0, "b/c/top1": 2.5}
    numbers = flatten_results({"a": {"top1": np.float32(2.5), "num_videos": np.int64(3)}})
    assert numbers == {"a/top1": 2.5, "a/num_videos": 3.0} and {type(n) for n in numbers.values()} == {float}


def test_what_is_not_finite_is_not_put_into_the_storage() -> None:
    trainer = _run(EvalHook(lambda: {"a": {"top1": 1.0, "nan": math.nan}}, 0), steps=1)
    assert "a/top1" in trainer.storage.latest() and "a/nan" not in trainer.storage.latest()
