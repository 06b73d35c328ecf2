"""Print results, and compare them with what a configuration expects."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from nlvideo.config import CfgNode
from nlvideo.evaluation.intervals import interval_text
from nlvideo.utils import comm
from nlvideo.utils.console import create_table

logger = logging.getLogger(__name__)


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

    Accuracies stand with their 95 % confidence intervals, see ``wilson_interval``.

    Args:
        results: ``{task: {metric: value}}``, or ``{dataset: {task: {metric: value}}}``.
    """
    for task, metrics in _by_task(results).items():
        texts = {name: str(value) if isinstance(value, int) else f"{value:.2f}" for name, value in metrics.items()}
        rows = [{"metric": name, "value": text} for name, text in texts.items()]
        intervals = [interval_text(name, value, metrics.get("num_videos")) for name, value in metrics.items()]
        if any(intervals):
            rows = [{**row, "95 % interval (Wilson)": interval} for row, interval in zip(rows, intervals)]
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
    rows = [_check_row(row) for row in cfg.TEST.EXPECTED_RESULTS]
    if not comm.is_main_process():
        return True
    tasks = _by_task(results)
    all_good = True
    for task, metric, expected, tolerance in rows:
        actual = tasks.get(task, {}).get(metric, math.nan)
        # A NaN compares false, as it should.
        good = abs(actual - expected) <= tolerance
        all_good = all_good and good
        found = actual if metric in tasks.get(task, {}) else f"no such metric (tasks: {', '.join(tasks) or 'none'})"
        level, word = (logging.INFO, "ok") if good else (logging.ERROR, "MISMATCH")
        logger.log(level, "%s: %s %s: expected %s +- %s, got %s", word, task, metric, expected, tolerance, found)
    return all_good


def _check_row(row: Any) -> tuple[str, str, float, float]:
    if len(row) == 4:
        task, metric, expected, tolerance = row
        if all(isinstance(number, (int, float)) for number in (expected, tolerance)):
            return str(task), str(metric), expected, tolerance
    raise ValueError(f"TEST.EXPECTED_RESULTS: got {row!r}, allowed: [task, metric, expected number, tolerance]")
