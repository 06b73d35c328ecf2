"""The one loop that runs a model over a test set."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nlvideo.errors import TrainingInterrupted
from nlvideo.evaluation.evaluator import Evaluator
from nlvideo.layers import fuse_for_inference
from nlvideo.utils import comm

logger = logging.getLogger(__name__)

_LOG_EVERY_SEC = 5.0

# Why this process should stop; "" while it should not. A training that a signal can stop sets it.
STOP_REASON: ContextVar[Callable[[], str]] = ContextVar("STOP_REASON", default=str)


def inference_on_dataset(
    model: nn.Module, loader: Iterable[list[dict[str, Any]]], evaluator: Evaluator
) -> dict[str, dict[str, float]]:
    """Run ``model`` in evaluation mode over ``loader`` and return what ``evaluator`` makes of it.

    Call it on every rank, each with its own part of the dataset. The evaluator also gets the videos that could not be
    decoded; the model does not. Progress is logged every few seconds.

    Args:
        model: takes a list of inputs and returns a list of outputs; each of its modules gets its mode back. If it has
            ``views_per_forward``, it gets several videos at once, with no more views than that. What runs may be a
            copy, see `fuse_for_inference`.
        loader: gives lists of inputs. If it has ``dataset_size``, the videos of all ranks are checked against it.
        evaluator: is reset first.

    Returns:
        ``{task: {metric: value}}`` on rank 0 and ``{}`` elsewhere.

    Raises:
        TrainingInterrupted: ``STOP_REASON`` gave a reason on one rank or more before all videos were seen.
        ValueError: the ranks together did not see each video once.
    """
    # The wrapper exchanges buffers in each forward. It would hang, because ranks have different numbers of videos.
    model = model.module if isinstance(model, DistributedDataParallel) else model
    evaluator.reset()
    dataset_size, stop_reason = getattr(loader, "dataset_size", None), STOP_REASON.get()
    progress = _Progress(dataset_size)
    with eval_mode(model), torch.no_grad():
        # The batch norms of each rank saw other clips. All ranks test with the statistics of rank 0, which a checkpoint
        # holds.
        comm.share_tensors(model.buffers())
        network = fuse_for_inference(model)
        start = time.perf_counter()
        for inputs in _grouped(loader, getattr(model, "views_per_forward", 0)):
            fetched = time.perf_counter()
            readable = [video for video in inputs if not video.get("failed")]
            outputs = network(readable) if readable else []
            computed = time.perf_counter()
            evaluator.process(inputs, outputs)
            progress.add(len(inputs), fetched - start, computed - fetched, time.perf_counter() - computed)
            start = time.perf_counter()
            if stop_reason():
                break
    counts, reasons = zip(*comm.all_gather_object((progress.num_videos, stop_reason())), strict=True)
    num_videos = sum(counts)
    # A test that is complete is not lost.
    if (reason := next(filter(None, reasons), "")) and num_videos != dataset_size:
        raise TrainingInterrupted(f"{reason}: stopped in a test, after {num_videos} videos. A resumed run repeats it")
    if dataset_size is not None and num_videos != dataset_size:
        raise ValueError(f"the ranks evaluated {num_videos} videos of a dataset of {dataset_size}")
    results = evaluator.evaluate()
    logger.info("Evaluated %d videos on %d ranks: %s", num_videos, comm.get_world_size(), progress.summary())
    return results


def _grouped(loader: Iterable[list[dict[str, Any]]], max_views: int) -> Iterator[list[dict[str, Any]]]:
    """Join the lists of a loader as long as their views fit into one forward pass; 0: leave them as they are."""
    group: list[dict[str, Any]] = []
    num_views = 0
    for inputs in loader:
        if not max_views:
            yield inputs
            continue
        count = sum(len(video["video"]) for video in inputs if not video.get("failed"))
        if group and num_views + count > max_views:
            yield group
            group, num_views = [], 0
        group, num_views = group + inputs, num_views + count
    if group:
        yield group


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode in this block, and each of its modules back into its own mode after it."""
    # Module by module: part of a model in training may be in evaluation mode on purpose.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class _Progress:
    """Seconds spent per part of the loop on this rank, logged now and then."""

    def __init__(self, dataset_size: int | None):
        self._share = -(-(dataset_size or 0) // comm.get_world_size())  # of this rank, about
        self.num_videos = 0
        self._seconds = {"data": 0.0, "compute": 0.0, "eval": 0.0}
        self._started = self._logged = time.perf_counter()

    def add(self, num_videos: int, *seconds: float) -> None:
        """Count one step of the loop, with the seconds of each part, and log if the last line is old enough."""
        self.num_videos += num_videos
        for name, own in zip(self._seconds, seconds, strict=True):
            self._seconds[name] += own
        now = time.perf_counter()
        if now - self._logged >= _LOG_EVERY_SEC:
            self._logged = now
            left = (now - self._started) * max(0, self._share / max(1, self.num_videos) - 1)
            eta = f", ETA {timedelta(seconds=round(left))}" if self._share else ""
            logger.info("Evaluated %d/%s videos: %s%s", self.num_videos, self._share or "?", self.summary(), eta)

    def summary(self) -> str:
        """Return the seconds per video by part."""
        videos = max(1, self.num_videos)
        parts = ", ".join(f"{name} {seconds / videos:.4f}" for name, seconds in self._seconds.items())
        return f"{parts} s per video"
