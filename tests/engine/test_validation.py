"""A protocol for evaluations in training, the best checkpoint at the end, and runs that end early."""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from nlvideo.checkpoint import load_model_for_test
from nlvideo.config import CfgNode, load_cfg
from nlvideo.engine.checkpoint_hooks import BestCheckpointer, EvalHook, PeriodicCheckpointer
from nlvideo.engine.setup import default_setup
from nlvideo.engine.train_loop import TrainerBase
from nlvideo.engine.trainer import DefaultTrainer
from nlvideo.evaluation import read_results, verify_results
from nlvideo.solver import ModelEma

ROOT = Path(__file__).resolve().parents[2]
TOP1 = "classification/top1"


class Trainer(TrainerBase):
    """A trainer that does nothing."""

    def run_step(self) -> None:
        """Do it."""


class Saved(list):
    """Calls of the save function."""

    def __call__(self, name: str, tag_last: bool) -> None:
        self.append((name, tag_last))


def _plain(content: object) -> object:
    """A checkpoint as plain values that compare; without what two equal runs measure differently."""
    if isinstance(content, torch.Tensor):
        return content.tolist()
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items() if not str(key).endswith(("time", "memory_mib"))}
    return [_plain(value) for value in content] if isinstance(content, (list, tuple)) else content


def _metrics(folder: Path) -> list[dict]:
    return [_plain(json.loads(line)) for line in (folder / "metrics.json").read_text().splitlines()]


class Killed(BaseException):
    """Ends a run as a kill would."""


def _start(cfg: CfgNode, resume: bool = False) -> DefaultTrainer:
    cfg = default_setup(cfg, argparse.Namespace(resume=resume))
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume)
    return trainer


def _scripted(monkeypatch: pytest.MonkeyPatch, values: dict[int, float]) -> list[tuple[str, int]]:
    """Tests score by the iteration of the weights; returns which tests there were: prefix and iterations done."""
    tested = []

    def test(
        trainer: DefaultTrainer, cfg: CfgNode, model: torch.nn.Module, prefix: str = "", max_videos: int = 0
    ) -> dict:
        done = 4 if prefix == "best/" else trainer.iter + 1
        tested.append((prefix, done))
        return {"classification": {"top1": values[done] + (10 if prefix != "validation/" else 0), "loss": 1.0}}

    monkeypatch.setattr(DefaultTrainer, "test", test)
    return tested


OPTS = ("SOLVER.MAX_ITER", "12", "SOLVER.STEPS", "[11]", "SOLVER.CHECKPOINT_PERIOD", "4", "TEST.EVAL_PERIOD", "2",
        "SOLVER.EARLY_STOPPING.PATIENCE", "2")  # fmt: skip
VALIDATION = ("TEST.VALIDATION.ENABLED", "True", "TEST.VALIDATION.MAX_VIDEOS", "3")
# The best after 4 iterations: with a patience of 2 the run ends after 8.
VALUES = {2: 50.0, 4: 60.0, 6: 55.0, 8: 60.0, 10: 90.0, 12: 70.0}


def test_validation_is_apart_from_the_full_test(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    opts = ("SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "[3]", "TEST.EVAL_PERIOD", "2", "OUTPUT_DIR", str(tmp_path))
    cfg = tiny_cfg(*opts, *VALIDATION, "TEST.KEEP_VIEWS", "True", "TEST.EXPECTED_RESULTS",
                   "[['classification', 'num_videos', 5, 0]]")  # fmt: skip
    results = _start(cfg).train()
    assert results["classification"]["num_videos"] == 5 and verify_results(cfg, results)
    rows = {line["iteration"]: line for line in _metrics(tmp_path)}
    assert rows[1]["validation/classification/num_videos"] == rows[3]["validation/classification/num_videos"] == 3
    assert TOP1 not in rows[1] and rows[3][TOP1] == results["classification"]["top1"]
    assert 0 < rows[1]["validation/classification/loss"] < 10 and {"best/iteration"} <= rows[3].keys()
    (validated,), (tested,) = ((tmp_path / where).glob("*.json") for where in ("validation/inference", "inference"))
    assert [len(read_results(str(path)).videos) for path in (validated, tested)] == [3, 5]
    assert [len(video.views) for video in read_results(str(validated)).videos] == [1] * 3
    assert [len(video.views) for video in read_results(str(tested)).videos] == [2] * 5
    log = (tmp_path / "log.txt").read_text()
    assert log.count("Results of validation/classification") == 2 and log.count("Results of classification") == 1
    # A fresh start in the folder sets all of it aside.
    _start(tiny_cfg(*opts)).train()
    aside = tmp_path / "earlier_1"
    assert (aside / "validation/inference" / validated.name).exists() and not validated.exists()


def test_without_it_a_run_is_as_it_was(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    cfg = tiny_cfg("TEST.EVAL_PERIOD", "1", "OUTPUT_DIR", str(tmp_path))
    _start(cfg).train()
    assert [TOP1 in row for row in _metrics(tmp_path)] == [True] * 3 and not (tmp_path / "validation").exists()
    assert not any(name.startswith("validation/") for row in _metrics(tmp_path) for name in row)


def test_the_best_is_tested_too_where_only_a_validation_knows_it(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tested = _scripted(monkeypatch, VALUES)
    cfg = tiny_cfg(*OPTS, *VALIDATION, "OUTPUT_DIR", str(tmp_path))
    results = _start(cfg).train()
    assert tested == [*(("validation/", done) for done in (2, 4, 6, 8)), ("", 8), ("best/", 4)]
    assert {task: metrics["top1"] for task, metrics in results.items()} == {
        "classification": 70,
        "best/classification": 70,
    }
    last = _metrics(tmp_path)[-1]
    assert (last["iteration"], last["best/iteration"], last["best/" + TOP1], last["validation/" + TOP1]) == (
        7,
        4,
        70,
        60,
    )
    assert (
        "Early stopping after 8 of 12 iterations: the best validation/classification/top1 is still 60.0, of iteration"
        " 4. 2 evaluations since then were not better. To" in caplog.text
    )
    assert f"{TOP1}: last (iteration 8): 70, best (iteration 4): 70" in caplog.text and "testing it too" in caplog.text


def test_the_best_is_not_tested_again_where_its_test_was_a_full_one(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tested = _scripted(monkeypatch, VALUES)
    results = _start(tiny_cfg(*OPTS, "OUTPUT_DIR", str(tmp_path), "SOLVER.EARLY_STOPPING.PATIENCE", "0")).train()
    assert tested == [("", done) for done in (2, 4, 6, 8, 10, 12)]
    assert {task: metrics["top1"] for task, metrics in results.items()} == {
        "classification": 80,
        "best/classification": 100,
    }
    assert f"{TOP1}: last (iteration 12): 80, best (iteration 10): 100" in caplog.text


def test_the_last_may_be_the_best(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _scripted(monkeypatch, {2: 1.0})
    opts = ("SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "[1]", "OUTPUT_DIR", str(tmp_path))
    assert list(_start(tiny_cfg(*opts)).train()) == ["classification"]
    assert f"{TOP1}: last (iteration 2): 11, best (iteration 2): 11" in caplog.text


def _files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


@pytest.mark.parametrize("ema", ["False", "True"])
def test_the_test_of_the_best_is_that_of_its_file(tiny_cfg: Callable[..., CfgNode], tmp_path: Path, ema: str) -> None:
    opts = ("OUTPUT_DIR", str(tmp_path), "SOLVER.EMA.ENABLED", ema, "SOLVER.EMA.DECAY", "0.5", "TEST.EVAL_PERIOD", "1")
    trainer = _start(tiny_cfg(*opts))
    trainer.train()
    last = {name: tensor.clone() for name, tensor in trainer.bare_model.state_dict().items()}
    iteration, results = trainer.evaluate_best()
    assert iteration == torch.load(tmp_path / "model_best.pth", weights_only=True)["trainer"]["iteration"]
    assert all(torch.equal(tensor, last[name]) for name, tensor in trainer.bare_model.state_dict().items())
    # By its name for a test alone, and as its evaluation in training saw it.
    named = tiny_cfg(*opts, "MODEL.WEIGHTS", "best")
    last_results = _files_of(tmp_path / "inference")
    assert DefaultTrainer.test_checkpoint(named) == results
    assert _files_of(tmp_path / "inference") == last_results and _files_of(tmp_path / "best/inference")
    (row,) = [row for row in _metrics(tmp_path) if row["iteration"] == iteration - 1]
    assert row["classification/loss"] == results["classification"]["loss"]
    # A best checkpoint without an average, of a run that got one later.
    content = torch.load(tmp_path / "model_best.pth", weights_only=True)
    torch.save(content | {"model": content.pop("ema", content["model"])}, tmp_path / "model_best.pth")
    trainer.ema = ModelEma(trainer.bare_model, 0.5)
    assert trainer.evaluate_best() == (iteration, results)
    (tmp_path / "model_best.pth").unlink()
    assert trainer.evaluate_best() == (None, {})
    with pytest.raises(FileNotFoundError, match="got 'best', but .* has no model_best.pth"):
        load_model_for_test(named)


@pytest.mark.slow
@pytest.mark.parametrize("validates", [False, True])
@pytest.mark.parametrize("moment", ["before", "at", "after"])
def test_a_kill_around_the_end_changes_nothing(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, validates: bool
) -> None:
    """Before the evaluation that ends the run, right after its final checkpoint, and after the tests of the end."""
    _scripted(monkeypatch, VALUES)
    opts = (*OPTS, *(VALIDATION if validates else ()))
    results = _start(tiny_cfg(*opts, "OUTPUT_DIR", str(tmp_path / "whole"))).train()
    cfg = tiny_cfg(*opts, "OUTPUT_DIR", str(tmp_path / "killed"))
    trainer = _start(cfg)
    name = {"before": "EvalHook", "at": "FinalTest", "after": "PeriodicWriter"}[moment]
    (hook,) = [hook for hook in trainer.hooks if hook.name == name]
    usual = hook.after_step

    def after_step() -> None:
        if trainer.iter == 7:
            raise Killed
        usual()

    hook.after_step = after_step
    with pytest.raises(Killed):
        trainer.train()
    resumed = _start(cfg, resume=True)
    steps: list[int] = []
    monkeypatch.setattr(DefaultTrainer, "run_step", lambda self: steps.append(self.iter))
    assert resumed.start_iter == 8 and resumed.train() == results and steps == []
    assert _metrics(tmp_path / "killed") == _metrics(tmp_path / "whole")
    for path in (tmp_path / "whole").glob("*.pth"):
        files = (path, tmp_path / "killed" / path.name)
        contents = [_plain(torch.load(file, weights_only=True)) for file in files]
        assert contents[0] == contents[1], path.name
    assert {path.name for path in (tmp_path / "killed").glob("*.pth")} == {
        "model_0000004.pth", "model_0000008.pth", "model_best.pth", "model_final.pth"
    }  # fmt: skip


def test_a_run_that_has_ended_early_trains_on_only_with_more_patience(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _scripted(monkeypatch, VALUES)
    opts = (*OPTS, "OUTPUT_DIR", str(tmp_path / "a"))
    _start(tiny_cfg(*opts)).train()
    again = _start(tiny_cfg(*opts), resume=True)
    again.train()
    assert again.iter == 7 and "The run ended early, after 8 iterations of 12: testing only" in caplog.text
    longer = (*OPTS, "SOLVER.EARLY_STOPPING.PATIENCE", "3", "OUTPUT_DIR")
    on = _start(tiny_cfg(*longer, str(tmp_path / "a")), resume=True)
    on.train()
    whole = _start(tiny_cfg(*longer, str(tmp_path / "b")))
    whole.train()
    assert on.iter == whole.iter == 11 and on.best.iteration == 10
    states = [trainer.bare_model.state_dict() for trainer in (on, whole)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def _stop(values: list[float], patience: int, metric: str = TOP1) -> tuple[Trainer, BestCheckpointer]:
    results: Iterator[float] = iter(values)
    evaluation = EvalHook(lambda: {"classification": {"top1": 1.0, metric.rpartition("/")[2]: next(results)}}, 1)
    checkpoints = PeriodicCheckpointer(Saved(), 100)
    best = BestCheckpointer(evaluation, Saved(), metric, patience, checkpoints)
    trainer = Trainer()
    trainer.register_hooks([checkpoints, evaluation, best])
    trainer.train(0, len(values))
    return trainer, best


@pytest.mark.parametrize(
    ("metric", "values", "patience", "ended", "best"),
    [
        (TOP1, [1, 2, 2, 1, 9], 2, 4, 2),
        (TOP1, [1, 2, 2, 1, 9], 3, 5, 5),
        (TOP1, [1, 2, 2, 1, 9], 0, 5, 5),
        ("classification/loss", [5, 4, 4, 3, 3, 3, 1], 2, 6, 4),
        (TOP1, [1, math.nan, math.nan, 5], 2, 3, 1),
        (TOP1, [math.nan, math.nan, 5], 2, 2, None),
    ],
)
def test_patience_counts_evaluations_without_a_better_one(
    metric: str, values: list[float], patience: int, ended: int, best: int | None
) -> None:
    trainer, hook = _stop(values, patience, metric)
    assert (trainer.iter + 1, hook.iteration) == (ended, best)


def test_an_unknown_metric_is_said_at_the_first_evaluation_at_the_latest() -> None:
    evaluation = EvalHook(lambda: {"own": {"a": 1.0, "b": 2.0}}, 1)
    trainer = Trainer()
    trainer.register_hooks([evaluation, BestCheckpointer(evaluation, Saved(), "own/c")])
    with pytest.raises(ValueError, match="SOLVER.EARLY_STOPPING.METRIC: got 'own/c', allowed: 'own/a', 'own/b'$"):
        trainer.train(0, 3)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("METRIC", "classification/top2"), r"METRIC: got 'classification/top2', allowed: 'classification/top1', "),
        (("PATIENCE", "2", "TEST.EVAL_PERIOD", "0"), r"PATIENCE: got 2, allowed without evaluations in training: 0"),
        (("PATIENCE", "2", "DATASETS.TEST", "[]"), r"PATIENCE: got 2, .*DATASETS.TEST \[\], TEST.EVAL_PERIOD 1"),
    ],
)
def test_mistakes_are_said_before_the_training(tiny_cfg: Callable[..., CfgNode], opts: tuple, message: str) -> None:
    key, value, *others = opts
    with pytest.raises(ValueError, match=f"^SOLVER.EARLY_STOPPING.{message}"):
        DefaultTrainer(tiny_cfg("TEST.EVAL_PERIOD", "1", f"SOLVER.EARLY_STOPPING.{key}", value, *others))


def test_another_metric_or_protocol_starts_the_best_afresh(caplog: pytest.LogCaptureFixture) -> None:
    _, hook = _stop([1, 2, 1], 0)
    state = hook.state_dict()
    for evaluation, metric, kept in [
        (EvalHook(dict, 1), "", True), (EvalHook(dict, 1), TOP1, True),
        (EvalHook(dict, 1), "classification/loss", False), (EvalHook(dict, 1, "validation/"), "", False),
    ]:  # fmt: skip
        caplog.clear()
        other = BestCheckpointer(evaluation, Saved(), metric)
        other.load_state_dict(state)
        assert (other.best == 2) is kept is ("was the best by classification/top1" not in caplog.text)
    other = BestCheckpointer(EvalHook(dict, 1), Saved())
    other.load_state_dict({"best": 3.0})
    assert (other.best, other.iteration) == (3.0, None)


def test_other_test_sets_start_the_best_afresh_where_no_metric_was_chosen(caplog: pytest.LogCaptureFixture) -> None:
    _, hook = _stop([5, 1], 0)
    evaluation = EvalHook(lambda: {"one": {"top1": 2.0}, "two": {"top1": 9.0}}, 1)
    other, trainer = BestCheckpointer(evaluation, saved := Saved()), Trainer()
    other.load_state_dict(hook.state_dict() | {"metric": "classification/top5"})
    trainer.register_hooks([evaluation, other])
    trainer.train(0, 2)
    assert (other.metric, other.best, other.iteration, other.evaluations_since) == ("one/top1", 2.0, 1, 1)
    assert saved == [("model_best", False)] and caplog.text.count("Now one/top1 decides") == 1


SCRIPT = """
from nlvideo.config import load_cfg
from nlvideo.engine.launch import launch
from nlvideo.engine.trainer import DefaultTrainer

def main(opts):
    trainer = DefaultTrainer(load_cfg(None, opts))
    trainer.resume_or_load()
    results = trainer.train()
    print(f"ended after {{trainer.iter + 1}} with {{sorted(results)}}", flush=True)

if __name__ == "__main__":
    launch(main, num_gpus=2, device="cpu", args=({opts!r},), timeout_minutes=5)
"""


@pytest.mark.slow
def test_two_ranks_end_together_and_see_the_videos_that_one_sees(tiny_opts: list[str], tmp_path: Path) -> None:
    # The number of videos is never better than at first. The best of one rank is another than the last.
    opts = [*tiny_opts, *OPTS, *VALIDATION, "SOLVER.EARLY_STOPPING.METRIC", "classification/num_videos", "OUTPUT_DIR"]
    script = tmp_path / "two_ranks.py"
    script.write_text(SCRIPT.format(opts=[*opts, str(tmp_path / "two")]))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("ended after 6 with ['best/classification', 'classification']") == 2
    one = DefaultTrainer(load_cfg(None, [*opts, str(tmp_path / "one")]))
    one.train()
    seen = []
    for name in ("one", "two"):
        (path,) = (tmp_path / name / "validation" / "inference").glob("*.json")
        seen.append([video.video_id for video in read_results(str(path)).videos])
    assert seen[0] == seen[1] and len(seen[0]) == 3
    assert torch.load(tmp_path / "two" / "model_best.pth", weights_only=True)["trainer"]["iteration"] == 2
