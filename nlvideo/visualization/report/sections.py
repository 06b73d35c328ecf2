"""The sections about tests, one for each dataset that any of the runs was tested on."""

import os
from collections.abc import Sequence
from typing import Any

from nlvideo.data import VideoDecodeError, get_dataset
from nlvideo.data.catalog import source_of
from nlvideo.evaluation.results_file import Results
from nlvideo.utils.console import progress_bar
from nlvideo.visualization.report.clips import Budget, make_clip
from nlvideo.visualization.report.results import (
    Mistake,
    class_names,
    confusion,
    is_single_label,
    mistakes,
    most_confused,
    per_class_metric,
    per_class_table,
    worst_and_best,
)
from nlvideo.visualization.report.run import Run

# Mistakes shown of the only run, and of each of several.
_MISTAKES_ALONE, _MISTAKES_EACH = 8, 4


def dataset_sections(runs: Sequence[Run], budget: Budget) -> list[dict[str, Any]]:
    """Return what the page says about each dataset.

    Args:
        runs: of the page.
        budget: what the clips may take.
    """
    datasets = list(dict.fromkeys(results.dataset for run in runs for results in run.results))
    return [_section(dataset, runs, budget) for dataset in datasets]


def _section(dataset: str, runs: Sequence[Run], budget: Budget) -> dict[str, Any]:
    tested = [(i, run, results) for i, run in enumerate(runs) for results in run.results if results.dataset == dataset]
    rows = per_class_table([results for _, _, results in tested])
    shown, folded = worst_and_best(rows)
    count = _MISTAKES_ALONE if len(tested) == 1 else _MISTAKES_EACH
    return {
        "dataset": dataset,
        "metrics": _metrics_table(tested),
        "runs": [(index, run) for index, run, _ in tested],
        "class_metric": next(filter(None, (per_class_metric(results) for _, _, results in tested)), "accuracy"),
        "classes": shown,
        "more_classes": folded,
        "details": [_run_details(index, run, results, count, budget) for index, run, results in tested],
    }


def _metrics_table(tested: Sequence[tuple[int, Run, Results]]) -> dict[str, Any]:
    flat = [{k: v for metrics in results.metrics.values() for k, v in metrics.items()} for _, _, results in tested]
    names = list(dict.fromkeys(name for metrics in flat for name in metrics))
    rows = [
        {"index": index, "run": run, "metrics": metrics, "average": results.average}
        for (index, run, results), metrics in zip(tested, flat, strict=True)
    ]
    return {"names": names, "rows": rows}


def _run_details(index: int, run: Run, results: Results, count: int, budget: Budget) -> dict[str, Any]:
    names = class_names(results)
    found = mistakes(results, count)
    sources = _sources(results, found)
    # With short videos the bar does not appear.
    progress = progress_bar(found, desc=f"Clips of {run.name}", unit="clip", delay=2, leave=False)
    return {
        "index": index,
        "run": run,
        "single": is_single_label(results),
        "confusion": confusion(results),
        "pairs": most_confused(results),
        "mistakes": [_mistake(mistake, names, sources, budget) for mistake in progress],
    }


def _sources(results: Results, found: Sequence[Mistake]) -> dict[str, dict[str, Any]]:
    """Where the videos are, by id: as the results say, or else as the list or folder of the dataset says."""
    sources = {mistake.video.video_id: mistake.video.source for mistake in found}
    # Not for named datasets, because asking for one may make it.
    if found and not any(sources.values()) and results.dataset.startswith(("list:", "folder:")):
        try:
            records = get_dataset(results.dataset)
        except (ValueError, OSError):
            return sources
        sources |= {record["video_id"]: source_of(record) for record in records if record["video_id"] in sources}
    return sources


def _mistake(
    mistake: Mistake, names: Sequence[str], sources: dict[str, dict[str, Any]], budget: Budget
) -> dict[str, Any]:
    video = mistake.video
    labels = [video.label] if isinstance(video.label, int) else video.label
    clip, why = _clip(sources.get(video.video_id, {}), budget)
    return {
        "video_id": video.video_id,
        "predicted": names[mistake.predicted],
        "score": 100 * mistake.score,
        "true": ", ".join(names[label] for label in labels) or "none of the classes",
        "right_score": None if mistake.right_score is None else 100 * mistake.right_score,
        "clip": clip,
        "why": why,
    }


def _clip(source: dict[str, Any], budget: Budget) -> tuple[Any, str]:
    """A clip, or None and why there is none."""
    if not source:
        return None, "the results do not say where the video is"
    if not os.path.exists(source["file_name"]):
        return None, "the video is not there any more"
    if budget.is_spent():
        return None, "the page's budget for clips is spent"
    try:
        clip = make_clip(source, budget)
    except (VideoDecodeError, OSError, ValueError) as error:
        return None, f"the video cannot be read: {error}"
    return clip, "" if clip else "the clip would be too large for this page"
