"""Confidence intervals of accuracies."""

import logging
from math import comb

import pytest

from nlvideo.evaluation import print_results
from nlvideo.evaluation.testing import format_per_class, interval_text, wilson_interval, with_interval


@pytest.mark.parametrize(
    "right, videos, expected",
    [
        (8, 10, (49.02, 94.33)),
        (0, 10, (0, 27.75)),
        (10, 10, (72.25, 100)),
        (31, 37, (68.86, 92.35)),
        (1, 1, (20.65, 100)),
    ],
)
def test_values_of_the_literature(right, videos, expected):
    """8 of 10 and 0 of 10 as in R's ``prop.test(x, n, correct = FALSE)``."""
    assert wilson_interval(100 * right / videos, videos) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.84])
def test_it_holds_the_truth_as_often_as_it_says(share):
    videos = 40
    held = 0.0
    for right in range(videos + 1):
        low, high = wilson_interval(100 * right / videos, videos)
        if low <= 100 * share <= high:
            held += comb(videos, right) * share**right * (1 - share) ** (videos - right)
    assert 0.92 < held < 0.98


def test_only_shares_of_videos_have_one():
    assert interval_text("classification/top1", 80.0, 10.0) == "49.0 to 94.3"
    for metric, value, count in [("mAP", 50.0, 10), ("mean_class", 50.0, 10), ("top1", None, 10), ("top1", 50.0, None),
                                 ("top1", 50.0, 0), ("top5", float("nan"), 10)]:  # fmt: skip
        assert interval_text(metric, value, count) == ""
    assert with_interval("mAP", 50.0, 10) == "50.00" and with_interval("top5", 80.0, 10) == "80.00 (49.0 to 94.3)"


def test_the_log_says_it(caplog):
    with caplog.at_level(logging.INFO, logger="nlvideo"):
        print_results({"classification": {"top1": 80.0, "mean_class": 75.0, "num_videos": 10}, "other": {"mAP": 1.0}})
    table, *_, other, _, _, _ = [record.getMessage() for record in caplog.records]
    rows = [line.split() for line in table.splitlines()]
    assert ["metric", "value", "95", "%", "interval", "(Wilson)"] in rows
    assert ["top1", "80", "49.0", "to", "94.3"] in rows and ["mean_class", "75"] in rows
    assert "interval" not in other


def test_classes_have_one_each():
    rows = [{"class": 0, "name": "left", "num_videos": 10, "accuracy": 80.0}]
    assert format_per_class(rows).splitlines()[-1].split()[-3:] == ["49.0", "to", "94.3"]
    rows = [{"class": 0, "name": "left", "num_videos": 10, "AP": 80.0}]
    assert "interval" not in format_per_class(rows)
