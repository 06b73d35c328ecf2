"""What evaluators of whole videos share: collect scores, gather them from the ranks, write them to a file."""

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
from nlvideo.evaluation.evaluator import Evaluator
from nlvideo.evaluation.intervals import interval_text
from nlvideo.evaluation.results_file import Results, VideoScores, is_usable, write_results
from nlvideo.utils import comm
from nlvideo.utils.console import create_table
from nlvideo.utils.files.file_io import PathManager
from nlvideo.utils.messages import some

logger = logging.getLogger(__name__)

_MAX_LISTED = 20
# Tables of more classes than this show the best and the worst.
_MAX_CLASSES = 20


class PerVideoEvaluator(Evaluator):
    """Base of evaluators that need the scores of each video, in one place and exactly once.

    Subclasses set ``task`` and define :meth:`metrics`; those that set ``per_class_metric`` also define
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
            dataset_name: names the results file.
            num_classes: length of each score vector.
            output_dir: scores go to ``<output_dir>/inference/<dataset_name>.json``. None: no file.
            average: what the model averages over views, for the file; see ``Results``.
            activation: what makes probabilities of its logits, for the file.
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
            "dataset_name": dataset_name,
            "num_classes": num_classes,
            "output_dir": cfg.OUTPUT_DIR,
            "average": cfg.TEST.AVERAGE,
            "activation": cfg.MODEL.HEAD.LOSS,
        }

    def metrics(self, videos: Sequence[VideoScores]) -> dict[str, float]:
        """Compute the metrics of all videos of the dataset.

        Args:
            videos: sorted by id.
        """
        raise NotImplementedError

    def per_class(self, videos: Sequence[VideoScores]) -> np.ndarray:
        """Compute ``per_class_metric`` of each class.

        Args:
            videos: as for :meth:`metrics`.

        Returns:
            (num_classes,) percent; NaN for a class that no video has.
        """
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
            output = {} if video.get("failed") else next(remaining)
            scores = None if video.get("failed") else self._check_scores(output)
            views = output.get("views")
            views = None if views is None else torch.as_tensor(views).detach().float().cpu().numpy()
            label = self._check_label(video["label"], video["video_id"])
            self._videos.append(VideoScores(video["video_id"], label, scores, views, source_of(video)))

    def _check_scores(self, output: dict[str, Any]) -> np.ndarray:
        scores = torch.as_tensor(output["scores"]).detach().float().cpu().numpy()
        if scores.shape != (self.num_classes,):
            raise ValueError(
                f"scores of {output['video_id']!r}: got shape {scores.shape}, allowed: {(self.num_classes,)} "
                "(MODEL.HEAD.NUM_CLASSES)"
            )
        return scores

    def _check_label(self, label: Any, video_id: str) -> int | list[int]:
        # One class, several classes, or a multi-hot vector, which is a floating-point one.
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
            ValueError: there was no video at all.
        """
        gathered = comm.gather_object(self._videos)
        if not comm.is_main_process():
            return {}
        # The order of arrival depends on the number of ranks; the file should not.
        videos = sorted((video for part in gathered for video in part), key=lambda video: video.video_id)
        if not videos:
            raise ValueError(f"dataset {self.dataset_name!r}: no video was evaluated")
        self._report_unusable(videos)
        metrics = self.metrics(videos)
        rows = self.per_class_rows(videos)
        if rows:
            logger.info("%s of each class of %s:\n%s", self.per_class_metric, self.dataset_name, format_per_class(rows))
        if self.output_dir is not None:
            self._write(videos, metrics, rows)
        return {self.task: metrics}

    def per_class_rows(self, videos: Sequence[VideoScores]) -> list[dict[str, Any]]:
        """Return a row per class: "class", "name", "num_videos", and the metric or None where no video has the class.

        Args:
            videos: as for :meth:`metrics`.
        """
        if not self.per_class_metric:
            return []
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

    def _write(self, videos: Sequence[VideoScores], metrics: dict[str, float], rows: list[dict[str, Any]]) -> None:
        folder = os.path.join(self.output_dir, "inference")
        PathManager.mkdirs(folder)
        # "list:some/file.txt" is a dataset name, too.
        path = os.path.join(folder, re.sub(r"[^\w.-]+", "_", self.dataset_name).strip("_") + ".json")
        results = Results(
            self.dataset_name, type(self).__name__, self.num_classes, videos, self.average, self.activation,
            {self.task: metrics}, rows,
        )  # fmt: skip
        write_results(path, results)
        logger.info("Wrote the scores of %d videos to %s", len(videos), path)


def format_per_class(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows of the classes that occur as a table; of many classes the best and the worst."""
    metric = list(rows[0])[-1]
    present = sorted((row for row in rows if row[metric] is not None), key=lambda row: (-row[metric], row["class"]))
    intervals = [interval_text(metric, row[metric], row["num_videos"]) for row in present]
    if any(intervals):
        present = [{**row, "95 % interval": interval} for row, interval in zip(present, intervals)]
    half = _MAX_CLASSES // 2
    if len(present) <= _MAX_CLASSES:
        return create_table(present)
    left_out = len(present) - 2 * half
    return f"{create_table(present[:half])}\n... {left_out} more ...\n{create_table(present[-half:])}"
