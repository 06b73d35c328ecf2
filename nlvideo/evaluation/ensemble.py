"""Average saved scores without running a model: the views of one results file, or several results files."""

import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from nlvideo.config.validate import ALLOWED
from nlvideo.data.catalog import label_target
from nlvideo.evaluation.evaluator import EVALUATOR, Evaluator, PerVideoEvaluator
from nlvideo.evaluation.results_file import Results, VideoScores, is_usable, log_complements, log_probabilities
from nlvideo.utils.messages import check_one_of, some

AVERAGES = ALLOWED["TEST.AVERAGE"]


def average_scores(
    rows: np.ndarray, average: str, *, given: str, activation: str, weights: Sequence[float] | None = None
) -> np.ndarray:
    """Average the scores of several views or models.

    Args:
        rows: (R, K).
        average: "softmax", the mean of the probabilities, or "logits", the probabilities of the mean logits. Of
            probabilities, "logits" is the normalised geometric mean: a softmax loses only a constant of its logits.
        given: what the rows are: "softmax" (probabilities) or "logits".
        activation: what makes probabilities of logits: "softmax" or "sigmoid".
        weights: one per row, with a sum above 0; None: equal.

    Returns:
        (K,) float32 probabilities.

    Raises:
        ValueError: an unknown average.
    """
    check_one_of("average", average, AVERAGES)
    check_one_of("given", given, AVERAGES)
    rows = np.asarray(rows, np.float64)
    if given != average:
        rows = _probabilities(rows, activation) if average == "softmax" else _logits(rows, activation)
    mean = np.average(rows, axis=0, weights=weights)
    return (_probabilities(mean, activation) if average == "logits" else mean).astype(np.float32)


def _probabilities(logits: np.ndarray, activation: str) -> np.ndarray:
    given = torch.from_numpy(logits)
    return (given.sigmoid() if activation == "sigmoid" else given.softmax(dim=-1)).numpy()


def _logits(probabilities: np.ndarray, activation: str) -> np.ndarray:
    logs = log_probabilities(probabilities)
    return logs if activation == "softmax" else logs - log_complements(probabilities)


def rescore(results: Results, average: str) -> Results:
    """Average the views of every video again; a video without saved views keeps its scores.

    Raises:
        ValueError: an unknown average.
    """
    check_one_of("average", average, AVERAGES)
    has_all = all(video.views is not None for video in results.videos if is_usable(video))
    average_again = partial(average_scores, average=average, given=results.average, activation=results.activation)
    videos = [
        video if video.views is None else replace(video, scores=average_again(video.views)) for video in results.videos
    ]
    return replace(results, videos=videos, average=average if has_all else results.average)


def ensemble(
    parts: Sequence[Results], weights: Sequence[float], average: str = "softmax", names: Sequence[str] | None = None
) -> Results:
    """Average the scores of several models per video.

    Args:
        parts: tests of the same videos.
        weights: one per part, 0 or more, not all 0. A video without scores of some models is averaged over the others.
        average: "softmax" or "logits", see ``average_scores``.
        names: what errors call the parts; None: their numbers.

    Returns:
        The results without metrics; the evaluator is that of the first part.

    Raises:
        ValueError: the parts differ in videos, labels or classes, or the weights do not fit; one line.
    """
    if len(weights) != len(parts) or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        allowed = f"one number for each of {len(parts)}, 0 or more, not all 0"
        raise ValueError(f"weights: got {list(weights)}, allowed: {allowed}")
    _check_same_videos(parts, names or [str(k) for k in range(len(parts))])
    first = parts[0]
    by_id = [{video.video_id: video for video in part.videos} for part in parts]
    videos = []
    for video in first.videos:
        own = [(table[video.video_id], weight) for table, weight in zip(by_id, weights, strict=True) if weight > 0]
        usable = [(other.scores, weight) for other, weight in own if is_usable(other)]
        scores = None
        if usable:
            rows, kept = zip(*usable, strict=True)
            scores = average_scores(rows, average, given="softmax", activation=first.activation, weights=kept)
        videos.append(VideoScores(video.video_id, video.label, scores))
    return Results(first.dataset, first.evaluator, first.num_classes, videos, average, first.activation)


def evaluate_results(results: Results, evaluator: str = "") -> dict[str, float]:
    """Return the metrics of saved or averaged scores. The evaluator gets them as in a test.

    Args:
        results: what to score.
        evaluator: a name in ``EVALUATOR``; "": the one that the results name.

    Returns:
        ``{metric: value}``; of an evaluator with several tasks ``{"task/metric": value}``.

    Raises:
        LookupFailed: the evaluator is not registered.
        ValueError: the results do not suit the evaluator, or it needs a config.
    """
    name = evaluator or results.evaluator
    cls = EVALUATOR.get(name)
    try:
        inspect.signature(cls).bind(results.dataset, results.num_classes)
    except TypeError as error:
        allowed = "one that is also called as cls(dataset_name, num_classes)"
        raise ValueError(f"evaluator: got {name!r}, allowed for saved results: {allowed} ({error})") from None
    own: Evaluator = cls(results.dataset, results.num_classes)
    if isinstance(own, PerVideoEvaluator):
        own.average, own.activation = results.average, results.activation
    own.reset()
    for video in results.videos:
        label = label_target(video.label, results.num_classes if isinstance(video.label, list) else None)
        source = {**video.source, "video_id": video.video_id, "label": label, "failed": video.scores is None}
        arrays = {"scores": video.scores, "views": video.views}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if array is not None}
        own.process([source], [{"video_id": video.video_id, **tensors}] if "scores" in tensors else [])
    found = own.evaluate()
    if len(found) == 1:
        return next(iter(found.values()))
    return {f"{task}/{metric}": value for task, metrics in found.items() for metric, value in metrics.items()}


def _check_same_videos(parts: Sequence[Results], names: Sequence[str]) -> None:
    """Raise a ValueError that says how two parts differ, unless all have the same videos and labels."""
    for part, name in zip(parts, names, strict=True):
        if twice := [key for key, count in Counter(video.video_id for video in part.videos).items() if count > 1]:
            raise ValueError(f"{name}: these videos are there more than once: {some(twice)}")
    first = parts[0]
    labels = {video.video_id: video.label for video in first.videos}
    for part, name in zip(parts[1:], names[1:], strict=True):
        where = f"{names[0]} and {name} are not tests of the same videos"
        for what in ("num_classes", "activation"):
            if getattr(part, what) != getattr(first, what):
                raise ValueError(f"{where}: {what} {getattr(first, what)!r} and {getattr(part, what)!r}")
        theirs = {video.video_id: video.label for video in part.videos}
        found = {
            f"only in {names[0]}": [key for key in labels if key not in theirs],
            f"only in {name}": [key for key in theirs if key not in labels],
            "other labels": [key for key in labels if key in theirs and labels[key] != theirs[key]],
        }
        if any(found.values()):
            texts = [f"{what}: {len(keys)} ({some(keys)})" for what, keys in found.items() if keys]
            raise ValueError(f"{where}: {'; '.join(texts)}")
