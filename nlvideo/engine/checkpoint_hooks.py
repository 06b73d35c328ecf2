"""Hooks that save and evaluate the model while it trains."""

import logging
import math
from collections.abc import Callable
from typing import Any

from nlvideo.config import CfgNode
from nlvideo.engine.hooks import is_due
from nlvideo.engine.train_loop import HookBase, SimpleTrainer
from nlvideo.utils import comm

logger = logging.getLogger(__name__)

# Saves a checkpoint of this name; called on every rank. The second argument: whether a resumed run starts from it.
SaveFunction = Callable[[str, bool], None]
Results = dict[str, dict[str, float]]


class PeriodicCheckpointer(HookBase):
    """Saves every ``period`` iterations, at the end and when training is stopped early.

    Attributes:
        saved: the iteration and the name of the last checkpoint; None before the first.
    """

    def __init__(self, save: SaveFunction, period: int):
        self._save, self._period = save, period
        self.saved: tuple[int, str] | None = None

    def after_step(self) -> None:
        """Save if it is time; the last checkpoint is called ``model_final``, others by their number of iterations."""
        if self.trainer.is_last_step or is_due(self.trainer.iter + 1, self._period) or self.trainer.stop_reason:
            self.save_now()

    def save_now(self) -> str:
        """Save this iteration's checkpoint unless that has been done, on every rank; return its name."""
        if self.saved is None or self.saved[0] != self.trainer.iter:
            name = "model_final" if self.trainer.is_last_step else f"model_{self.trainer.iter + 1:07d}"
            # First, so that the checkpoint knows its own name.
            self.saved = self.trainer.iter, name
            self._save(name, True)
        return self.saved[1]

    def state_dict(self) -> dict[str, Any]:
        """Return which checkpoint this is."""
        return {} if self.saved is None else {"saved": self.saved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back: a hook that comes after may save it once more."""
        self.saved = state_dict["saved"]


class EvalHook(HookBase):
    """Evaluates every ``period`` iterations and at the end, on all ranks, and puts the results into the storage.

    Args:
        evaluate: returns ``{task: {metric: value}}`` on rank 0; what it returns elsewhere does not matter.
        period: iterations between evaluations. 0: only at the end.

    Attributes:
        results: of the last evaluation, on every rank.
        evaluated_iter: the iteration of that evaluation; -1 before the first.
    """

    def __init__(self, evaluate: Callable[[], Results], period: int):
        self._evaluate, self._period = evaluate, period
        self.results: Results = {}
        self.evaluated_iter = -1

    def after_step(self) -> None:
        """Evaluate if it is time. A run that is being stopped evaluates after it is resumed, at its usual time."""
        if not (self.trainer.is_last_step or is_due(self.trainer.iter + 1, self._period)):
            return
        self.results = comm.all_gather_object(self._evaluate())[0]
        self.evaluated_iter = self.trainer.iter
        for name, value in flatten_results(self.results).items():
            self.trainer.storage.put_scalar(name, value, smoothing_hint=False)


class BestCheckpointer(HookBase):
    """Saves ``model_best`` whenever an evaluation beats the best one so far. Must come after the evaluation.

    Args:
        evaluation: its first metric, e.g. ``classification/top1``, decides; higher is better.
        save: called with ``("model_best", False)``.
    """

    def __init__(self, evaluation: EvalHook, save: SaveFunction):
        self._evaluation, self._save = evaluation, save
        self._best: float | None = None

    def after_step(self) -> None:
        """Save if this iteration was evaluated and is the best."""
        if self._evaluation.evaluated_iter != self.trainer.iter:
            return
        name, value = next(iter(flatten_results(self._evaluation.results).items()), ("", math.nan))
        # Also false for NaN, the result of a set without a single video.
        if value > (-math.inf if self._best is None else self._best):
            logger.info("Best %s so far: %.4g after %d iterations", name, value, self.trainer.iter + 1)
            self._best = value
            self._save("model_best", False)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far."""
        return {} if self._best is None else {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best value back."""
        self._best = state_dict["best"]


class ResultsCheckpointer(HookBase):
    """Saves a checkpoint once more where its iteration has been evaluated since: with the results, and the best so far.

    Otherwise a run that is resumed there would know of no such evaluation, and take a worse one for the best.
    """

    def __init__(self, checkpoints: PeriodicCheckpointer, evaluation: EvalHook, save: SaveFunction):
        self._checkpoints, self._evaluation, self._save = checkpoints, evaluation, save

    def after_step(self) -> None:
        """Save under the same name if both happened in this iteration."""
        iteration, name = self._checkpoints.saved or (-1, "")
        if iteration == self._evaluation.evaluated_iter == self.trainer.iter:
            self._save(name, True)


class Settings(HookBase):
    """Carries the settings of a run through checkpoints, and warns where a resumed run has others."""

    # A resumed run may have other values of these and still equal one that never stopped.
    WITHOUT_INFLUENCE = (
        "VERSION", "OUTPUT_DIR", "MODEL.WEIGHTS", "DATALOADER.NUM_WORKERS", "DATALOADER.INDEX_DIR",
        "DATALOADER.MAX_FAILED_FRACTION", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.LOG_PERIOD", "TEST.EVAL_PERIOD",
        "TEST.EXPECTED_RESULTS", "TEST.KEEP_VIEWS", "TEST.VIEWS_PER_FORWARD",
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
            logger.warning("Settings differ from those of the checkpoint: %s. The results will be of neither", text)

    def state_dict(self) -> dict[str, Any]:
        """Return all settings."""
        return {"settings": self._now}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep those of the checkpoint until training begins."""
        self._saved = state_dict["settings"]


def flatten_results(results: dict[str, Any]) -> dict[str, float]:
    """Return ``{"classification/top1": 71.2, ...}`` of nested results; what is not a finite number is left out."""
    flat: dict[str, float] = {}
    for name, value in results.items():
        if isinstance(value, dict):
            flat.update({f"{name}/{inner}": number for inner, number in flatten_results(value).items()})
        elif isinstance(value, (int, float)) and math.isfinite(value):
            flat[name] = float(value)
    return flat
