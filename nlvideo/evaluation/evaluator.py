"""The registry of evaluators, their base classes, and accuracy for videos of one label each.

nlvideo/evaluation/multilabel.py has the metrics for videos of several labels.
"""

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nlvideo.config import CfgNode, configurable
from nlvideo.data import MetadataCatalog
from nlvideo.data.catalog import source_of
from nlvideo.evaluation.results_file import (
    Results,
    VideoScores,
    is_usable,
    log_complements,
    log_probabilities,
    write_results,
)
from nlvideo.evaluation.testing import format_per_class
from nlvideo.utils import comm
from nlvideo.utils.files.file_io import PathManager
from nlvideo.utils.messages import some
from nlvideo.utils.registry import Registry

logger = logging.getLogger(__name__)

EVALUATOR = Registry(
    "EVALUATOR",
    """Turns the outputs of a model for a test set into metrics.

    Called as ``cls(cfg, dataset_name, num_classes)`` for a test, and as ``cls(dataset_name, num_classes)`` for saved
    results, which have no config. ``@configurable`` gives a constructor both forms; :class:`Evaluator` has them.
    Returns an :class:`Evaluator`: ``reset`` is called, then ``process`` for some videos at a time, then ``evaluate``.
    """,
)

_BY_LOSS = {"softmax": "ClassificationEvaluator", "sigmoid": "MultiLabelEvaluator"}
_MAX_LISTED = 20
# Names of files have 255 bytes at most, with the ending and what a temporary file adds.
_MAX_NAME_BYTES = 230


class Evaluator:
    """A base class: collects what it needs of each video, then computes metrics once.

    :class:`PerVideoEvaluator` is the base for metrics of all scores together. It also saves the scores.

    Attributes:
        dataset_name: the test set.
        num_classes: length of each score vector.
    """

    @configurable
    def __init__(self, dataset_name: str, num_classes: int):
        self.dataset_name = dataset_name
        self.num_classes = num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset_name: str, num_classes: int) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"dataset_name": dataset_name, "num_classes": num_classes}

    def reset(self) -> None:
        """Forget all videos. It is called before the first one."""
        raise NotImplementedError

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take in some videos.

        Args:
            inputs: what the test loader gave for each video: "video_id", "label" (a class index, or float32
                (num_classes,) with ones where there may be several), "failed", and where the video is (see
                ``source_of``) if that is known. A test also has "video", the pixels of those that did not fail; saved
                results do not.
            outputs: what the model gave for the videos that did not fail, in their order: ``{"video_id", "scores":
                tensor (num_classes,)}`` each, perhaps with "views": (num_views, num_classes); a model of another
                ``META_ARCH`` may give something else. The model never sees the others.
        """
        raise NotImplementedError

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Compute the metrics over all ranks. It is called on every rank.

        Returns:
            ``{task: {metric: value}}`` on rank 0 and ``{}`` elsewhere. Higher is better, but for a ``loss``.
        """
        raise NotImplementedError


def build_evaluator(cfg: CfgNode, dataset_name: str) -> Evaluator:
    """Build ``TEST.EVALUATOR`` for one dataset; by default the one that suits ``MODEL.HEAD.LOSS``.

    Raises:
        LookupFailed: the name is not registered.
        ValueError: no name is given and the loss has no evaluator of its own.
    """
    loss = cfg.MODEL.HEAD.LOSS
    name = cfg.TEST.EVALUATOR or _BY_LOSS.get(loss)
    if name is None:
        raise ValueError(f"TEST.EVALUATOR: got '', allowed with MODEL.HEAD.LOSS {loss!r}: {', '.join(EVALUATOR)}")
    return EVALUATOR.get(name, "TEST.EVALUATOR")(cfg, dataset_name, cfg.MODEL.HEAD.NUM_CLASSES)


class PerVideoEvaluator(Evaluator):
    """Base of evaluators that need the scores of every video, in one place and exactly once.

    A subclass sets ``task`` and defines :meth:`metrics`. One that sets ``per_class_metric`` also defines
    :meth:`per_class`.
    """

    task = ""
    per_class_metric = ""

    @configurable
    def __init__(
        self,
        dataset_name: str,
        num_classes: int,
        output_dir: str | None = None,
        average: str = "softmax",
        activation: str = "softmax",
    ):
        """Start empty.

        Args:
            dataset_name, num_classes: see the base class.
            output_dir: scores go to ``<output_dir>/inference/<dataset_name>.json``. Of a long name it has 60 characters
                and a hash. None: no file.
            average, activation: see ``Results``.
        """
        super().__init__(dataset_name, num_classes)
        self.output_dir = output_dir
        self.average = average
        self.activation = activation
        self._videos: list[VideoScores] = []

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset_name: str, num_classes: int) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().from_config(cfg, dataset_name, num_classes),
            "output_dir": cfg.OUTPUT_DIR,
            "average": cfg.TEST.AVERAGE,
            "activation": cfg.MODEL.HEAD.LOSS,
        }

    def metrics(self, videos: Sequence[VideoScores]) -> dict[str, float]:
        """Compute the metrics of all videos, which are sorted by id."""
        raise NotImplementedError

    def per_class(self, videos: Sequence[VideoScores]) -> np.ndarray:
        """Return ``per_class_metric`` of each class, (num_classes,) percent; NaN for a class that no video has."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget all videos."""
        self._videos = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep label and scores of each video; see the base class.

        Raises:
            ValueError: outputs do not belong to these inputs, or a label or score vector does not suit the classes.
        """
        readable = [video["video_id"] for video in inputs if not video.get("failed")]
        answered = [output["video_id"] for output in outputs]
        if readable != answered:
            raise ValueError(f"outputs: got scores of {answered}, allowed: those of the readable videos {readable}")
        remaining = iter(outputs)
        for video in inputs:
            label = self._check_label(video["label"], video["video_id"])
            scores = views = None
            if not video.get("failed"):
                output = next(remaining)
                scores = _array(output["scores"])
                if scores.shape != (self.num_classes,):
                    shapes = f"got shape {scores.shape}, allowed: {(self.num_classes,)} (MODEL.HEAD.NUM_CLASSES)"
                    raise ValueError(f"scores of {video['video_id']!r}: {shapes}")
                views = None if output.get("views") is None else _array(output["views"])
            self._videos.append(VideoScores(video["video_id"], label, scores, views, source_of(video)))

    def _check_label(self, label: Any, video_id: str) -> int | list[int]:
        # A multi-hot vector is a floating-point one.
        values = torch.as_tensor(label)
        if values.dim() == 1 and values.is_floating_point() and len(values) == self.num_classes:
            values = values.nonzero().flatten()
        plain = values.long().tolist()
        classes = plain if isinstance(plain, list) else [plain]
        if not all(0 <= value < self.num_classes for value in classes):
            raise ValueError(f"label of {video_id!r}: got {plain}, allowed: 0 to {self.num_classes - 1}")
        return plain

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Gather the videos of all ranks and compute the metrics on rank 0; ``{}`` elsewhere.

        Raises:
            ValueError: there was no video.
        """
        gathered = comm.gather_object(self._videos)
        if not comm.is_main_process():
            return {}
        # The order of arrival depends on the number of ranks. That of the file should not.
        videos = sorted((video for part in gathered for video in part), key=lambda video: video.video_id)
        if not videos:
            raise ValueError(f"dataset {self.dataset_name!r}: no video was evaluated")
        self._report_unusable(videos)
        metrics = self.metrics(videos)
        rows = self._per_class_rows(videos) if self.per_class_metric else []
        if rows:
            logger.info("%s of each class of %s:\n%s", self.per_class_metric, self.dataset_name, format_per_class(rows))
        if self.output_dir is not None:
            # Saved results are scored again by the name in the registry. The class may have another name.
            own = next((name for name in EVALUATOR if EVALUATOR.get(name) is type(self)), type(self).__name__)
            results = Results(
                self.dataset_name, own, self.num_classes, videos, self.average, self.activation,
                {self.task: metrics}, rows,
            )  # fmt: skip
            # "list:some/file.txt" is a dataset name, too.
            name = re.sub(r"[^\w.-]+", "_", self.dataset_name).strip("_")
            if len(name.encode()) > _MAX_NAME_BYTES:
                digest = hashlib.sha256(self.dataset_name.encode()).hexdigest()[:8]
                name = f"{name[:60]}_{digest}"
            path = os.path.join(self.output_dir, "inference", f"{name}.json")
            PathManager.mkdirs(os.path.dirname(path))
            write_results(path, results)
            logger.info("Wrote the scores of %d videos to %s", len(videos), path)
        return {self.task: metrics}

    def _per_class_rows(self, videos: Sequence[VideoScores]) -> list[dict[str, Any]]:
        counts = np.bincount([k for video in videos for k in np.unique(video.label)], minlength=self.num_classes)
        names = MetadataCatalog.get(self.dataset_name).classes
        return [
            {
                "class": k,
                "name": names[k] if k < len(names) else "",
                "num_videos": int(counts[k]),
                self.per_class_metric: None if np.isnan(value) else round(float(value), 4),
            }
            for k, value in enumerate(self.per_class(videos))
        ]

    def _report_unusable(self, videos: Sequence[VideoScores]) -> None:
        failed = [video.video_id for video in videos if video.scores is None]
        broken = [video.video_id for video in videos if video.scores is not None and not is_usable(video)]
        for names, what in ((failed, "could not be decoded"), (broken, "have scores that are not finite")):
            if names:
                share, listed = f"{len(names)} of {len(videos)} videos", some(names, _MAX_LISTED)
                logger.warning("%s: %s %s and count as wrong: %s", self.dataset_name, share, what, listed)


def _array(values: Any) -> np.ndarray:
    return torch.as_tensor(values).detach().float().cpu().numpy()


def metric_names(evaluator: Evaluator) -> list[str]:
    """Return the names of the metrics, ``"task/metric"``, without a test; empty if only a test can tell."""
    if not isinstance(evaluator, PerVideoEvaluator):
        return []
    count = evaluator.num_classes
    scores = np.full(count, 1 / count, np.float32)
    labels: list[Any] = [list(range(count))] * 2 if evaluator.activation == "sigmoid" else list(range(count))[:2]
    example = [VideoScores(str(k), label, scores) for k, label in enumerate(labels)]
    try:
        return [f"{evaluator.task}/{name}" for name in evaluator.metrics(example)]
    except Exception:  # an evaluator of a project may need more, such as views
        return []


def mean_loss(videos: Sequence[VideoScores], activation: str) -> float:
    """Return the mean loss of videos in nats, from the probabilities that a test has averaged over their views.

    With "softmax" it is the cross entropy: minus the logarithm of the label's probability, or the mean of several
    labels. With "sigmoid" it is the binary cross entropy, averaged over the classes as in training. Neither has label
    smoothing. A float32 probability of 0 or 1 counts as the nearest one that float32 can tell from it, so that the loss
    is finite. Videos without finite scores are left out, and with "softmax" those without a label. It is NaN if all are
    left out.
    """
    losses = []
    for video in videos:
        labels = [video.label] if isinstance(video.label, int) else video.label
        if video.scores is None or not is_usable(video) or not (labels or activation == "sigmoid"):
            continue
        own = video.scores.astype(np.float64)
        logs = log_probabilities(own)
        if activation == "sigmoid":
            others = np.setdiff1d(np.arange(len(own)), labels)
            losses.append(-(logs[labels].sum() + log_complements(own)[others].sum()) / len(own))
        else:
            losses.append(-logs[labels].mean())
    return float(np.mean(losses)) if losses else float("nan")


def rank_of_label(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return how many classes come before the right one, (N,); of equal scores the lower class index comes first.

    Args:
        scores: (N, K), finite.
        labels: (N,) class indices.
    """
    own = scores[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(axis=1)


@EVALUATOR.register()
class ClassificationEvaluator(PerVideoEvaluator):
    """Top-1, top-5 and mean class accuracy in percent of all videos; an undecodable video is a wrong one.

    Top-1 and top-5 are the paper's metrics (Sec. 4.1). ``mean_class`` is the mean of the top-1 accuracies of the
    classes that occur. ``loss`` is `mean_loss`.
    """

    task = "classification"
    per_class_metric = "accuracy"

    def metrics(self, videos: Sequence[VideoScores]) -> dict[str, float]:
        """Return ``{"top1", "top5", "mean_class", "loss", "num_videos", "num_failed"}``.

        Raises:
            ValueError: a video has another number of labels than one.
        """
        _, ranks = self._labels_and_ranks(videos)
        return {
            "top1": 100.0 * float((ranks < 1).mean()),
            # With fewer than five classes every video that has scores is in the top 5.
            "top5": 100.0 * float((ranks < min(5, self.num_classes)).mean()),
            "mean_class": float(np.nanmean(self.per_class(videos))),
            "loss": mean_loss(videos, self.activation),
            "num_videos": len(videos),
            "num_failed": sum(not is_usable(video) for video in videos),
        }

    def per_class(self, videos: Sequence[VideoScores]) -> np.ndarray:
        """Return the top-1 accuracy of each class, (num_classes,) percent, NaN for a class that does not occur."""
        labels, ranks = self._labels_and_ranks(videos)
        counts = np.bincount(labels, minlength=self.num_classes)
        correct = np.bincount(labels, weights=ranks < 1, minlength=self.num_classes)
        return 100.0 * np.divide(correct, counts, out=np.full(self.num_classes, np.nan), where=counts > 0)

    def _labels_and_ranks(self, videos: Sequence[VideoScores]) -> tuple[np.ndarray, np.ndarray]:
        for video in videos:
            if isinstance(video.label, list):
                hint = "one class (TEST.EVALUATOR for several: MultiLabelEvaluator)"
                raise ValueError(f"label of {video.video_id!r}: got {video.label}, allowed: {hint}")
        labels = np.array([video.label for video in videos])
        # Without scores a video is wrong, for every k.
        ranks = np.full(len(videos), self.num_classes)
        usable = np.array([is_usable(video) for video in videos])
        if usable.any():
            scores = np.stack([video.scores for video in videos if video.scores is not None and is_usable(video)])
            ranks[usable] = rank_of_label(scores, labels[usable])
        return labels, ranks
