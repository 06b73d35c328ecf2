"""Averages of saved scores: against the definition, and against a model that averages by itself."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from nlvideo.config import get_cfg
from nlvideo.evaluation import (
    EVALUATOR,
    Evaluator,
    Results,
    VideoScores,
    average_scores,
    build_evaluator,
    ensemble,
    evaluate_results,
    rescore,
)

RNG = np.random.default_rng(0)


def _activate(logits, activation):
    logits = torch.as_tensor(logits)
    return (logits.softmax(-1) if activation == "softmax" else logits.sigmoid()).numpy()


@pytest.mark.parametrize("weights", [None, [1, 1, 1], [2, 0.5, 0]])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("given", ["softmax", "logits"])
@pytest.mark.parametrize("average", ["softmax", "logits"])
def test_averages_by_definition_whatever_is_given(average, given, activation, weights):
    logits = RNG.normal(size=(3, 6)) * 4
    share = np.array(weights or [1, 1, 1]) / sum(weights or [1, 1, 1])
    if average == "softmax":
        expected = share @ _activate(logits, activation)
    else:
        expected = _activate(share @ logits, activation)
    rows = logits if given == "logits" else _activate(logits, activation).astype(np.float32)
    mean = average_scores(rows, average, given=given, activation=activation, weights=weights)
    assert mean.dtype == np.float32 and np.allclose(mean, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_certain_and_huge_scores_stay_finite(activation):
    rows = np.array([[1.0, 0.0], [0.5, 0.5]])
    mean = average_scores(rows, "logits", given="softmax", activation=activation)
    assert np.isfinite(mean).all() and mean[0] > 0.99 and mean[1] < 0.01
    mean = average_scores(np.array([[1e4, -1e4]]), "softmax", given="logits", activation=activation)
    assert mean.tolist() == [1.0, 0.0]


def test_unknown_averages():
    with pytest.raises(ValueError, match="average: got 'max', allowed: 'softmax', 'logits'"):
        average_scores(np.ones((1, 2)), "max", given="softmax", activation="softmax")
    with pytest.raises(ValueError, match="given: got 'max', allowed: 'softmax', 'logits'"):
        average_scores(np.ones((1, 2)), "softmax", given="max", activation="softmax")


def _results(scores, labels=None, **keywords):
    """One video per row of scores; a row may be None."""
    labels = range(len(scores)) if labels is None else labels
    rows = [None if row is None else np.array(row, np.float32) for row in scores]
    videos = [VideoScores(f"v{i}", label, row) for i, (label, row) in enumerate(zip(labels, rows))]
    return Results(**{"dataset": "toy", "evaluator": "ClassificationEvaluator", "num_classes": 3, "videos": videos,
                      **keywords})  # fmt: skip


A = [[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.8, 0.1, 0.1]]
B = [[0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]


def test_an_ensemble_is_the_weighted_mean():
    both = ensemble([_results(A), _results(B)], [1, 3])
    expected = (np.array(A) + 3 * np.array(B)) / 4
    assert np.allclose([video.scores for video in both.videos], expected, atol=1e-6)
    assert [video.label for video in both.videos] == [0, 1, 2]
    tops = [evaluate_results(ensemble([_results(A), _results(B)], w))["top1"] for w in ([1, 0], [0, 1], [1, 1])]
    assert tops == pytest.approx([100 / 3, 200 / 3, 100 / 3])


def test_an_ensemble_by_logits_is_the_geometric_mean():
    both = ensemble([_results(A), _results(B)], [1, 1], "logits")
    expected = np.sqrt(np.array(A) * B)
    expected /= expected.sum(axis=1, keepdims=True)
    assert np.allclose([video.scores for video in both.videos], expected, atol=1e-6)


def test_the_order_of_the_videos_does_not_matter():
    shuffled = _results(B)
    shuffled = Results(**{**vars(shuffled), "videos": shuffled.videos[::-1]})
    expected, mixed = (ensemble([_results(A), other], [1, 1]) for other in (_results(B), shuffled))
    for a, b in zip(expected.videos, mixed.videos, strict=True):
        assert a.video_id == b.video_id and np.array_equal(a.scores, b.scores)


def test_a_video_that_one_model_failed_on_is_averaged_over_the_others():
    both = ensemble([_results([None, A[1], None]), _results([B[0], None, None])], [1, 3])
    assert np.allclose(both.videos[0].scores, B[0]) and np.allclose(both.videos[1].scores, A[1])
    assert both.videos[2].scores is None and evaluate_results(both)["num_failed"] == 1


def test_a_video_that_is_there_twice_is_one_line():
    twice = _results(A)
    twice = replace(twice, videos=[*twice.videos, twice.videos[1]])
    with pytest.raises(ValueError, match="^two: these videos are there more than once: v1$"):
        ensemble([_results(A), twice], [1, 1], names=["one", "two"])


@pytest.mark.parametrize(
    "other, message",
    [
        (_results(A[:2]), "only in one: 1 (v2)"),
        (_results(A + A), "only in two: 3 (v3, v4, v5)"),
        (_results(A + A + A), "only in two: 6 (v3, v4, v5, v6 and 2 more)"),
        (_results(A, labels=[0, 2, 1]), "other labels: 2 (v1, v2)"),
        (_results(A[:2], labels=[1, 1]), "only in one: 1 (v2); other labels: 1 (v0)"),
        (_results(A, num_classes=4), "num_classes 3 and 4"),
        (_results(A, activation="sigmoid"), "activation 'softmax' and 'sigmoid'"),
    ],
)
def test_different_videos_are_one_line(other, message):
    with pytest.raises(ValueError) as caught:
        ensemble([_results(A), _results(B), other], [1, 1, 1], names=["one", "same", "two"])
    assert str(caught.value) == f"one and two are not tests of the same videos: {message}"


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, float("inf")], [float("nan"), 1], [1, 2, 3]])
def test_weights_that_do_not_fit(weights):
    allowed = "allowed: one number for each of 2, 0 or more, not all 0"
    with pytest.raises(ValueError, match=f"weights: got {re.escape(str(weights))}, {allowed}"):
        ensemble([_results(A), _results(B)], weights)


@pytest.mark.parametrize("given", ["softmax", "logits"])
@pytest.mark.parametrize("average", ["softmax", "logits"])
def test_views_are_averaged_again(given, average):
    views = RNG.normal(size=(3, 4, 3)).astype(np.float32)
    saved = views if given == "logits" else _activate(views, "softmax")
    videos = [VideoScores(f"v{i}", 0, np.ones(3, np.float32), rows) for i, rows in enumerate(saved)]
    results = rescore(_results([], average=given, videos=[*videos, VideoScores("v3", 0, None)]), average)
    mean = _activate(views, "softmax").mean(1) if average == "softmax" else _activate(views.mean(1), "softmax")
    assert results.average == average and results.videos[3].scores is None
    assert np.allclose([video.scores for video in results.videos[:3]], mean, atol=1e-6)


def test_without_views_the_scores_stay():
    results = rescore(_results(A), "logits")
    assert results.average == "softmax"
    assert np.allclose([video.scores for video in results.videos], A)


def test_another_evaluator_scores_the_same_file():
    results = _results(A, labels=[[0], [1, 2], []], evaluator="MultiLabelEvaluator")
    # Class 0: after the video without labels; class 1: first; class 2: one of three equal ones.
    assert evaluate_results(results)["mAP"] == pytest.approx(100 * (1 / 2 + 1 + 1 / 3) / 3)
    assert evaluate_results(results, "CharadesEvaluator")["mAP"] == pytest.approx(100 * (1 + 1 + 1 / 2) / 3)
    with pytest.raises(KeyError, match="unknown EVALUATOR 'CharadeEvaluator': did you mean 'CharadesEvaluator'"):
        evaluate_results(results, "CharadeEvaluator")
    with pytest.raises(ValueError, match="label of 'v0'"):
        evaluate_results(results, "ClassificationEvaluator")


@pytest.fixture()
def registered(monkeypatch):
    """``registered(cls) -> its name``: an evaluator that is there for one test."""

    def register(cls):
        monkeypatch.setitem(EVALUATOR._objects, cls.__name__, cls)
        return cls.__name__

    return register


class Seen(Evaluator):
    """Written from the docstrings of the registry and the base class alone: keeps what it gets."""

    def reset(self):
        self.calls, self.videos = [], []

    def process(self, inputs, outputs):
        self.videos += inputs
        self.calls += outputs

    def evaluate(self):
        right = sum(int(output["scores"].argmax()) == 1 for output in self.calls)
        return {"seen": {"right": 100.0 * right / len(self.videos), "classes": float(self.num_classes)}}


def test_a_minimal_evaluator_gets_saved_results_as_a_test_gives_them(registered):
    name = registered(Seen)
    assert evaluate_results(_results([A[0], None, B[0], B[1]]), name) == {"right": 50.0, "classes": 3.0}
    cfg = get_cfg()
    cfg.MODEL.HEAD.NUM_CLASSES, cfg.TEST.EVALUATOR = 4, name
    built = build_evaluator(cfg, "toy")
    assert (built.dataset_name, built.num_classes) == ("toy", 4)


def test_saved_results_have_the_form_of_a_loader_and_a_model(registered, monkeypatch):
    source, views = {"file_name": "/a.mp4", "start_sec": 1.0}, np.array([A[0], A[0]], np.float32)
    videos = [VideoScores("v0", [0, 2], views[0], views, source), VideoScores("v1", [], None)]
    name = registered(Seen)
    given = []
    monkeypatch.setattr(Seen, "process", lambda self, inputs, outputs: given.append((inputs, outputs)))
    monkeypatch.setattr(Seen, "evaluate", lambda self: {})
    assert evaluate_results(_results([], videos=videos), name) == {}
    (((first,), (output,)), ((second,), nothing)) = given
    assert {**first, "label": first["label"].tolist()} == (
        {"video_id": "v0", "label": [1.0, 0.0, 1.0], "failed": False, **source}
    )
    assert (output["video_id"], output["views"].shape) == ("v0", (2, 3))
    assert torch.equal(output["scores"], torch.tensor(A[0]))
    assert second["failed"] and second["label"].tolist() == [0.0, 0.0, 0.0] and nothing == []


def test_metrics_of_several_tasks_carry_the_name_of_the_task(registered, monkeypatch):
    monkeypatch.setattr(Seen, "evaluate", lambda self: {"verb": {"top1": 1.0}, "noun": {"top1": 2.0}})
    assert evaluate_results(_results(A), registered(Seen)) == {"verb/top1": 1.0, "noun/top1": 2.0}


def test_an_evaluator_that_needs_a_config_is_named(registered):
    class NeedsConfig(Evaluator):
        """Has one of the two constructors that the registry asks for."""

        def __init__(self, cfg, dataset_name, num_classes):
            super().__init__(dataset_name, num_classes)

    with pytest.raises(ValueError, match=r"evaluator: got 'NeedsConfig', allowed for saved results: .* called as cls"):
        evaluate_results(_results(A), registered(NeedsConfig))
