"""The trainer that a config describes."""

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler

from nlvideo.checkpoint import Checkpointer, load_model_for_test, read_file
from nlvideo.checkpoint.weights import load_weights
from nlvideo.config import CfgNode
from nlvideo.config.validate import check_resolved
from nlvideo.data import build_test_loader, build_train_loader
from nlvideo.data.checks import dataset_classes
from nlvideo.data.workers import explained
from nlvideo.engine.checkpoint_hooks import (
    BEST,
    VALIDATION,
    BestCheckpointer,
    EvalHook,
    FinalTest,
    PeriodicCheckpointer,
    Settings,
)
from nlvideo.engine.failures import FailedVideos
from nlvideo.engine.fine_tuning import FineTuning
from nlvideo.engine.hooks import (
    IterationTimer,
    LearningRate,
    MemoryStats,
    PeriodicWriter,
    RandomStates,
    WeightAverage,
)
from nlvideo.engine.interrupt import StopOnSignal, resume_command
from nlvideo.engine.precise_bn import PreciseBN
from nlvideo.engine.rng import preserved_rng
from nlvideo.engine.train_loop import HookBase, SimpleTrainer
from nlvideo.engine.writers import build_writers
from nlvideo.errors import TrainingInterrupted
from nlvideo.evaluation import Evaluator, build_evaluator, inference_on_dataset, print_results
from nlvideo.evaluation.evaluator import metric_names
from nlvideo.modeling import build_model
from nlvideo.modeling.backbone import inflate_2d_weights
from nlvideo.solver import ModelEma, build_gradient_clipper, build_lr_scheduler, build_optimizer, scale_to_world_size
from nlvideo.utils import comm
from nlvideo.utils.analysis import parameter_count
from nlvideo.utils.events import EventWriter
from nlvideo.utils.messages import check_one_of
from nlvideo.utils.plugins import load_plugin

logger = logging.getLogger(__name__)

Results = dict[str, Any]


class DefaultTrainer(SimpleTrainer):
    """Trains what a config describes. Override a ``build_*`` method to exchange a part, ``build_hooks`` to add one.

    Example:
        >>> trainer = DefaultTrainer(cfg)
        >>> trainer.resume_or_load(resume=False)
        >>> results = trainer.train()

    Attributes:
        cfg: the config, scaled to the number of ranks.
        bare_model: the model without its distributed wrapper.
        ema: moving average of the weights, or None.
        clip_offset: how far the stream of clips is ahead of ``iter`` x ``SOLVER.CLIPS_PER_BATCH``; not 0 where earlier
            iterations took other numbers of clips.
    """

    clip_offset = 0

    def __init__(self, cfg: CfgNode):
        """Build model, optimizer, schedule and hooks. The data is opened when training starts, at the right position.

        Raises:
            ValueError: a value of the config that does not fit the others or this machine.
            KeyError: a name in the config that is not registered.
        """
        check_resolved(cfg, "SOLVER.MAX_EPOCHS", *([] if cfg.DATASETS.TEST else ["DATASETS.SPLIT.FRACTION"]))
        self.cfg = cfg = scale_to_world_size(cfg, comm.get_world_size())
        self._check_early_stopping()
        self.bare_model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, self.bare_model)
        super().__init__(
            distribute(self.bare_model),
            [],
            optimizer,
            amp_dtype=getattr(torch, cfg.SOLVER.AMP.DTYPE) if cfg.SOLVER.AMP.ENABLED else None,
            accumulate=cfg.SOLVER.ACCUMULATE,
            clip=build_gradient_clipper(cfg),
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.ema = ModelEma(self.bare_model, cfg.SOLVER.EMA.DECAY) if cfg.SOLVER.EMA.ENABLED else None
        self.checkpointer = Checkpointer(
            self.bare_model,
            cfg.OUTPUT_DIR,
            adapt_weights=inflate_2d_weights,
            cfg=cfg,
            optimizer=optimizer,
            scheduler=self.scheduler,
            scaler=self.scaler,
            **({} if self.ema is None else {"ema": self.ema}),
            trainer=self,
        )
        validates = cfg.TEST.VALIDATION.ENABLED
        evaluate, prefix = (self.validate, VALIDATION) if validates else (self.evaluate, "")
        solver, early = cfg.SOLVER, cfg.SOLVER.EARLY_STOPPING
        self.checkpoints = PeriodicCheckpointer(
            self.save, solver.CHECKPOINT_PERIOD, solver.CHECKPOINT_KEEP, cfg.OUTPUT_DIR
        )
        self.evaluation = EvalHook(evaluate, cfg.TEST.EVAL_PERIOD, prefix, self.checkpoints)
        self.best = BestCheckpointer(self.evaluation, self.save, early.METRIC, early.PATIENCE, self.checkpoints)
        self.final = FinalTest(self.checkpoints, self.best, self.save, self.evaluate, self.evaluate_best)
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = False) -> None:
        """Continue the run in ``OUTPUT_DIR`` where asked to and there is one, or start from ``MODEL.WEIGHTS``.

        A fresh start, also one with ``resume`` where there is no checkpoint, moves aside what an earlier run left in
        the folder, when it saves or tests for the first time.

        Raises:
            ValueError: the checkpoint belongs to another architecture or optimizer, or hardly fits; or none is named.
            FileNotFoundError: the file is missing.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.start_iter and comm.is_main_process():
            metrics = os.path.join(self.cfg.OUTPUT_DIR, "metrics.json")
            self.storage.start_iter = drop_metrics_from(metrics, self.start_iter)

    def train(self, start_iter: int | None = None, max_iter: int | None = None) -> Results:
        """Train to ``SOLVER.MAX_ITER`` and return the results of the last evaluation, the same on every rank.

        If the best checkpoint is another than the last, its results are there, too, as ``{"best/task": ...}``.

        Args:
            start_iter: None: where the loaded run stopped, or 0.
            max_iter: None: ``SOLVER.MAX_ITER``.

        Raises:
            TrainingInterrupted: stopped by a signal; the message is the command that goes on.
            FloatingPointError: the loss was not finite.
            WorkerDied: a process that reads data was killed or crashed.
            TooManyFailedVideos: above ``DATALOADER.MAX_FAILED_FRACTION``.
        """
        start_iter = self.start_iter if start_iter is None else start_iter
        max_iter = self.cfg.SOLVER.MAX_ITER - self.schedule_offset if max_iter is None else max_iter
        if self.best.has_ended:
            logger.info("The run ended early, after %d iterations of %d: testing only", start_iter, max_iter)
            max_iter = start_iter
        elif start_iter >= max_iter:
            logger.info("All %d iterations are done already: testing only", max_iter)
        # A loader of a project may not know this argument. So it is given only where it differs.
        first_clip = start_iter * self.cfg.SOLVER.CLIPS_PER_BATCH + self.clip_offset
        other = {"first_clip": first_clip} if self.clip_offset else {}
        self.data_loader = self.build_train_loader(self.cfg, start_iter, **other)
        try:
            with explained(self.data_loader):
                super().train(start_iter, max_iter)
        except TrainingInterrupted as stop:
            raise TrainingInterrupted(f"{stop}. To go on: {resume_command()}") from None
        if self.final.tested_iter == self.iter:
            return self.final.results
        # An earlier process did the last iteration and its test. The settings of the test may be others now.
        self.iter = self.max_iter - 1
        return self.final.run()

    def state_dict(self) -> dict[str, Any]:
        """Return what `TrainerBase` does, and how far clips and schedule are ahead."""
        return {**super().state_dict(), "ahead": (self.clip_offset, self.schedule_offset)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back. With another number of ranks the stream goes on at the same clip, and so does the schedule."""
        super().load_state_dict(state_dict)
        clips_ahead, iterations_ahead = state_dict.get("ahead", (0, 0))
        saved = state_dict["hooks"].get("Settings", {}).get("settings", {})
        done, solver, ranks = self.start_iter, self.cfg.SOLVER, comm.get_world_size()
        self.clip_offset = (
            done * (saved.get("SOLVER.CLIPS_PER_BATCH", solver.CLIPS_PER_BATCH) - solver.CLIPS_PER_BATCH) + clips_ahead
        )
        before = saved.get("ranks", ranks)
        if before == ranks or not (solver.REFERENCE_WORLD_SIZE and saved.get("SOLVER.REFERENCE_WORLD_SIZE")):
            self.schedule_offset = iterations_ahead
            return
        place = round((done + iterations_ahead) * before / ranks)
        self.schedule_offset = place - done
        self.scheduler.load_state_dict({"last_epoch": place})
        end = solver.MAX_ITER - self.schedule_offset
        text = "%d ranks go on after %d: iteration %d is at %d of %d in the schedule for them; the run ends after %d"
        logger.info(text, ranks, before, done, place, solver.MAX_ITER, end)

    def build_hooks(self) -> list[HookBase | None]:
        """Return the hooks in the order in which they run; None is no hook.

        An override may add to those of ``super().build_hooks()``.
        """
        cfg, test = self.cfg, self.cfg.TEST
        precise_bn = None
        if test.PRECISE_BN.ENABLED:
            periods, loader = (cfg.SOLVER.CHECKPOINT_PERIOD, test.EVAL_PERIOD), self._build_precise_bn_loader
            precise_bn = PreciseBN(self.bare_model, loader, test.PRECISE_BN.NUM_ITERS, periods, self.ema)
        node = cfg.MODEL.BACKBONE
        freezing = node.FREEZE_AT, node.FREEZE_UNTIL
        failed = os.path.join(cfg.OUTPUT_DIR, "failed_videos.json")
        return [
            # First: what other hooks do after a step is not the step's time.
            IterationTimer(),
            LearningRate(self.optimizer, self.scheduler),
            Settings(cfg),
            MemoryStats(self.bare_model, cfg.SOLVER.LOG_PERIOD),
            FineTuning(self.bare_model, distribute, *freezing, cfg.SOLVER.BN_MODE, cfg.SOLVER.BN_MODE_ITER),
            # Before all that saves or tests the average.
            None if self.ema is None else WeightAverage(self.ema),
            # Before the checkpoint: when training stops, one is saved.
            StopOnSignal(),
            # Before the checkpoint: it holds the failures of this iteration, too.
            FailedVideos(
                failed,
                cfg.DATALOADER.MAX_FAILED_FRACTION,
                self.checkpoints,
                lambda: not self.checkpointer.has_earlier_run,
            ),
            # Before checkpoints and evaluations: they use its statistics.
            precise_bn,
            # Before the evaluation: if that fails, the weights are saved.
            self.checkpoints,
            self.evaluation,
            # After the evaluation, whose result it needs.
            self.best,
            # After what may have ended the run.
            self.final,
            # `Plugin` describes them.
            *(hook for spec in cfg.PLUGINS for hook in load_plugin(spec).call("build_hooks", cfg) or ()),
            # After everything that may draw random numbers before training.
            RandomStates(),
            # Last: they write what all others have measured.
            PeriodicWriter(self.build_writers(), cfg.SOLVER.LOG_PERIOD, test.EVAL_PERIOD),
        ]

    def _build_precise_bn_loader(self, iteration: int) -> Iterable[Any]:
        """Return a stream of training batches that no other stream of the run equals."""
        seed = int(np.random.SeedSequence([self.cfg.SEED, iteration]).generate_state(1)[0])
        # The statistics are for a test, whose clips are not mixed. Test sets were compared when training began.
        whole_clips = ["SOLVER.MIX.MIXUP_ALPHA", 0.0, "SOLVER.MIX.CUTMIX_ALPHA", 0.0, "DATASETS.TEST", []]
        return self.build_train_loader(self.cfg.with_overrides(["SEED", seed, *whole_clips]), 0)

    def build_writers(self) -> list[EventWriter]:
        """Return the writers; only rank 0 has any."""
        return build_writers(self.cfg)

    def save(self, name: str, tag_last: bool = True) -> None:
        """Save a checkpoint; call it on every rank."""
        # With the names of the classes: the data may be far from where the model is used.
        names = dataset_classes(self.cfg.DATASETS.TRAIN)
        self.checkpointer.save(name, tag_last=tag_last, **({"classes": names} if names else {}))
        # A rank that ended now would end all ranks, also the one that still writes.
        comm.synchronize()

    def evaluate(self) -> Results:
        """Test the current weights, or their average where there is one, without disturbing the training."""
        with self._ready_to_test():
            return self.test(self.cfg, self.bare_model)

    def validate(self) -> Results:
        """Test them by the protocol of ``TEST.VALIDATION``; files of results go to ``OUTPUT_DIR/validation``."""
        own = self.cfg.TEST.VALIDATION
        changes = ("TEST.NUM_CLIPS", own.NUM_CLIPS, "TEST.NUM_CROPS", own.NUM_CROPS, "TEST.FLIP", False)
        with self._ready_to_test():
            return self.test(_config_in(VALIDATION, self.cfg, *changes), self.bare_model, VALIDATION, own.MAX_VIDEOS)

    def evaluate_best(self) -> tuple[int | None, Results]:
        """Test ``model_best``; files of results go to ``OUTPUT_DIR/best``. Then the model has its weights again.

        Returns:
            How many iterations it was trained for, on every rank, None if the file is missing; and the results, the
            same on every rank.
        """
        path = os.path.join(self.cfg.OUTPUT_DIR, "model_best.pth")
        content = read_file(path) if comm.is_main_process() and os.path.exists(path) else {}
        iteration = comm.all_gather_object(content.get("trainer", {}).get("iteration"))[0]
        if iteration is None:
            logger.warning("%s is missing, or not of a training: the best checkpoint is not tested", path)
            return None, {}
        model = self.bare_model.state_dict()
        own = {name: tensor.clone() for name, tensor in model.items()}
        try:
            if content:
                # A run may have got its average when it was resumed, after the best checkpoint.
                entry = "ema" if self.ema is not None and "ema" in content else "model"
                load_weights(self.bare_model, content, path, cfg=self.cfg, entry=entry, complete=True)
            comm.share_tensors(model.values())
            with preserved_rng():
                results = self.test(_config_in(BEST, self.cfg), self.bare_model, BEST)
        finally:
            self.bare_model.load_state_dict(own)
        return iteration, comm.all_gather_object(results)[0]

    @contextlib.contextmanager
    def _ready_to_test(self) -> Iterator[None]:
        # The results of an earlier run would be replaced.
        self.checkpointer.set_earlier_run_aside()
        with preserved_rng(), contextlib.nullcontext() if self.ema is None else self.ema.apply():
            yield

    def _check_early_stopping(self) -> None:
        """Say now what would otherwise be an error after hours, or never."""
        own, test, names = self.cfg.SOLVER.EARLY_STOPPING, self.cfg.TEST, self.cfg.DATASETS.TEST
        if own.PATIENCE and not (names and test.EVAL_PERIOD):
            raise ValueError(
                f"SOLVER.EARLY_STOPPING.PATIENCE: got {own.PATIENCE}, allowed without evaluations in training: 0"
                f" (DATASETS.TEST {list(names)}, TEST.EVAL_PERIOD {test.EVAL_PERIOD})"
            )
        if own.METRIC and names:
            found = [metric_names(self.build_evaluator(self.cfg, name)) for name in names]
            known = [f"{name}/{metric}" for name, metrics in zip(names, found, strict=True) for metric in metrics]
            # Where an evaluator does not name its metrics, the first evaluation checks them.
            if all(found):
                check_one_of("SOLVER.EARLY_STOPPING.METRIC", own.METRIC, known if len(names) > 1 else found[0])

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, prefix: str = "", max_videos: int = 0) -> Results:
        """Evaluate a model on every dataset of ``DATASETS.TEST`` and log the results; call it on every rank.

        Args:
            cfg: the config.
            model: what to test.
            prefix: of the tasks in the log, e.g. "validation/".
            max_videos: of each dataset; see `build_test_loader`.

        Returns:
            On rank 0 ``{task: {metric: value}}`` of a single dataset, ``{dataset: {task: {metric: value}}}`` of
            several; empty elsewhere, and without datasets.
        """
        results: Results = {}
        for name in cfg.DATASETS.TEST:
            # A loader of a project may not know a limit. So it is given only where there is one.
            loader = cls.build_test_loader(cfg, name, *([max_videos] if max_videos else []))
            with explained(loader):
                results[name] = inference_on_dataset(model, loader, cls.build_evaluator(cfg, name))
        if len(results) == 1:
            results = next(iter(results.values()))
        if comm.is_main_process():
            print_results({f"{prefix}{name}": value for name, value in results.items()})
            return results
        return {}

    @classmethod
    def test_checkpoint(cls, cfg: CfgNode, resume: bool = False) -> Results:
        """Test the checkpoint in ``MODEL.WEIGHTS``, or on a resume the last one; the rest is as for `test`.

        Files of results of ``best`` go to ``OUTPUT_DIR/best``: those in ``OUTPUT_DIR`` are of the last checkpoint.

        Raises:
            ValueError: ``DATASETS.TEST`` is empty.
        """
        if not cfg.DATASETS.TEST:
            raise ValueError("DATASETS.TEST: got an empty list, allowed for a test: one dataset or more")
        model, is_best = load_model_for_test(cfg, resume), cfg.MODEL.WEIGHTS == "best" and not resume
        return cls.test(_config_in("best", cfg) if is_best else cfg, model)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build ``MODEL`` and log it."""
        model = build_model(cfg)
        logger.info("Model: %.2f million parameters (tools/analyze_model.py lists them)", parameter_count(model) / 1e6)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer of ``SOLVER``."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """Build the schedule of ``SOLVER``."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start_iter: int, first_clip: int | None = None) -> Iterable[Any]:
        """Build the endless stream of training batches from iteration ``start_iter`` on.

        ``first_clip`` is given only where the stream goes on at another clip than ``start_iter`` says.
        A loader of your own needs only to be iterable. If it has ``dataset_size``, the number of its videos, unreadable
        videos have a budget. If it has ``fingerprint``, a resumed run notices that the data has changed.
        """
        return build_train_loader(cfg, start_iter, first_clip)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str, max_videos: int = 0) -> Iterable[Any]:
        """Build the loader of one test set, or of at most ``max_videos`` of its videos: always the same ones."""
        return build_test_loader(cfg, dataset_name, max_videos)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> Evaluator:
        """Build the evaluator of one test set."""
        return build_evaluator(cfg, dataset_name)


def _config_in(folder: str, cfg: CfgNode, *changes: Any) -> CfgNode:
    """The config of a test whose files go to a folder inside ``OUTPUT_DIR``."""
    return cfg.with_overrides(["OUTPUT_DIR", os.path.join(cfg.OUTPUT_DIR, folder.rstrip("/")), *changes])


def distribute(model: nn.Module) -> nn.Module:
    """Wrap a model for training on several ranks; return it as it is on one."""
    if comm.get_world_size() == 1:
        return model
    # Every parameter takes part in every loss; looking for others would cost a pass over the graph per iteration.
    return DistributedDataParallel(model, find_unused_parameters=False)


def drop_metrics_from(path: str, iteration: int) -> int:
    """Cut ``metrics.json`` before the first line that is not of the run that goes on at ``iteration``.

    A run that was killed has written lines after its last checkpoint, and will write them again. A start that failed
    has added lines that begin at 0. A line may have been cut short. Returns the first iteration that may get a line.
    """
    last, keep = -1, 0
    if not os.path.exists(path):
        # Other writers have the lines of the stopped process, perhaps without that of its last iteration.
        return iteration - 1
    with open(path, "rb+") as file, contextlib.suppress(ValueError):
        for line in file:
            number = json.loads(line)["iteration"]
            if not last < number < iteration or not line.endswith(b"\n"):
                break
            last, keep = number, keep + len(line)
    os.truncate(path, keep)
    return last + 1
