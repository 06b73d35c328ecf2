"""Accuracy of videos that have one label each."""

from collections.abc import Sequence

import numpy as np

from nlvideo.evaluation.evaluator import EVALUATOR, PerVideoEvaluator
from nlvideo.evaluation.results_file import VideoScores, is_usable


def rank_of_label(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return how many classes come before the right one; of equal scores the lower class index comes first.

    Args:
        scores: (N, K), finite.
        labels: (N,) class indices.

    Returns:
        (N,) ranks from 0; the video counts for top-k where the rank is below k.
    """
    own = scores[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(axis=1)


@EVALUATOR.register()
class ClassificationEvaluator(PerVideoEvaluator):
    """Top-1, top-5 and mean class accuracy in percent of all videos; an undecodable video is a wrong one.

    Top-1 and top-5 are the paper's metrics (Sec. 4.1). ``mean_class`` is the mean of the top-1 accuracies of the
    classes that occur.
    """

    task = "classification"
    per_class_metric = "accuracy"

    def metrics(self, videos: Sequence[VideoScores]) -> dict[str, float]:
        """Return ``{"top1", "top5", "mean_class", "num_videos", "num_failed"}``.

        Raises:
            ValueError: a video has another number of labels than one.
        """
        _, ranks = self._labels_and_ranks(videos)
        return {
            "top1": 100.0 * float((ranks < 1).mean()),
            # With fewer than five classes every video that has scores is in the top 5.
            "top5": 100.0 * float((ranks < min(5, self.num_classes)).mean()),
            "mean_class": float(np.nanmean(self.per_class(videos))),
            "num_videos": len(videos),
            "num_failed": sum(video.scores is None for video in videos),
        }

    def per_class(self, videos: Sequence[VideoScores]) -> np.ndarray:
        """Return the top-1 accuracy of each class, (num_classes,) percent, NaN for a class that does not occur.

        Raises:
            ValueError: a video has another number of labels than one.
        """
        labels, ranks = self._labels_and_ranks(videos)
        counts = np.bincount(labels, minlength=self.num_classes)
        correct = np.bincount(labels, weights=ranks < 1, minlength=self.num_classes)
        return 100.0 * np.divide(correct, counts, out=np.full(self.num_classes, np.nan), where=counts > 0)

    def _labels_and_ranks(self, videos: Sequence[VideoScores]) -> tuple[np.ndarray, np.ndarray]:
        for video in videos:
            if isinstance(video.label, list):
                raise ValueError(
                    f"label of {video.video_id!r}: got {video.label}, allowed: one class (TEST.EVALUATOR for several: "
                    "MultiLabelEvaluator)"
                )
        labels = np.array([video.label for video in videos])
        # Last of all: after any class of a video that has scores.
        ranks = np.full(len(videos), self.num_classes)
        scores = [video.scores for video in videos if video.scores is not None and is_usable(video)]
        if scores:
            usable = np.array([is_usable(video) for video in videos])
            ranks[usable] = rank_of_label(np.stack(scores), labels[usable])
        return labels, ranks
