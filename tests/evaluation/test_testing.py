"""Printing results and comparing them with expectations."""

import logging

import numpy as np
import pytest

from nlvideo.config import get_cfg
from nlvideo.evaluation import print_results, testing, verify_results
from nlvideo.evaluation.testing import with_interval

_RESULTS = {"classification": {"top1": 71.234, "top5": 90.0, "num_videos": 4}}


def _cfg(*rows):
    cfg = get_cfg()
    cfg.TEST.EXPECTED_RESULTS = list(rows)
    return cfg


def _printed(caplog, results):
    with caplog.at_level(logging.INFO, logger="nlvideo"):
        print_results(results)
    return caplog.text


def test_table_and_copypaste_lines(caplog):
    _printed(caplog, _RESULTS)
    table, task, names, values = [record.getMessage() for record in caplog.records]
    assert table.startswith("Results of classification:\n")
    assert ["top1", "71.23", "27.5", "to", "94.2"] in [line.split() for line in table.splitlines()]
    assert ["num_videos", "4"] in [line.split() for line in table.splitlines()]
    assert task == "copypaste: Task: classification"
    assert names == "copypaste: top1,top5,num_videos"
    assert values == "copypaste: 71.23,90.00,4"


def test_counts_of_numpy_are_whole(caplog):
    assert "copypaste: 3" in _printed(caplog, {"own": {"num_videos": np.int64(3)}}).splitlines()[-1]
    assert with_interval("num_videos", np.int64(3), None) == "3"


def test_several_datasets(caplog):
    text = _printed(caplog, {"a_val": _RESULTS, "b_val": {"multilabel": {"mAP": 1.0}}})
    assert "Task: a_val/classification" in text and "Task: b_val/multilabel" in text


def test_no_results_print_nothing(caplog):
    assert _printed(caplog, {}) == ""


def test_no_expectations_are_met():
    assert verify_results(_cfg(), _RESULTS) is True


@pytest.mark.parametrize(
    "expected, tolerance, good", [(71.2, 0.1, True), (71.234, 0, True), (71.0, 0.2, False), (72, 0.5, False)]
)
def test_within_tolerance(expected, tolerance, good, caplog):
    with caplog.at_level(logging.INFO, logger="nlvideo"):
        assert verify_results(_cfg(["classification", "top1", expected, tolerance]), _RESULTS) is good
    word = "ok" if good else "MISMATCH"
    assert f"{word}: classification top1: expected {expected} +- {tolerance}, got 71.234" in caplog.text


def test_every_row_is_checked(caplog):
    expected = (("top5", 10.0, 1.0), ("top1", 71.2, 1.0), ("top5", 90, 0))
    rows = [["classification", *row] for row in expected]
    with caplog.at_level(logging.INFO, logger="nlvideo"):
        assert verify_results(_cfg(*rows), _RESULTS) is False
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO", "INFO"]


@pytest.mark.parametrize("task, metric", [("classification", "top2"), ("detection", "top1")])
def test_a_missing_metric_is_a_mismatch(task, metric, caplog):
    assert verify_results(_cfg([task, metric, 0.0, 100.0]), _RESULTS) is False
    assert "got no such metric (tasks: classification)" in caplog.text


def test_nan_is_a_mismatch():
    nan = {"classification": {"top1": float("nan")}}
    assert verify_results(_cfg(["classification", "top1", 0.0, 1000.0]), nan) is False


def test_a_dataset_among_several():
    results = {"a": {"classification": {"top1": 10.0}}, "b": {"classification": {"top1": 20.0}}}
    assert verify_results(_cfg(["b/classification", "top1", 20.0, 0.0]), results) is True
    assert verify_results(_cfg(["a/classification", "top1", 20.0, 0.0]), results) is False


def test_other_ranks_have_nothing_to_compare(monkeypatch):
    monkeypatch.setattr(testing.comm, "is_main_process", lambda: False)
    assert verify_results(_cfg(["classification", "top1", 10.0, 0.0]), {}) is True


@pytest.mark.parametrize("row", [["classification", "top1", 10.0], ["classification", "top1", "70", 1.0]])
def test_malformed_expectations(row):
    with pytest.raises(
        ValueError, match=r"TEST.EXPECTED_RESULTS: got \['classification', 'top1'.*allowed: rows \[task"
    ):
        verify_results(_cfg(row), _RESULTS)
