"""Accuracy of single-label videos, and what all per-video evaluators share."""

import json
import logging

import numpy as np
import pytest
import torch

from nlvideo.config import get_cfg
from nlvideo.evaluation import (
    EVALUATOR,
    ClassificationEvaluator,
    PerVideoEvaluator,
    build_evaluator,
    evaluate_results,
    read_results,
)
from nlvideo.evaluation.evaluator import rank_of_label


def _feed(evaluator, rows, start=0):
    """Rows are (label, scores); scores None: the video could not be decoded."""
    for index, (label, scores) in enumerate(rows, start):
        name = f"video{index:03d}"
        inputs = [{"video": None, "label": label, "video_id": name, "failed": scores is None}]
        outputs = [] if scores is None else [{"video_id": name, "scores": torch.tensor(scores)}]
        evaluator.process(inputs, outputs)
    return evaluator


def _metrics(rows, num_classes=6, **keywords):
    return _feed(ClassificationEvaluator("toy", num_classes, **keywords), rows).evaluate()["classification"]


# The class at position k has rank k.
_FALLING = [0.5, 0.2, 0.1, 0.09, 0.06, 0.05]


def test_rank_of_label_counts_better_classes_and_earlier_ties():
    scores = np.array([_FALLING, _FALLING, [1, 1, 1, 1, 1, 1], [0, 2, 2, 3, 0, 0]], dtype=float)
    assert rank_of_label(scores, np.array([0, 5, 2, 2])).tolist() == [0, 5, 2, 2]


def test_hand_made_accuracies():
    # Ranks 0, 0, 4, 5; per class 0: 2 of 2, class 4: 0 of 1, class 5: 0 of 1.
    metrics = _metrics([(0, _FALLING), (0, _FALLING), (4, _FALLING), (5, _FALLING)])
    assert metrics == {
        "top1": 50.0,
        "top5": 75.0,
        "mean_class": pytest.approx(100 / 3),
        "loss": pytest.approx(-np.log([0.5, 0.5, 0.06, 0.05]).mean()),
        "num_videos": 4,
        "num_failed": 0,
    }


def test_a_failed_video_counts_as_wrong():
    metrics = _metrics([(0, _FALLING), (0, None), (1, None), (2, _FALLING)])
    assert metrics["top1"] == 25.0 and metrics["top5"] == 50.0
    assert metrics["mean_class"] == pytest.approx(100 * (0.5 + 0 + 0) / 3)
    assert (metrics["num_videos"], metrics["num_failed"]) == (4, 2)


def test_all_videos_failed():
    metrics = _metrics([(0, None), (1, None)])
    assert (metrics["top1"], metrics["top5"], metrics["mean_class"], metrics["num_failed"]) == (0, 0, 0, 2)


def test_fewer_than_five_classes():
    metrics = _metrics([(1, [0.9, 0.1]), (0, None)], num_classes=2)
    assert (metrics["top1"], metrics["top5"]) == (0.0, 50.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_count_as_wrong(bad, caplog):
    with caplog.at_level(logging.WARNING, logger="nlvideo"):
        metrics = _metrics([(0, [bad] * 6), (0, _FALLING)])
    assert metrics["top1"] == 50.0 and metrics["top5"] == 50.0 and metrics["num_failed"] == 1
    assert "toy: 1 of 2 videos have scores that are not finite and count as wrong: video000" in caplog.text


def test_failed_videos_are_listed(caplog):
    with caplog.at_level(logging.WARNING, logger="nlvideo"):
        _metrics([(0, _FALLING)] + [(0, None)] * 25)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("toy: 25 of 26 videos could not be decoded and count as wrong: video001, video002")
    assert line.endswith("video020 and 5 more")


def test_labels_may_be_tensors_and_several_videos_come_at_once():
    evaluator = ClassificationEvaluator("toy", 6)
    names = ["a", "b", "c"]
    inputs = [{"label": torch.tensor(label), "video_id": name} for label, name in zip((0, 1, 0), names)]
    inputs[1]["failed"] = True
    evaluator.process(inputs, [{"video_id": name, "scores": torch.tensor(_FALLING)} for name in ("a", "c")])
    assert evaluator.evaluate()["classification"]["top1"] == pytest.approx(200 / 3)


def test_reset_forgets():
    evaluator = _feed(ClassificationEvaluator("toy", 6), [(0, _FALLING)])
    evaluator.reset()
    with pytest.raises(ValueError, match="dataset 'toy': no video was evaluated"):
        evaluator.evaluate()


@pytest.mark.parametrize("answered", [[], ["b"], ["a", "b"], ["b", "a"]])
def test_outputs_must_belong_to_the_inputs(answered):
    evaluator = ClassificationEvaluator("toy", 6)
    inputs = [{"label": 0, "video_id": "a"}, {"label": 0, "video_id": "b", "failed": True}]
    with pytest.raises(ValueError, match=r"outputs: got scores of .*, allowed: .* \['a'\]"):
        evaluator.process(inputs, [{"video_id": name, "scores": torch.tensor(_FALLING)} for name in answered])


def test_scores_of_another_number_of_classes():
    with pytest.raises(ValueError, match=r"scores of 'video000': got shape \(2,\), allowed: \(6,\)"):
        _metrics([(0, [0.5, 0.5])])


@pytest.mark.parametrize("label", [6, -1])
def test_labels_out_of_range(label):
    with pytest.raises(ValueError, match=f"label of 'video000': got {label}, allowed: 0 to 5"):
        _metrics([(label, _FALLING)])


def test_several_labels_need_the_other_evaluator():
    with pytest.raises(ValueError, match=r"label of 'video000': got \[0, 2\], allowed: one class .*MultiLabel"):
        _metrics([([0, 2], _FALLING)])


def test_results_file(tmp_path):
    metrics = _metrics([(3, _FALLING), (1, None), (0, [float("nan")] * 6)], output_dir=str(tmp_path))
    (path,) = (tmp_path / "inference").iterdir()
    assert path.name == "toy.json"
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert content["dataset"] == "toy" and content["classification"] == metrics
    assert content["videos"] == [
        {"video_id": "video000", "label": 3, "scores": pytest.approx(_FALLING, rel=1e-6)},
        {"video_id": "video001", "label": 1, "scores": None},
        {"video_id": "video002", "label": 0, "scores": None},
    ]
    assert content["per_class"][:2] == [
        {"class": 0, "name": "", "num_videos": 1, "accuracy": 0.0},
        {"class": 1, "name": "", "num_videos": 1, "accuracy": 0.0},
    ]
    assert content["per_class"][2] == {"class": 2, "name": "", "num_videos": 0, "accuracy": None}


@pytest.mark.parametrize("name, file", [("list:a/b.csv", "list_a_b.csv.json"), ("folder:/x y/", "folder_x_y.json")])
def test_results_file_of_a_dataset_with_a_path_as_its_name(tmp_path, name, file):
    _feed(ClassificationEvaluator(name, 6, str(tmp_path)), [(0, _FALLING)]).evaluate()
    assert [path.name for path in (tmp_path / "inference").iterdir()] == [file]


def test_results_file_of_a_dataset_with_a_long_name(tmp_path):
    names = ["é" * 130 + end for end in "ab"]
    for name in names:
        _feed(ClassificationEvaluator(name, 6, str(tmp_path)), [(0, _FALLING)]).evaluate()
    files = list((tmp_path / "inference").iterdir())
    assert sorted(read_results(str(path)).dataset for path in files) == names
    assert all(path.name.startswith("é" * 60 + "_") and len(path.name) == 74 for path in files)


def test_the_file_does_not_depend_on_the_order_of_the_videos(tmp_path):
    texts = []
    for order in (0, 1):
        evaluator = ClassificationEvaluator("toy", 6, str(tmp_path / str(order)))
        for index in (0, 1, 2)[:: 1 - 2 * order]:
            _feed(evaluator, [(index, _FALLING)], start=index)
        evaluator.evaluate()
        texts.append((tmp_path / str(order) / "inference" / "toy.json").read_text())
    assert texts[0] == texts[1]


def test_a_failed_write_keeps_the_earlier_results(tmp_path, monkeypatch):
    _metrics([(0, _FALLING)], output_dir=str(tmp_path))
    path = tmp_path / "inference" / "toy.json"
    before = path.read_text()
    monkeypatch.setattr("nlvideo.evaluation.results_file.json.dumps", lambda content: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _metrics([(1, _FALLING)], output_dir=str(tmp_path))
    assert path.read_text() == before and len(list(path.parent.iterdir())) == 1


def test_built_from_a_config(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.MODEL.HEAD.NUM_CLASSES = 6
    evaluator = build_evaluator(cfg, "toy")
    assert type(evaluator) is ClassificationEvaluator
    _feed(evaluator, [(0, _FALLING)]).evaluate()
    assert (tmp_path / "inference" / "toy.json").exists()


def test_a_subclass_needs_a_task_and_metrics_only():
    class CountEvaluator(PerVideoEvaluator):
        """Counts."""

        task = "count"

        def metrics(self, videos):
            """Count."""
            return {"n": len(videos)}

    assert _feed(CountEvaluator("toy", 6), [(0, _FALLING)] * 3).evaluate() == {"count": {"n": 3}}


def test_the_file_names_the_evaluator_as_it_is_registered(tmp_path, monkeypatch):
    class Mine(ClassificationEvaluator):
        """Another class."""

    monkeypatch.setitem(EVALUATOR._objects, "my_accuracy", Mine)
    _feed(Mine("toy", 6, output_dir=str(tmp_path)), [(0, _FALLING)]).evaluate()
    results = read_results(str(tmp_path / "inference" / "toy.json"))
    assert results.evaluator == "my_accuracy" and evaluate_results(results)["top1"] == 100.0
