"""Every metric against an independent library, on scores with ties and on labels that leave classes out."""

import numpy as np
import pytest

from nlvideo.evaluation import CharadesEvaluator, ClassificationEvaluator, MultiLabelEvaluator, VideoScores

metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed (extra: dev)")

SEEDS = range(8)


def _scores(rng, n, k):
    """Random scores of which many are equal, in a video and among videos."""
    return (rng.integers(0, 12, (n, k)) / 11).astype(np.float32)


def _videos(labels, scores):
    return [VideoScores(f"v{i:03d}", label, row) for i, (label, row) in enumerate(zip(labels, scores))]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_classes", [6, 11])
def test_accuracies(seed, num_classes):
    rng = np.random.default_rng(seed)
    # The last two classes never occur as a label, but are predicted.
    labels = rng.integers(0, num_classes - 2, 200)
    scores = _scores(rng, 200, num_classes)
    evaluator = ClassificationEvaluator("toy", num_classes)
    videos = _videos(labels.tolist(), scores)
    ours = evaluator.metrics(videos)
    # Of equal scores they prefer the higher class and we the lower: with the classes in reverse that is the same.
    reverse = {"y_true": num_classes - 1 - labels, "y_score": scores[:, ::-1], "labels": range(num_classes)}
    for k, name in ((1, "top1"), (5, "top5")):
        assert ours[name] == pytest.approx(100 * metrics.top_k_accuracy_score(k=k, **reverse)), name
    predicted, occurring = scores.argmax(axis=1), np.unique(labels)
    assert ours["top1"] == pytest.approx(100 * metrics.accuracy_score(labels, predicted))
    recalls = metrics.recall_score(labels, predicted, labels=occurring, average=None)
    assert ours["mean_class"] == pytest.approx(100 * recalls.mean())
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert ours["mean_class"] == pytest.approx(100 * metrics.balanced_accuracy_score(labels, predicted))
    per_class = evaluator.per_class(videos)
    assert per_class[occurring] == pytest.approx(100 * recalls)
    assert np.isnan(np.delete(per_class, occurring)).all() and len(occurring) < num_classes


@pytest.mark.parametrize("seed", SEEDS)
def test_average_precision(seed):
    rng = np.random.default_rng(seed)
    scores, positive = _scores(rng, 150, 9), rng.random((150, 9)) < 0.15
    positive[:, [2, 8]] = False
    labels = [np.flatnonzero(row).tolist() for row in positive]
    assert [] in labels
    present = positive.any(axis=0)
    expected = metrics.average_precision_score(positive[:, present], scores[:, present], average=None)
    evaluator, videos = MultiLabelEvaluator("toy", 9), _videos(labels, scores)
    ours = evaluator.metrics(videos)
    assert ours["mAP"] == pytest.approx(100 * expected.mean()) and ours["num_classes"] == 7
    assert evaluator.per_class(videos)[present] == pytest.approx(100 * expected)
    assert np.isnan(evaluator.per_class(videos)[~present]).all()


def _charades(scores, positive):
    """The official formula: unlabelled videos at minus infinity; the mean of the precisions at the positives' ranks."""
    scores = np.where(positive.any(axis=1, keepdims=True), scores, -np.inf)
    values = []
    for column, labels in zip(scores.T, positive.T):
        hits = labels[np.argsort(-column, kind="stable")]
        values.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
    return np.array(values)


@pytest.mark.parametrize("seed", SEEDS)
def test_charades_without_ties(seed):
    rng = np.random.default_rng(seed)
    scores = rng.permutation(120 * 6).reshape(120, 6).astype(np.float32)
    positive = rng.random((120, 6)) < 0.15
    positive[0] = True
    labels = [np.flatnonzero(row).tolist() for row in positive]
    assert [] in labels
    videos, evaluator = _videos(labels, scores), CharadesEvaluator("toy", 6)
    assert evaluator.per_class(videos) == pytest.approx(100 * _charades(scores, positive))
    assert evaluator.metrics(videos)["mAP"] == pytest.approx(100 * _charades(scores, positive).mean())
    labelled = positive.any(axis=1)
    assert evaluator.metrics(videos)["mAP"] == pytest.approx(
        100 * metrics.average_precision_score(positive[labelled], scores[labelled], average="macro")
    )
    # The other evaluator counts unlabelled videos as false positives wherever they are ranked.
    assert MultiLabelEvaluator("toy", 6).metrics(videos)["mAP"] < evaluator.metrics(videos)["mAP"]


@pytest.mark.parametrize("labels", [[[0], [1], [0, 1]], [[0], [1], 0]])
def test_charades_is_the_usual_map_where_all_videos_have_labels(labels):
    scores = np.random.default_rng(0).random((3, 2)).astype(np.float32)
    videos = _videos(labels, scores)
    assert MultiLabelEvaluator("toy", 2).metrics(videos) == CharadesEvaluator("toy", 2).metrics(videos)
