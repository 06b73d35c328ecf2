"""Confusions, mistakes and classes, against counting by hand."""

import numpy as np
import pytest

from nlvideo.evaluation.results_file import Results, VideoScores
from nlvideo.visualization.report.results import (
    class_names,
    confusion,
    mistakes,
    most_confused,
    per_class_metric,
    per_class_table,
    worst_and_best,
)


def results(rows, num_classes=3, per_class=()):
    """Of (label, scores or None)."""
    videos = [
        VideoScores(f"v{i}", label, None if scores is None else np.array(scores, np.float32))
        for i, (label, scores) in enumerate(rows)
    ]
    return Results("toy", "E", num_classes, videos, per_class=list(per_class))


ROWS = [(0, [0.8, 0.1, 0.1]), (0, [0.3, 0.6, 0.1]), (1, [0.9, 0.1, 0.0]), (1, [0.0, 0.0, 1.0]), (2, None),
        (2, [float("nan")] * 3), (0, [0.1, 0.7, 0.2])]  # fmt: skip


def test_confusion_counts_rows_as_true_classes():
    found = confusion(results(ROWS))
    assert found.counts.tolist() == [[1, 2, 0], [1, 0, 1], [0, 0, 0]]
    assert found.names == ["0", "1", "2"] and found.left_out == 0 and found.num_unusable == 2


def test_confusion_equals_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 6, 200).tolist(), rng.random((200, 6))
    found = confusion(results(list(zip(labels, scores)), 6))
    expected = metrics.confusion_matrix(labels, scores.argmax(1), labels=range(6))
    assert (found.counts == expected).all()


def test_no_confusion_without_scores_or_with_several_labels():
    assert confusion(results([(0, None)])) is None
    assert confusion(results([([0, 1], [1, 0, 0])])) is None
    assert most_confused(results([([0, 1], [1, 0, 0])])) == []


def test_of_many_classes_those_with_confusions_stay():
    rows = [(k, np.eye(50)[k]) for k in range(50)] + [(7, np.eye(50)[40])] * 3 + [(40, np.eye(50)[41])]
    found = confusion(results(rows, 50), max_classes=4)
    assert found.names == ["0", "7", "40", "41"] and found.left_out == 46
    assert found.counts.tolist() == [[1, 0, 0, 0], [0, 1, 3, 0], [0, 0, 1, 1], [0, 0, 0, 1]]


def test_most_confused():
    rows = most_confused(results(ROWS), count=2)
    assert rows[0] == {"true": "0", "predicted": "1", "videos": 2, "of": 3, "share": pytest.approx(200 / 3)}
    assert len(rows) == 2 and rows[1]["videos"] == 1
    assert most_confused(results([(0, [1, 0, 0])])) == []


def test_the_most_confident_mistakes_come_first():
    found = mistakes(results(ROWS), 10)
    assert [(m.video.video_id, m.predicted) for m in found] == [("v3", 2), ("v2", 0), ("v6", 1), ("v1", 1)]
    assert found[1].score == pytest.approx(0.9) and found[1].right_score == pytest.approx(0.1)
    assert [m.video.video_id for m in mistakes(results(ROWS), 1)] == ["v3"]


def test_mistakes_with_several_labels_are_wrong_classes_above_one_half():
    rows = [([0, 1], [0.2, 0.9, 0.8]), ([2], [0.4, 0.4, 0.1]), ([], [0.1, 0.6, 0.2]), ([0, 1, 2], [0.9, 0.9, 0.9])]
    found = mistakes(results(rows), 5)
    assert [(m.video.video_id, m.predicted, m.right_score) for m in found] == [
        ("v0", 2, pytest.approx(0.9)), ("v2", 1, None)
    ]  # fmt: skip


def test_names_fall_back_on_numbers():
    rows = [{"class": 0, "name": "jump"}, {"class": 1, "name": ""}]
    assert class_names(results([], per_class=rows)) == ["jump", "1", "2"]


def test_table_of_classes():
    first = results([], per_class=[{"class": k, "name": "abc"[k], "num_videos": n, "accuracy": a}
                                   for k, (n, a) in enumerate([(2, 50.0), (0, None), (3, 100.0)])])  # fmt: skip
    second = results([], per_class=[])
    assert per_class_metric(first) == "accuracy" and per_class_metric(second) is None
    assert per_class_table([second, first]) == [
        {"name": "a", "videos": 2, "values": [None, 50.0]}, {"name": "c", "videos": 3, "values": [None, 100.0]}
    ]  # fmt: skip
    assert per_class_table([second]) == []


def test_of_many_classes_the_worst_and_the_best_are_shown():
    few = [{"name": str(k), "videos": 1, "values": [float(-k)]} for k in range(20)]
    assert worst_and_best(few) == (few, [])
    many = [{"name": str(k), "videos": 1, "values": [float(100 - k), None]} for k in range(50)]
    shown, folded = worst_and_best(many)
    assert [row["name"] for row in shown] == [str(k) for k in [*range(49, 39, -1), *range(9, -1, -1)]]
    assert len(folded) == 30
