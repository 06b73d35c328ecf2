"""Print results with the confidence intervals of accuracies, and compare results with what a config expects."""

import logging
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from nlvideo.config import CfgNode
from nlvideo.config.validate import check_expected_results
from nlvideo.utils import comm
from nlvideo.utils.console import create_table

logger = logging.getLogger(__name__)

# Metrics that are the share of the videos for which something holds. A mean over classes and the mAP are not.
_SHARES = ("top1", "top5", "accuracy")
# 95 % of a normal distribution lie within this many standard deviations of its mean.
_Z = 1.959964
# Tables of more classes than this show the best and the worst.
_MAX_CLASSES = 20


def lower_is_better(metric: str) -> bool:
    """Return whether smaller values of a metric are better: those of one whose name ends in ``loss``."""
    return metric.endswith("loss")


def unit_of(metric: str) -> str:
    """Return what a heading says after the name of a metric: ``" (%)"``, ``" (nats)"`` for a loss; "" for a count."""
    return " (nats)" if lower_is_better(metric) else "" if metric.rpartition("/")[2].startswith("num_") else " (%)"


def wilson_interval(percent: float, num_videos: int) -> tuple[float, float]:
    """Return the lower and upper end of Wilson's 95 % interval of a share of videos, in percent.

    It also holds for few videos and near 0 and 100 % (Wilson, JASA 1927; Brown et al., Statistical Science 2001).

    Args:
        percent: the share that was measured, 0 to 100.
        num_videos: how many videos it was measured on, 1 or more.
    """
    share, part = percent / 100, _Z**2 / num_videos
    centre = (share + part / 2) / (1 + part)
    half = _Z / (1 + part) * math.sqrt(share * (1 - share) / num_videos + part / (4 * num_videos))
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def interval_text(metric: str, percent: float | None, num_videos: float | None) -> str:
    """Return an interval as ``61.8 to 79.1``; empty for a metric that has none, and if a number is missing.

    The metric may have its task before it: ``classification/top1``.
    """
    if metric.rpartition("/")[2] not in _SHARES or not num_videos or percent is None or not math.isfinite(percent):
        return ""
    return "{:.1f} to {:.1f}".format(*wilson_interval(percent, int(num_videos)))


def with_interval(metric: str, value: float, num_videos: float | None) -> str:
    """Return a metric as ``71.23 (61.8 to 79.1)``, a count as ``71``, a loss as ``0.7123``."""
    interval = interval_text(metric, value, num_videos)
    text = str(value) if isinstance(value, numbers.Integral) else f"{value:.{4 if lower_is_better(metric) else 2}f}"
    return f"{text} ({interval})" if interval else text


def format_per_class(rows: Sequence[dict[str, Any]]) -> str:
    """Return those of ``Results.per_class`` that occur as a table; of many classes the best and the worst."""
    metric = list(rows[0])[-1]
    present = sorted((row for row in rows if row[metric] is not None), key=lambda row: (-row[metric], row["class"]))
    present = _with_intervals(present, "95 % interval", [(metric, row[metric], row["num_videos"]) for row in present])
    half = _MAX_CLASSES // 2
    if len(present) <= _MAX_CLASSES:
        return create_table(present)
    left_out = len(present) - 2 * half
    return f"{create_table(present[:half])}\n... {left_out} more ...\n{create_table(present[-half:])}"


def _with_intervals(rows: list[dict[str, Any]], title: str, metrics: list[tuple]) -> list[dict[str, Any]]:
    intervals = [interval_text(*metric) for metric in metrics]
    if not any(intervals):
        return rows
    return [{**row, title: interval} for row, interval in zip(rows, intervals, strict=True)]


def _by_task(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, float]]:
    # Results of several datasets are one level deeper; their tasks read "dataset/task".
    flat: dict[str, Mapping[str, float]] = {}
    for name, value in results.items():
        if value and all(isinstance(inner, Mapping) for inner in value.values()):
            flat.update({f"{name}/{task}": metrics for task, metrics in value.items()})
        else:
            flat[name] = value
    return flat


def print_results(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Log a table of the metrics, and lines marked ``copypaste:`` for spreadsheets and scripts.

    Args:
        results: ``{task: {metric: value}}``, or ``{dataset: {task: {metric: value}}}``.
    """
    for task, metrics in _by_task(results).items():
        texts = {name: with_interval(name, value, None) for name, value in metrics.items()}
        rows = [{"metric": name, "value": text} for name, text in texts.items()]
        count = metrics.get("num_videos")
        rows = _with_intervals(rows, "95 % interval (Wilson)", [(*metric, count) for metric in metrics.items()])
        logger.info("Results of %s:\n%s", task, create_table(rows))
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(texts))
        logger.info("copypaste: %s", ",".join(texts.values()))


def verify_results(cfg: CfgNode, results: Mapping[str, Mapping[str, Any]]) -> bool:
    """Compare results with ``TEST.EXPECTED_RESULTS`` and log each line.

    Args:
        cfg: rows ``[task, metric, expected, tolerance]``; with several datasets the task reads ``"dataset/task"``.
        results: as for :func:`print_results`.

    Returns:
        Whether every expected metric is there and within its tolerance. True on ranks other than 0: they hold none.

    Raises:
        ValueError: a row of another form.
    """
    check_expected_results(cfg)
    if not comm.is_main_process():
        return True
    tasks = _by_task(results)
    all_good = True
    for task, metric, expected, tolerance in cfg.TEST.EXPECTED_RESULTS:
        actual = tasks.get(task, {}).get(metric, math.nan)
        # With a NaN this is false, as it should be.
        good = abs(actual - expected) <= tolerance
        all_good = all_good and good
        found = actual if metric in tasks.get(task, {}) else f"no such metric (tasks: {', '.join(tasks) or 'none'})"
        level, word = (logging.INFO, "ok") if good else (logging.ERROR, "MISMATCH")
        logger.log(level, "%s: %s %s: expected %s +- %s, got %s", word, task, metric, expected, tolerance, found)
    return all_good
