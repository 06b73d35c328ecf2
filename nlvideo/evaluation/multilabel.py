"""Mean average precision of videos that have any number of labels."""

import logging
from collections.abc import Sequence

import numpy as np

from nlvideo.evaluation.evaluator import EVALUATOR, PerVideoEvaluator, mean_loss
from nlvideo.evaluation.results_file import VideoScores, is_usable

logger = logging.getLogger(__name__)


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the area under the precision-recall curve, without interpolation: the sum of precision x gain in recall.

    Videos with equal scores enter together, so that their order does not matter.

    Args:
        scores: (N,), higher is more confident; ``-inf`` for a video that is never retrieved.
        positive: (N,) bool.

    Returns:
        A value in [0, 1]; NaN without a positive.
    """
    num_positive = positive.sum()
    if num_positive == 0:
        return float("nan")
    retrieved = scores > -np.inf
    order = np.argsort(-scores[retrieved], kind="stable")
    sorted_scores = scores[retrieved][order]
    hits = np.cumsum(positive[retrieved][order])
    # The last video of each run of equal scores.
    ends = np.flatnonzero(np.append(np.diff(sorted_scores) != 0, True)[: len(sorted_scores)])
    precision = hits[ends] / (ends + 1)
    recall_gain = np.diff(hits[ends], prepend=0) / num_positive
    return float((precision * recall_gain).sum())


@EVALUATOR.register()
class MultiLabelEvaluator(PerVideoEvaluator):
    """Mean average precision in percent, as PySlowFast and scikit-learn compute it.

    Classes without a positive video are left out of the mean; videos without any label stay in as negatives of every
    class. The positives of an undecodable video are never retrieved.
    """

    task = "multilabel"
    per_class_metric = "AP"

    def metrics(self, videos: Sequence[VideoScores]) -> dict[str, float]:
        """Return ``{"mAP", "loss", "num_classes", "num_videos", "num_failed"}``.

        ``num_classes`` are those in the mAP. ``loss`` is `mean_loss` of the videos whose scores count.

        Raises:
            ValueError: no video has a label.
        """
        precisions = self.per_class(videos)
        valid = ~np.isnan(precisions)
        if not valid.any():
            raise ValueError(f"dataset {self.dataset_name!r}: got no label in {len(videos)} videos, allowed: 1 or more")
        if not valid.all():
            logger.info("%s: %d classes without a positive are not in the mAP", self.dataset_name, (~valid).sum())
        return {
            "mAP": float(precisions[valid].mean()),
            "loss": mean_loss([video for video in videos if self.is_ranked(video)], self.activation),
            "num_classes": int(valid.sum()),
            "num_videos": len(videos),
            "num_failed": sum(not is_usable(video) for video in videos),
        }

    def per_class(self, videos: Sequence[VideoScores]) -> np.ndarray:
        """Return the average precision of each class, (num_classes,) percent, NaN for a class without a positive."""
        scores = np.full((len(videos), self.num_classes), -np.inf)
        positive = np.zeros((len(videos), self.num_classes), dtype=bool)
        for row, video in enumerate(videos):
            positive[row, video.label] = True
            if is_usable(video) and self.is_ranked(video):
                scores[row] = video.scores
        return 100.0 * np.array([average_precision(scores[:, k], positive[:, k]) for k in range(self.num_classes)])

    def is_ranked(self, video: VideoScores) -> bool:
        """Return whether the scores of a video are used. If not, it ranks last in every class."""
        return True


@EVALUATOR.register()
class CharadesEvaluator(MultiLabelEvaluator):
    """The mean average precision of the official Charades script, ``Charades_v1_classify.m`` (Sec. 5.2).

    The script ranks videos without any label last, whatever their scores, so that they never count as false positives.
    docs/testing.md lists what still differs.
    """

    def is_ranked(self, video: VideoScores) -> bool:
        """Return whether a video has a label."""
        return not isinstance(video.label, list) or len(video.label) > 0
