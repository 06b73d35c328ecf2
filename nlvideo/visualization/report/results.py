"""What the page says of each test: its metrics, its classes, which are confused, and the worst mistakes."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlvideo.data import VideoDecodeError
from nlvideo.evaluation.results_file import Results, VideoScores, is_usable
from nlvideo.model_zoo import Predictor
from nlvideo.utils.console import progress_bar
from nlvideo.visualization.report.clips import Budget, Clip, make_clip, make_heat
from nlvideo.visualization.report.run import Run

# A matrix of more classes than this shows those with the most confusions.
MAX_MATRIX_CLASSES = 30
# A table of more classes than this is cut to the worst and the best.
MAX_TABLE_CLASSES = 20
# Mistakes shown of the only run, and of each of several.
_MISTAKES_ALONE, _MISTAKES_EACH = 8, 4


@dataclass(frozen=True)
class Confusion:
    """Which class was taken for which."""

    counts: np.ndarray  #: (K, K) videos; rows are the true classes, columns the predicted ones
    names: list[str]  #: of the K classes
    left_out: int  #: how many further classes there are, those with the fewest confusions
    num_unusable: int  #: videos without scores, which are in no cell


@dataclass(frozen=True)
class Mistake:
    """A video that was given a wrong class."""

    video: VideoScores
    predicted: int
    score: float  #: of the predicted class, 0 to 1
    right_score: float | None  #: the highest of the true classes, 0 to 1; None where the video has no label


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
    names = class_names(results)
    chosen: Sequence[int] = range(size)
    if size > max_classes:
        wrong = counts - np.diag(np.diag(counts))
        # The sort is stable: among equal classes the first stay.
        chosen = sorted(np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")[:max_classes])
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

    The tests are of one dataset. Rows are in the order of the first one's classes.
    """
    rows = []
    by_class = [{row["class"]: row.get(per_class_metric(test) or "") for row in test.per_class} for test in tests]
    for row in next((test.per_class for test in tests if test.per_class), []):
        if row["num_videos"]:
            values = [values.get(row["class"]) for values in by_class]
            rows.append({"name": str(row["name"] or row["class"]), "videos": row["num_videos"], "values": values})
    return rows


def worst_and_best(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows that a table of classes shows, and those that it folds.

    A table of many classes is cut: the worst in the last test come first, then the best.
    """
    ranked = sorted(rows, key=lambda row: next((v for v in reversed(row["values"]) if v is not None), 0.0))
    if len(ranked) <= MAX_TABLE_CLASSES:
        return list(rows), []
    half = MAX_TABLE_CLASSES // 2
    return ranked[:half] + ranked[-half:], ranked[half:-half]


def dataset_sections(runs: Sequence[Run], budget: Budget, heat: bool = False) -> list[dict[str, Any]]:
    """Return what the page says about each dataset that a run was tested on; the clips take from the budget.

    With ``heat``, each mistake also has what spoke for the predicted class, by the run's last checkpoint.
    """
    datasets = dict.fromkeys(results.dataset for run in runs for results in run.results)
    return [_section(dataset, runs, budget, heat) for dataset in datasets]


def _section(dataset: str, runs: Sequence[Run], budget: Budget, heat: bool) -> dict[str, Any]:
    tested = [(i, run, results) for i, run in enumerate(runs) for results in run.results if results.dataset == dataset]
    shown, folded = worst_and_best(per_class_table([results for _, _, results in tested]))
    count = _MISTAKES_ALONE if len(tested) == 1 else _MISTAKES_EACH
    tests = [{"index": index, **_test(run, results, count, budget, heat)} for index, run, results in tested]
    return {
        "dataset": dataset,
        "metrics": list(dict.fromkeys(name for test in tests for name in test["metrics"])),
        "class_metric": next(filter(None, (per_class_metric(results) for _, _, results in tested)), "accuracy"),
        "classes": shown,
        "more_classes": folded,
        "tests": tests,
    }


def _test(run: Run, results: Results, count: int, budget: Budget, heat: bool) -> dict[str, Any]:
    names, found = class_names(results), mistakes(results, count)
    predictor, no_heat = None, ""
    if heat and found:
        try:
            predictor = Predictor(str(run.folder))
        except Exception as error:  # Whatever the code of a plugin raises: the page does without heat.
            no_heat = " ".join(f"{type(error).__name__}: {error}".split())
    # With short videos the bar does not appear.
    progress = progress_bar(found, desc=f"Clips of {run.name}", unit="clip", delay=2, leave=False)
    return {
        "run": run,
        "metrics": {name: value for metrics in results.metrics.values() for name, value in metrics.items()},
        "average": results.average,
        "single": is_single_label(results),
        "confusion": confusion(results),
        "pairs": most_confused(results),
        "mistakes": [_mistake(mistake, names, predictor, budget) for mistake in progress],
        "no_heat": no_heat,
    }


def _mistake(mistake: Mistake, names: Sequence[str], predictor: Predictor | None, budget: Budget) -> dict[str, Any]:
    video = mistake.video
    labels = [video.label] if isinstance(video.label, int) else video.label
    heat, no_heat = None, ""
    if not video.source:
        clip, why = None, "the results do not say where the video is"
    elif not os.path.exists(video.source["file_name"]):
        clip, why = None, "the video is not there any more"
    else:
        clip, why = _clip(lambda: make_clip(video.source, budget), budget, "the video cannot be read")
    if clip and predictor:
        heat, no_heat = _clip(
            lambda: make_heat(predictor, video.source, mistake.predicted, budget), budget, "it cannot be made"
        )
    return {
        "video_id": video.video_id,
        "predicted": names[mistake.predicted],
        "score": 100 * mistake.score,
        "true": ", ".join(names[label] for label in labels) or "none of the classes",
        "right_score": None if mistake.right_score is None else 100 * mistake.right_score,
        "clip": clip,
        "why": why,
        "heat": heat,
        "no_heat": no_heat,
    }


def _clip(make: Callable[[], Clip | None], budget: Budget, failed: str) -> tuple[Clip | None, str]:
    """A clip, or None and why there is none."""
    if budget.is_spent():
        return None, "the page's budget for clips is spent"
    try:
        clip = make()
    except (VideoDecodeError, OSError, ValueError, LookupError) as error:
        return None, f"{failed}: {error}"
    return clip, "" if clip else "the clip would be too large for this page"
