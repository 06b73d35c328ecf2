"""What a test says beyond its metrics: its classes, which are confused, and the most confident mistakes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlvideo.evaluation.results_file import Results, VideoScores, is_usable

# A matrix of more classes than this shows those with the most confusions.
MAX_MATRIX_CLASSES = 30
# A table of more classes than this is cut to the worst and the best.
MAX_TABLE_CLASSES = 20


@dataclass(frozen=True)
class Confusion:
    """Which class was taken for which.

    Attributes:
        counts: (K, K) videos; rows are the true classes, columns the predicted ones.
        names: of the K classes.
        left_out: how many further classes there are, those with the fewest confusions.
        num_unusable: videos without scores, which are in no cell.
    """

    counts: np.ndarray
    names: list[str]
    left_out: int
    num_unusable: int


@dataclass(frozen=True)
class Mistake:
    """A video that was taken for something that it is not."""

    video: VideoScores
    predicted: int
    #: of the predicted class, 0 to 1
    score: float
    #: the best of the right ones, 0 to 1; None where the video has no label
    right_score: float | None


def class_names(results: Results) -> list[str]:
    """Return a name for each class, its number where it has none."""
    names = {row["class"]: row.get("name") for row in results.per_class}
    return [str(names.get(k) or k) for k in range(results.num_classes)]


def is_single_label(results: Results) -> bool:
    """Return whether each video has one class, so that "taken for" means something."""
    return all(isinstance(video.label, int) for video in results.videos)


def _usable(results: Results) -> Iterator[tuple[VideoScores, np.ndarray]]:
    for video in results.videos:
        if video.scores is not None and is_usable(video):
            yield video, video.scores


def confusion(results: Results, max_classes: int = MAX_MATRIX_CLASSES) -> Confusion | None:
    """Count which class was taken for which; None where videos have several labels or none has scores."""
    if not is_single_label(results):
        return None
    size = results.num_classes
    counts = np.zeros((size, size), int)
    for video, scores in _usable(results):
        counts[video.label, scores.argmax()] += 1
    if not counts.any():
        return None
    names, chosen = class_names(results), np.arange(size)
    if size > max_classes:
        wrong = counts - np.diag(np.diag(counts))
        # The sort is stable: among equal classes the first stay.
        chosen = np.sort(np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")[:max_classes])
    num_unusable = len(results.videos) - int(counts.sum())
    return Confusion(counts[np.ix_(chosen, chosen)], [names[k] for k in chosen], size - len(chosen), num_unusable)


def most_confused(results: Results, count: int = 10) -> list[dict[str, Any]]:
    """Return the pairs of classes that are confused most: "true", "predicted", "videos", "of" and "share" (percent)."""
    whole = confusion(results, max_classes=results.num_classes)
    if whole is None:
        return []
    wrong = whole.counts - np.diag(np.diag(whole.counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    rows = []
    for true, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[true, predicted]:
            videos, total = int(wrong[true, predicted]), int(whole.counts[true].sum())
            names = {"true": whole.names[true], "predicted": whole.names[predicted]}
            rows.append({**names, "videos": videos, "of": total, "share": 100 * videos / total})
    return rows


def mistakes(results: Results, count: int) -> list[Mistake]:
    """Return the most confident mistakes: the videos with the highest score of a class that they do not have.

    With one label, only videos whose best class is wrong count; with several, any class above one half.
    """
    found = []
    single = is_single_label(results)
    for video, scores in _usable(results):
        labels = [video.label] if isinstance(video.label, int) else list(video.label)
        others = scores.astype(float)
        others[labels] = -np.inf
        predicted = int(others.argmax())
        right = float(scores[labels].max()) if labels else None
        is_wrong = int(scores.argmax()) not in labels if single else others[predicted] > 0.5
        if is_wrong and np.isfinite(others[predicted]):
            found.append(Mistake(video, predicted, float(others[predicted]), right))
    return sorted(found, key=lambda mistake: -mistake.score)[:count]


def per_class_metric(results: Results) -> str | None:
    """Return the name of the metric in the rows of the classes, e.g. "accuracy" or "AP"; None without rows."""
    extra = [key for row in results.per_class[:1] for key in row if key not in ("class", "name", "num_videos")]
    return extra[0] if extra else None


def per_class_table(tests: Sequence[Results]) -> list[dict[str, Any]]:
    """Return a row per class that occurs: "name", "videos" and "values", one per test or None.

    Args:
        tests: of the same dataset. Rows are in the order of the first one's classes.
    """
    rows = []
    by_class = [{row["class"]: row.get(per_class_metric(test) or "") for row in test.per_class} for test in tests]
    for row in next((test.per_class for test in tests if test.per_class), []):
        if row["num_videos"]:
            values = [values.get(row["class"]) for values in by_class]
            rows.append({"name": str(row["name"] or row["class"]), "videos": row["num_videos"], "values": values})
    return rows


def worst_and_best(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows that a table of classes shows, worst first by the last test if it is cut, and those it folds."""
    ranked = sorted(rows, key=lambda row: next((v for v in reversed(row["values"]) if v is not None), 0.0))
    if len(ranked) <= MAX_TABLE_CLASSES:
        return list(rows), []
    half = MAX_TABLE_CLASSES // 2
    return ranked[:half] + ranked[-half:], ranked[half:-half]
