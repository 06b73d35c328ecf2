"""The results file: what is written is read again, to the bit, and what is not one is refused in one line."""

import json
import re

import numpy as np
import pytest
import torch

from nlvideo.config import get_cfg
from nlvideo.data import MetadataCatalog
from nlvideo.evaluation import Results, VideoScores, build_evaluator, evaluate_results, read_results, write_results
from nlvideo.evaluation.testing import format_per_class

RNG = np.random.default_rng(0)


def _results(**keywords):
    scores = (RNG.random((5, 7)) ** 9).astype(np.float32)
    videos = [VideoScores(f"v{i}", i, row, RNG.normal(size=(3, 7)).astype(np.float32)) for i, row in enumerate(scores)]
    videos[3] = VideoScores("v3", 3, None)
    metrics = {"classification": {"top1": 20.0, "num_videos": 5}}
    fields = {"dataset": "toy", "evaluator": "ClassificationEvaluator", "num_classes": 7, "videos": videos}
    return Results(**{**fields, "metrics": metrics, "average": "logits", **keywords})


def _same(a, b):
    assert (a is None) == (b is None)
    assert a is None or (a.dtype == b.dtype == np.float32 and np.array_equal(a, b))


def test_round_trip_is_exact(tmp_path):
    written = _results(per_class=[{"class": 0, "name": "juggling", "num_videos": 1, "accuracy": 100.0}])
    write_results(str(tmp_path / "a.json"), written)
    read = read_results(str(tmp_path / "a.json"))
    for name in ("dataset", "evaluator", "num_classes", "average", "activation", "metrics", "per_class"):
        assert getattr(read, name) == getattr(written, name), name
    for a, b in zip(read.videos, written.videos, strict=True):
        assert (a.video_id, a.label) == (b.video_id, b.label)
        _same(a.scores, b.scores)
        _same(a.views, b.views)


def test_every_float32_survives(tmp_path):
    bits = RNG.integers(0, 0x7F800000, 200_000, dtype=np.uint32)
    values = np.concatenate([bits.view(np.float32), [0, 1, 1e-45, 0.1, np.finfo(np.float32).max]]).astype(np.float32)
    videos = [VideoScores("v", 0, values, -values[None])]
    write_results(str(tmp_path / "a.json"), _results(videos=videos, num_classes=len(values)))
    (video,) = read_results(str(tmp_path / "a.json")).videos
    _same(video.scores, values)
    _same(video.views, -values[None])


def test_plain_json_with_one_line_per_video(tmp_path):
    write_results(str(tmp_path / "a.json"), _results())
    text = (tmp_path / "a.json").read_text()
    content = json.loads(text, parse_constant=pytest.fail)
    assert content["format"] == "nlvideo results" and content["version"] == 1
    assert len(text.splitlines()) == 5 + 2
    assert [list(row) for row in content["videos"]][2:4] == [["video_id", "label", "scores", "views"],
                                                             ["video_id", "label", "scores"]]  # fmt: skip


def test_metrics_may_be_numpys_numbers(tmp_path):
    metrics = {"classification": {"top1": np.float32(20.5), "num_videos": np.int64(5)}}
    write_results(str(tmp_path / "a.json"), _results(metrics=metrics))
    read = read_results(str(tmp_path / "a.json")).metrics["classification"]
    assert read == {"top1": 20.5, "num_videos": 5} and isinstance(read["num_videos"], int)


def test_no_videos(tmp_path):
    write_results(str(tmp_path / "a.json"), _results(videos=[]))
    assert read_results(str(tmp_path / "a.json")).videos == []


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: "", "not a results file: Expecting value"),
        (lambda text: "[1]", "not a results file: 'format' is not 'nlvideo results'"),
        (lambda text: '{"top1": 3}', "not a results file: 'format' is not 'nlvideo results'"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "version: got 2, allowed: 1"),
        (lambda text: text.replace('"average"', '"mean"'), "not a results file: 'average' is missing"),
        (lambda text: text.replace('"label": 2', '"label": 7'), "label of 'v2': got 7, allowed: 0 to 6"),
        (lambda text: text.replace('"label": 2', '"label": [1, -1]'), "label of 'v2': got [1, -1], allowed: 0 to 6"),
        (lambda text: json.dumps({**json.loads(text), "videos": 5}), "not a results file: 'videos' is not a list of"),
        (
            lambda text: json.dumps({**json.loads(text), "videos": ["a"]}),
            "not a results file: 'videos' is not a list of",
        ),
        (lambda text: text.replace('"label"', '"class_"'), "not a results file: 'label' is missing"),
        (
            lambda text: text.replace('"num_classes": 7', '"num_classes": 6'),
            "scores of 'v0': got shape (7,), num_classes 6",
        ),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, change, message):
    path = tmp_path / "a.json"
    write_results(str(path), _results())
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: {re.escape(message)}") as caught:
        read_results(str(path))
    assert "\n" not in str(caught.value)


def _evaluate(tmp_path, loss, average, labels, keep_views=True):
    """Test ten random videos with two views; return the metrics and the file."""
    cfg = get_cfg()
    cfg.merge_from_list(["OUTPUT_DIR", str(tmp_path), "MODEL.HEAD.LOSS", loss, "TEST.AVERAGE", average])
    cfg.MODEL.HEAD.NUM_CLASSES = 7
    evaluator = build_evaluator(cfg, "toy")
    for index, label in enumerate(labels):
        views = torch.rand(2, 7)
        output = {"video_id": str(index), "scores": views.mean(0), **({"views": views} if keep_views else {})}
        evaluator.process([{"label": label, "video_id": str(index)}], [output])
    (metrics,) = evaluator.evaluate().values()
    return metrics, read_results(str(tmp_path / "inference" / "toy.json"))


@pytest.mark.parametrize("average", ["softmax", "logits"])
@pytest.mark.parametrize(
    "loss, labels", [("softmax", [0, 1, 2, 3, 4, 5, 5, 5]), ("sigmoid", [[0, 6], [1], [], [2, 3]])]
)
def test_the_file_of_a_test_scores_the_same(tmp_path, loss, labels, average):
    metrics, results = _evaluate(tmp_path, loss, average, labels)
    assert evaluate_results(results) == metrics == next(iter(results.metrics.values()))
    assert (results.average, results.activation) == (average, loss)
    assert all(video.views.shape == (2, 7) for video in results.videos)
    assert [row["num_videos"] for row in results.per_class] == [
        sum(k == label if isinstance(label, int) else k in label for label in labels) for k in range(7)
    ]


def test_views_are_saved_only_where_the_model_gives_them(tmp_path):
    _, results = _evaluate(tmp_path, "softmax", "softmax", [0, 1], keep_views=False)
    assert [video.views for video in results.videos] == [None, None]


def test_each_class_is_logged_by_name(tmp_path, caplog):
    MetadataCatalog.get("toy").classes = ["run", "walk", "jump"]
    try:
        with caplog.at_level("INFO", logger="nlvideo"):
            _, results = _evaluate(tmp_path, "sigmoid", "softmax", [[0], [0, 2], [4]])
    finally:
        MetadataCatalog.get("toy").classes = []
    assert [row["name"] for row in results.per_class] == ["run", "walk", "jump", "", "", "", ""]
    assert [row["AP"] is None for row in results.per_class] == [False, True, False, True, False, True, True]
    assert "AP of each class of toy" in caplog.text and "run" in caplog.text and "walk" not in caplog.text


def test_of_many_classes_the_best_and_the_worst_are_shown():
    rows = [{"class": k, "name": f"name{k}", "num_videos": 1, "AP": float(k % 30)} for k in range(60)]
    shown = [int(k) for k in re.findall(r"name(\d+)", format_per_class(rows))]
    assert shown == [29, 59, 28, 58, 27, 57, 26, 56, 25, 55, 4, 34, 3, 33, 2, 32, 1, 31, 0, 30]
    assert "... 40 more ..." in format_per_class(rows)
    assert len(re.findall("name", format_per_class(rows[:20]))) == 20 + 1


def test_where_a_video_is_survives(tmp_path):
    source = {"file_name": "/videos/a b.mp4", "start_sec": 0.0, "end_sec": 2.5}
    videos = [VideoScores("a", 0, np.ones(7, np.float32), None, source), VideoScores("b", 1, None)]
    write_results(str(tmp_path / "a.json"), _results(videos=videos))
    assert [video.source for video in read_results(str(tmp_path / "a.json")).videos] == [source, {}]
    row = json.loads((tmp_path / "a.json").read_text())["videos"][0]
    assert row["file_name"] == "/videos/a b.mp4" and "fps" not in row


def test_evaluators_keep_where_a_video_is(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.MODEL.HEAD.NUM_CLASSES = str(tmp_path), 2
    evaluator = build_evaluator(cfg, "toy")
    inputs = [{"video_id": "a", "label": 0, "file_name": "/a", "fps": 5}, {"video_id": "b", "label": 0, "failed": True}]
    evaluator.process(inputs, [{"video_id": "a", "scores": torch.tensor([0.5, 0.5])}])
    evaluator.evaluate()
    videos = read_results(str(tmp_path / "inference" / "toy.json")).videos
    assert [video.source for video in videos] == [{"file_name": "/a", "fps": 5}, {}]
