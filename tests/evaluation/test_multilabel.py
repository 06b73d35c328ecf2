"""Mean average precision against hand-made numbers."""

import numpy as np
import pytest
import torch

from nlvideo.config import get_cfg
from nlvideo.evaluation import EVALUATOR, MultiLabelEvaluator, average_precision, build_evaluator


def _ap(scores, positive):
    return average_precision(np.array(scores, dtype=float), np.array(positive, dtype=bool))


@pytest.mark.parametrize(
    "scores, positive, expected",
    [
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 0], 1.0),
        ([0.9, 0.8, 0.7, 0.6], [0, 0, 1, 1], (1 / 3 + 2 / 4) / 2),
        ([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0], (1 / 1 + 2 / 3) / 2),
        ([0.6, 0.7, 0.8, 0.9], [1, 0, 1, 0], (1 / 2 + 2 / 4) / 2),
        ([0.1], [1], 1.0),
        ([0.3, 0.2, 0.1], [1, 1, 1], 1.0),
    ],
)
def test_hand_made_average_precision(scores, positive, expected):
    assert _ap(scores, positive) == pytest.approx(expected)


def test_ties_enter_together_in_any_order():
    # Three videos at one score, one positive among them, after one positive: 1/2 * 1 + 1/2 * 2/4.
    expected = 0.5 + 0.25
    for positive in ([1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]):
        assert _ap([0.9, 0.5, 0.5, 0.5], positive) == pytest.approx(expected)


def test_constant_scores_give_the_share_of_positives():
    assert _ap([0.5] * 8, [1, 0, 0, 0, 1, 0, 0, 0]) == pytest.approx(0.25)


def test_no_positive_is_nan():
    assert np.isnan(_ap([0.5, 0.1], [0, 0]))


def test_videos_that_are_never_retrieved():
    inf = float("inf")
    assert _ap([0.9, -inf], [1, 1]) == pytest.approx(0.5)
    assert _ap([0.9, -inf], [1, 0]) == pytest.approx(1.0)
    assert _ap([-inf, -inf], [1, 0]) == 0.0


def test_against_the_definition_on_random_data():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, positive = rng.permutation(30) / 30, rng.random(30) < 0.3
        positive[0] = True
        order = np.argsort(-scores)
        precisions = [positive[order[: rank + 1]].mean() for rank in range(30) if positive[order[rank]]]
        assert average_precision(scores, positive) == pytest.approx(np.mean(precisions))


def test_ties_against_the_definition():
    """Each distinct score is a threshold: precision of all videos at or above it, times the recall gained by it."""
    rng = np.random.default_rng(1)
    scores, positive = rng.integers(0, 10, 200) / 10, rng.random(200) < 0.2
    expected = 0.0
    for threshold in np.unique(scores):
        gain = positive[scores == threshold].sum() / positive.sum()
        expected += positive[scores >= threshold].mean() * gain
    assert average_precision(scores, positive) == pytest.approx(expected)


def _metrics(rows, num_classes=3):
    evaluator = MultiLabelEvaluator("toy", num_classes)
    for index, (label, scores) in enumerate(rows):
        name = f"v{index}"
        outputs = [] if scores is None else [{"video_id": name, "scores": torch.tensor(scores)}]
        evaluator.process([{"label": label, "video_id": name, "failed": scores is None}], outputs)
    return evaluator.evaluate()["multilabel"]


def test_classes_without_positives_are_skipped():
    # Class 0: positives at ranks 1 and 3 of 3; class 1: at rank 2 of 3; class 2: none.
    metrics = _metrics([([0], [0.9, 0.9, 0.9]), ([1], [0.8, 0.8, 0.1]), ([0], [0.1, 0.1, 0.5])])
    expected = ((1 + 2 / 3) / 2 + 1 / 2) / 2
    loss = pytest.approx(-np.log([0.9, 0.8, 0.1]).mean())
    counts = {"num_classes": 2, "num_videos": 3, "num_failed": 0}
    assert metrics == {"mAP": pytest.approx(100 * expected), "loss": loss, **counts}


@pytest.mark.parametrize("label", [[0, 2], torch.tensor([0, 2]), torch.tensor([1.0, 0.0, 1.0])])
def test_labels_as_indices_or_multi_hot(label):
    metrics = _metrics([(label, [0.9, 0.1, 0.2]), ([1], [0.1, 0.9, 0.8])])
    # Classes 0 and 1 are perfect; for class 2 the negative comes first.
    assert metrics["mAP"] == pytest.approx(100 * (1 + 1 + 0.5) / 3)


def test_a_single_index_is_a_label_too():
    assert _metrics([(0, [0.9, 0.0, 0.0]), (1, [0.1, 0.9, 0.0])])["mAP"] == 100.0


def test_videos_without_labels_are_negatives():
    metrics = _metrics([([], [0.9, 0.0, 0.0]), ([0], [0.5, 0.0, 0.0])])
    assert metrics["mAP"] == 50.0 and metrics["num_videos"] == 2


@pytest.mark.parametrize("scores", [None, [float("nan")] * 3])
def test_positives_of_an_unusable_video_are_missed(scores):
    metrics = _metrics([([0], [0.9, 0.0, 0.0]), ([0], scores)])
    assert metrics["mAP"] == 50.0 and metrics["num_failed"] == 1


def test_no_label_at_all():
    with pytest.raises(ValueError, match="dataset 'toy': got no label in 1 videos"):
        _metrics([([], [0.1, 0.2, 0.3])])


def test_labels_out_of_range():
    with pytest.raises(ValueError, match=r"label of 'v0': got \[0, 3\], allowed: 0 to 2"):
        _metrics([([0, 3], [0.1, 0.2, 0.3])])


def _cfg(loss="softmax", evaluator=""):
    cfg = get_cfg()
    cfg.MODEL.HEAD.LOSS, cfg.MODEL.HEAD.NUM_CLASSES, cfg.TEST.EVALUATOR = loss, 3, evaluator
    return cfg


def test_the_loss_chooses_the_evaluator_unless_one_is_named():
    assert type(build_evaluator(_cfg("sigmoid"), "toy")) is MultiLabelEvaluator
    assert type(build_evaluator(_cfg("softmax", "MultiLabelEvaluator"), "toy")) is MultiLabelEvaluator


def test_no_evaluator_for_an_unknown_loss():
    with pytest.raises(ValueError, match="TEST.EVALUATOR: got '', allowed with MODEL.HEAD.LOSS 'hinge': Class"):
        build_evaluator(_cfg("hinge"), "toy")


def test_unknown_evaluator():
    with pytest.raises(KeyError, match="unknown EVALUATOR 'MultilabelEvaluator': did you mean 'MultiLabelEvaluator'"):
        build_evaluator(_cfg(evaluator="MultilabelEvaluator"), "toy")


@pytest.mark.parametrize("name", sorted(EVALUATOR))
def test_everything_registered_keeps_the_contract(name, tmp_path):
    cfg = _cfg(evaluator=name)
    cfg.OUTPUT_DIR = str(tmp_path)
    evaluator = build_evaluator(cfg, "toy")
    for _ in range(2):
        evaluator.reset()
        evaluator.process([{"label": 1, "video_id": "a"}], [{"video_id": "a", "scores": torch.tensor([0.1, 0.8, 0.1])}])
        (metrics,) = evaluator.evaluate().values()
        assert metrics["num_videos"] == 1 and all(isinstance(value, (int, float)) for value in metrics.values())
        assert max(value for value in metrics.values() if isinstance(value, float)) == 100.0
