"""tools/score.py as a user runs it."""

import json
import sys
from functools import partial

import numpy as np
import pytest

from nlvideo.evaluation import EVALUATOR, Results, VideoScores, write_results


@pytest.fixture()
def score(call_tool):
    """``score(*arguments) -> (exit code, output, errors)``."""
    return partial(call_tool, "score")


@pytest.fixture()
def save(tmp_path):
    """``save(name, views or scores per video, labels, **fields) -> path`` writes a results file."""

    def write(name, rows, labels, **fields):
        arrays = [np.array(row, np.float32) for row in rows]
        videos = [
            VideoScores(f"v{i}", label, a if a.ndim == 1 else a.mean(axis=0), None if a.ndim == 1 else a)
            for i, (label, a) in enumerate(zip(labels, arrays))
        ]
        evaluator = "MultiLabelEvaluator" if isinstance(labels[0], list) else "ClassificationEvaluator"
        write_results(str(tmp_path / name), Results("toy", evaluator, 2, videos, **fields))
        return str(tmp_path / name)

    return write


def test_each_file_and_their_average(score, save, tmp_path):
    # Each is wrong about one video, and surer where it is right.
    a = save("a.json", [[0.9, 0.1], [0.6, 0.4]], [0, 1])
    b = save("b.json", [[0.4, 0.6], [0.1, 0.9]], [0, 1])
    out = tmp_path / "scores.json"
    status, text, _ = score(a, b, "--json", str(out))
    assert status == 0
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[2:]}
    assert [rows[name][0] for name in (a, b, "ensemble")] == ["50.00", "50.00", "100.00"]
    written = json.loads(out.read_text())
    assert list(written) == [a, b, "ensemble"]
    assert [metrics["top1"] for metrics in written.values()] == [50.0, 50.0, 100.0]
    score(a, b, "--weights", "1", "0", "--json", str(out))
    assert json.loads(out.read_text())["ensemble"] == written[a]


def test_a_single_file_has_no_ensemble(score, save):
    status, text, _ = score(save("a.json", [[0.9, 0.1], [0.6, 0.4]], [0, 1]))
    assert status == 0 and "ensemble" not in text and "top1" in text


def test_views_are_averaged_again(score, save, tmp_path):
    # Probabilities: means 0.55 and 0.45. Logits: the view that is sure of the second class outweighs the others.
    views = [[[0.85, 0.15], [0.79, 0.21], [0.01, 0.99]]]
    path, out = save("a.json", views, [1]), tmp_path / "scores.json"
    top1 = {}
    for average in ("softmax", "logits"):
        assert score(path, "--average", average, "--json", str(out))[0] == 0
        top1[average] = json.loads(out.read_text())[path]["top1"]
    assert top1 == {"softmax": 0.0, "logits": 100.0}


def test_files_without_views_are_named(score, save):
    path = save("a.json", [[0.9, 0.1]], [0])
    status, text, _ = score(path, "--average", "logits")
    assert status == 0 and f"{path}: no views were saved, its scores stay averaged by 'softmax'" in text


def test_multilabel_and_another_evaluator(score, save, tmp_path):
    path = save("a.json", [[0.9, 0.8], [0.5, 0.9], [0.95, 0.1]], [[0], [1, 0], []], activation="sigmoid")
    out = tmp_path / "scores.json"
    score(path, "--json", str(out))
    assert json.loads(out.read_text())[path]["mAP"] == pytest.approx(100 * ((1 / 2 + 2 / 3) / 2 + 1) / 2)
    score(path, "--evaluator", "CharadesEvaluator", "--json", str(out))
    assert json.loads(out.read_text())[path]["mAP"] == 100.0


def test_an_evaluator_of_a_project(score, save, tmp_path, monkeypatch):
    monkeypatch.setattr(EVALUATOR, "_objects", dict(EVALUATOR._objects))
    monkeypatch.setattr(sys, "path", list(sys.path))
    package = tmp_path / "count_project" / "count_evaluator"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from nlvideo.evaluation import EVALUATOR, PerVideoEvaluator\n"
        "@EVALUATOR.register()\n"
        "class CountOfVideos(PerVideoEvaluator):\n"
        "    task = 'count'\n"
        "    def metrics(self, videos):\n"
        "        return {'count': len(videos)}\n"
    )
    path, out = save("a.json", [[0.9, 0.1], [0.2, 0.8]], [0, 1]), tmp_path / "scores.json"
    plugin = ("--plugin", str(package.parent))
    status, _, err = score(path, "--evaluator", "CountOfVideos", *plugin, "--json", str(out))
    assert (status, json.loads(out.read_text())) == (0, {path: {"count": 2}}), err


def test_mistakes_are_one_line(score, save, tmp_path):
    a, b = save("a.json", [[0.9, 0.1]], [0]), save("b.json", [[0.9, 0.1], [0.2, 0.8]], [0, 1])
    (tmp_path / "c.json").write_text("{}")
    mistakes = [
        ([a, b], f"{a} and {b} are not tests of the same videos: only in {b}: 1 (v1)"),
        ([a, a, "--weights", "1"], "weights: got [1.0], allowed: one number for each of 2, 0 or more, not all 0"),
        ([str(tmp_path / "c.json")], "not a results file: 'format' is not 'nlvideo results'"),
        ([str(tmp_path / "d.json")], "No such file or directory"),
        ([a, "--evaluator", "ClasificationEvaluator"], "did you mean 'ClassificationEvaluator' or"),
    ]
    for arguments, message in mistakes:
        status, out, err = score(*arguments)
        assert status == 2 and message in err and err.count("\n") == 1 and out == "", (arguments, err)
