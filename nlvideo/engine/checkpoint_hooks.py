"""Hooks that save and evaluate the model while it trains."""

import contextlib
import logging
import math
import numbers
import os
import secrets
from collections.abc import Callable
from typing import Any

import torch

from nlvideo.checkpoint import last_checkpoint_in
from nlvideo.config import CfgNode
from nlvideo.engine.hooks import is_due
from nlvideo.engine.train_loop import HookBase, SimpleTrainer
from nlvideo.errors import TrainingInterrupted
from nlvideo.evaluation.testing import lower_is_better
from nlvideo.utils import comm
from nlvideo.utils.events import EventStorage
from nlvideo.utils.messages import check_one_of

logger = logging.getLogger(__name__)

# Saves a checkpoint of this name; called on every rank. The second argument: whether a resumed run starts from it.
SaveFunction = Callable[[str, bool], None]
Results = dict[str, dict[str, float]]

# Before the names of results that are not those of the last weights by the full protocol.
VALIDATION, BEST = "validation/", "best/"


class PeriodicCheckpointer(HookBase):
    """Saves every ``period`` iterations, at the end and when training is stopped early.

    With ``keep``, older checkpoints are removed after newer ones are complete. Only files that this run wrote are
    removed. ``model_best``, ``model_final`` and the file that ``last_checkpoint`` names always stay.

    Args:
        save: see `SaveFunction`.
        period: iterations between checkpoints.
        keep: how many stay; 0: all.
        folder: where they are.

    Attributes:
        saved: the iteration and the name of the last checkpoint; None before the first.
    """

    def __init__(self, save: SaveFunction, period: int, keep: int = 0, folder: str = ""):
        self._save, self._period, self._keep, self._folder = save, period, keep, folder
        self.saved: tuple[int, str] | None = None
        # What this run has written, and what tells its files from those of others.
        self._names: list[str] = []
        self._run = secrets.token_hex(8)

    def before_train(self) -> None:
        """Remove what a run that was killed has not come to."""
        self._remove_old()

    def after_step(self) -> None:
        """Save if it is time; the last checkpoint is called ``model_final``, others by their number of iterations."""
        if self.trainer.is_last_step or is_due(self.trainer.iter + 1, self._period) or self.trainer.stop_reason:
            self.save_now()

    def save_now(self) -> str:
        """Save this iteration's checkpoint unless that has been done, on every rank; return its name."""
        name = "model_final" if self.trainer.is_last_step else f"model_{self.trainer.iter + 1:07d}"
        if self.saved != (self.trainer.iter, name):
            # First, so that the checkpoint knows its own name.
            self.saved = self.trainer.iter, name
            if not self.trainer.is_last_step:
                self._names = [*(other for other in self._names if other != name), name]
            self._save(name, True)
            self._remove_old()
        return name

    def _remove_old(self) -> None:
        if not self._keep:
            return
        old, self._names = self._names[: -self._keep], self._names[-self._keep :]
        for name in old if comm.is_main_process() else ():
            path = os.path.join(self._folder, f"{name}.pth")
            if not os.path.exists(path) or os.path.basename(last_checkpoint_in(self._folder) or "") == f"{name}.pth":
                continue
            run = None
            with contextlib.suppress(Exception):  # whatever it is, it is the file of someone else
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                run = content["trainer"]["hooks"][self.name]["run"]
            if run == self._run:
                os.remove(path)
                logger.info("Removed %s: SOLVER.CHECKPOINT_KEEP is %d", path, self._keep)
            else:
                logger.warning("%s stays: it is no longer what this run wrote there", path)

    def state_dict(self) -> dict[str, Any]:
        """Return which checkpoint this is, and with ``keep`` the names of those that may have to go."""
        own = {"names": self._names, "run": self._run} if self._keep else {}
        return {} if self.saved is None else {"saved": self.saved, **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back: a hook that comes after may save it once more."""
        iteration, name = state_dict["saved"]
        self.saved = iteration, name
        self._names = list(state_dict.get("names", ()))
        self._run = state_dict.get("run", self._run)


class EvalHook(HookBase):
    """Evaluates every ``period`` iterations and at the end, on all ranks, and puts the results into the storage.

    Args:
        evaluate: returns ``{task: {metric: value}}`` on rank 0; what it returns elsewhere does not matter.
        period: 0: only at the end.
        prefix: of the names in the storage and in the log, e.g. "validation/".
        checkpoints: saves a run that is stopped in an evaluation.

    Attributes:
        results: of the last evaluation, on every rank.
        evaluated_iter: the iteration of that evaluation; -1 before the first.
    """

    def __init__(
        self,
        evaluate: Callable[[], Results],
        period: int,
        prefix: str = "",
        checkpoints: PeriodicCheckpointer | None = None,
    ):
        self._evaluate, self._period, self.prefix, self._checkpoints = evaluate, period, prefix, checkpoints
        self.results: Results = {}
        self.evaluated_iter = -1

    def after_step(self) -> None:
        """Evaluate if it is time. A run that is stopping skips the evaluation. The resumed run does it.

        Raises:
            TrainingInterrupted: the evaluation was stopped; what is trained is saved, and a resumed run repeats it.
        """
        trainer = self.trainer
        if not (trainer.is_last_step or (is_due(trainer.iter + 1, self._period) and not trainer.stop_reason)):
            return
        try:
            self.results = comm.all_gather_object(self._evaluate())[0]
        except TrainingInterrupted:
            if self._checkpoints:
                # The checkpoint must look as if the checkpoint hook saved it. Then a resumed run calls this hook again.
                trainer.current_hook = self._checkpoints.name
                self._checkpoints.save_now()
            raise
        self.evaluated_iter = trainer.iter
        put_results(trainer.storage, self.results, self.prefix)


class BestCheckpointer(HookBase):
    """Saves ``model_best`` whenever an evaluation beats the best one so far. Must come after the evaluation.

    With ``patience`` it ends the run, as if it had come to its last iteration, after so many evaluations without a
    better one. The schedule of the learning rate does not change: such a run has not come to the low rates of the end.

    Args:
        evaluation: its metric decides.
        save: called with ``("model_best", False)``.
        metric: e.g. ``classification/loss``; "": the first of the evaluation. Higher is better, but for a loss.
        patience: 0: never end.
        checkpoints: saves ``model_final`` of a run that ends early.

    Attributes:
        metric: the one in use; "" before the first evaluation if none was given.
        best: its best value; None before the first.
        iteration: how many iterations the best checkpoint had; None if an older version of this hook saved it.
        results: of its evaluation.
        evaluations_since: how many have not been better.
    """

    def __init__(
        self,
        evaluation: EvalHook,
        save: SaveFunction,
        metric: str = "",
        patience: int = 0,
        checkpoints: PeriodicCheckpointer | None = None,
    ):
        self.evaluation, self._save, self.metric, self._chosen = evaluation, save, metric, metric
        self._patience, self._checkpoints = patience, checkpoints
        self.best: float | None = None
        self.iteration: int | None = None
        self.results: Results = {}
        self.evaluations_since = 0

    @property
    def has_ended(self) -> bool:
        """Whether patience is over, and the last checkpoint is the final one."""
        saved = self._checkpoints and self._checkpoints.saved
        return bool(saved and saved[1] == "model_final") and self._is_over

    @property
    def _is_over(self) -> bool:
        return 0 < self._patience <= self.evaluations_since

    def after_step(self) -> None:
        """Save if this iteration was evaluated and is the best; end the run if patience is over.

        Raises:
            ValueError: the evaluation does not have the metric that was given.
        """
        results, trainer, done = self.evaluation.results, self.trainer, self.trainer.iter + 1
        values = flatten_results(results)
        if self.evaluation.evaluated_iter != trainer.iter or not values:
            return
        if not self._chosen and self.metric not in values:
            if self.metric:
                # The test sets or the evaluator of a resumed run are others.
                text = "The best checkpoint was the best by %s. Now %s decides, from its beginning"
                logger.warning(text, self.metric, next(iter(values)))
                self.best, self.iteration, self.results, self.evaluations_since = None, None, {}, 0
            self.metric = next(iter(values))
        check_one_of("SOLVER.EARLY_STOPPING.METRIC", self.metric, values)
        name, value = self.evaluation.prefix + self.metric, values[self.metric]
        sign = -1 if lower_is_better(self.metric) else 1
        # False for NaN, the result of a set without a single video.
        if sign * value > (-math.inf if self.best is None else sign * self.best):
            self.best, self.iteration, self.results, self.evaluations_since = value, done, results, 0
            logger.info("Best %s so far: %.4g after %d iterations", name, value, done)
            self._save("model_best", False)
            return
        self.evaluations_since += 1
        if not self._is_over:
            return
        if not trainer.is_last_step:
            logger.info(
                "Early stopping after %d of %d iterations: the best %s is still %s, of iteration %s. %d evaluations"
                " since then were not better. To train on, resume with a larger SOLVER.EARLY_STOPPING.PATIENCE, or 0",
                done, trainer.max_iter, name, self.best, self.iteration, self.evaluations_since,
            )  # fmt: skip
            trainer.max_iter = done
        if self._checkpoints:
            self._checkpoints.save_now()

    def state_dict(self) -> dict[str, Any]:
        """Return the best so far, and by what."""
        if self.best is None and not self.evaluations_since:
            return {}
        own = {name: getattr(self, name) for name in ("best", "iteration", "results", "evaluations_since")}
        return {"metric": self.evaluation.prefix + self.metric, **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best back, unless it is by another metric or protocol than this run's."""
        saved, prefix = state_dict.get("metric", self.metric), self.evaluation.prefix
        by = saved.removeprefix(prefix)
        if not saved.startswith(prefix) or (not prefix and saved.startswith(VALIDATION)) or self.metric not in ("", by):
            now = prefix + (self.metric or "the first metric")
            logger.warning("The best checkpoint was the best by %s. Now %s decides, from its beginning", saved, now)
            return
        self.metric, self.best = by, state_dict["best"]
        self.iteration, self.results = state_dict.get("iteration"), state_dict.get("results", {})
        self.evaluations_since = state_dict.get("evaluations_since", 0)


class FinalTest(HookBase):
    """Tests the last and the best checkpoint at the end by the full protocol, unless that has been done.

    A checkpoint whose iteration has been evaluated or tested since is saved once more, with the results and the best so
    far. Otherwise a run that is resumed there would take a worse one for the best.

    Args:
        checkpoints, best: the hooks that have saved the two.
        save: see `SaveFunction`.
        evaluate: tests the last weights by the full protocol; returns as for `EvalHook`.
        evaluate_best: tests ``model_best``; returns how many iterations it had, None if it is missing, and its results.

    Attributes:
        results: of the last weights, and as ``{"best/task": ...}`` those of the best checkpoint if it is another.
        tested_iter: the iteration of the last weights; -1 before the end.
    """

    def __init__(
        self,
        checkpoints: PeriodicCheckpointer,
        best: BestCheckpointer,
        save: SaveFunction,
        evaluate: Callable[[], Results],
        evaluate_best: Callable[[], tuple[int | None, Results]],
    ):
        self._checkpoints, self._best, self._save = checkpoints, best, save
        self._evaluate, self._evaluate_best = evaluate, evaluate_best
        self.results: Results = {}
        self.tested_iter = -1

    def after_step(self) -> None:
        """Test at the end, and save what has been evaluated under its name."""
        if self.trainer.is_last_step:
            self.run()
        iteration, name = self._checkpoints.saved or (-1, "")
        if self.trainer.iter == iteration in (self._best.evaluation.evaluated_iter, self.tested_iter):
            self._save(name, True)

    def run(self) -> Results:
        """Test now, on every rank, and return the results of both."""
        best, storage, done = self._best, self.trainer.storage, self.trainer.iter + 1
        # An evaluation by the protocol of TEST.VALIDATION is no full test.
        tested = best.evaluation.evaluated_iter == self.trainer.iter and not best.evaluation.prefix
        last = best.evaluation.results if tested else comm.all_gather_object(self._evaluate())[0]
        if not tested:
            put_results(storage, last)
        self.tested_iter, self.results = self.trainer.iter, dict(last)
        if best.best is None or not last:
            return self.results
        iteration, results = best.iteration, best.results
        if iteration == done:
            results = last
        elif not (tested and results and iteration):
            logger.info("The best checkpoint is another than the last: testing it too")
            iteration, results = self._evaluate_best()
            if iteration is None:
                return self.results
        if iteration != done:
            self.results |= {f"{BEST}{key}": value for key, value in results.items()}
            put_results(storage, results, BEST)
        values = [flatten_results(of).get(best.metric, math.nan) for of in (last, results)]
        text = "%s: last (iteration %d): %.4g, best (iteration %d): %.4g"
        logger.info(text, best.metric, done, values[0], iteration, values[1])
        storage.put_scalar(f"{BEST}iteration", iteration, smoothing_hint=False)
        return self.results


class Settings(HookBase):
    """Carries the settings of a run through checkpoints, and warns where a resumed run has others."""

    # A resumed run may have other values of these and still equal one that never stopped.
    WITHOUT_INFLUENCE = (
        "VERSION", "OUTPUT_DIR", "WRITERS", "MODEL.WEIGHTS", "DATALOADER.NUM_WORKERS", "DATALOADER.INDEX_DIR",
        "DATALOADER.MAX_FAILED_FRACTION", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.CHECKPOINT_KEEP",
        "SOLVER.EARLY_STOPPING.PATIENCE", "SOLVER.LOG_PERIOD", "TEST.EVAL_PERIOD", "TEST.EXPECTED_RESULTS",
        "TEST.KEEP_VIEWS", "TEST.VIEWS_PER_FORWARD",
    )  # fmt: skip
    trainer: SimpleTrainer

    def __init__(self, cfg: CfgNode):
        self._now = {key: cfg.value_at(key) for key in cfg.keys_with_path() if key not in self.WITHOUT_INFLUENCE}
        self._now["ranks"] = comm.get_world_size()
        self._saved: dict[str, Any] = {}

    def before_train(self) -> None:
        """Warn of every setting that has another value in the loaded checkpoint."""
        # A loader of a project may have no fingerprint.
        if fingerprint := getattr(self.trainer.data_loader, "fingerprint", ""):
            self._now["training data"] = f"{self.trainer.dataset_size} videos with fingerprint {fingerprint}"
        common = [key for key in self._now if key in self._saved and self._now[key] != self._saved[key]]
        changes = [f"{key} was {self._saved[key]!r} and is {self._now[key]!r}" for key in common]
        if changes:
            text = "; ".join(changes)
            end = "The result will equal neither a run with the old settings nor one with the new"
            logger.warning("Settings differ from those of the checkpoint: %s. %s", text, end)

    def state_dict(self) -> dict[str, Any]:
        """Return all settings."""
        return {"settings": self._now}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep those of the checkpoint until training begins."""
        self._saved = state_dict["settings"]


def put_results(storage: EventStorage, results: dict[str, Any], prefix: str = "") -> None:
    """Put the finite numbers of results into the storage, under ``prefix`` and the names of `flatten_results`."""
    there = storage.latest()
    for name, value in flatten_results(results).items():
        # A run that was killed may have put them there for this iteration.
        if math.isfinite(value) and there.get(f"{prefix}{name}", (value, -1))[1] != storage.iter:
            storage.put_scalar(f"{prefix}{name}", value, smoothing_hint=False)


def flatten_results(results: dict[str, Any]) -> dict[str, float]:
    """Return ``{"classification/top1": 71.2, ...}`` of the numbers in nested results."""
    flat: dict[str, float] = {}
    for name, value in results.items():
        if isinstance(value, dict):
            flat.update({f"{name}/{inner}": number for inner, number in flatten_results(value).items()})
        elif isinstance(value, numbers.Real):  # also NumPy's
            flat[name] = float(value)
    return flat
