"""The mean loss of a test: torch's own losses of the averaged scores, without overflow, and the same from a file."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nlvideo.evaluation import (
    CharadesEvaluator,
    ClassificationEvaluator,
    MultiLabelEvaluator,
    PerVideoEvaluator,
    Results,
    VideoScores,
    evaluate_results,
    print_results,
    read_results,
    write_results,
)
from nlvideo.evaluation.evaluator import mean_loss, metric_names
from nlvideo.evaluation.testing import lower_is_better, with_interval

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def videos_of(scores: torch.Tensor, labels: list) -> list[VideoScores]:
    return [VideoScores(f"v{i}", label, row.numpy()) for i, (row, label) in enumerate(zip(scores, labels))]


def test_softmax_is_torchs_cross_entropy() -> None:
    labels = [0, 3, 1, 1, 2, 0]
    expected = F.cross_entropy(LOGITS, torch.tensor(labels))
    assert mean_loss(videos_of(LOGITS.softmax(1), labels), "softmax") == pytest.approx(float(expected), rel=1e-6)


def test_sigmoid_is_torchs_binary_cross_entropy_with_videos_without_labels_as_negatives() -> None:
    labels = [[0, 2], [], [3], [0, 1, 2, 3], [1], [2]]
    targets = torch.zeros(6, 4)
    for row, own in enumerate(labels):
        targets[row, own] = 1
    expected = F.binary_cross_entropy_with_logits(LOGITS, targets)
    assert mean_loss(videos_of(LOGITS.sigmoid(), labels), "sigmoid") == pytest.approx(float(expected), rel=1e-6)


def test_probabilities_of_0_and_1_have_a_finite_loss() -> None:
    scores = torch.tensor([[1.0, 0.0]])
    assert mean_loss(videos_of(scores, [0]), "softmax") == 0
    assert mean_loss(videos_of(scores, [1]), "softmax") == pytest.approx(87.3365, abs=1e-3)
    wrong = mean_loss(videos_of(scores, [[1]]), "sigmoid")
    assert 0 < wrong < 100 and mean_loss(videos_of(scores, [[0]]), "sigmoid") == 0


def test_what_has_no_scores_or_no_label_is_left_out() -> None:
    good = videos_of(torch.tensor([[0.25, 0.75]]), [1])
    failed = [VideoScores("f", 0, None), VideoScores("n", 0, np.array([np.nan, 1], np.float32))]
    unlabelled = [VideoScores("u", [], np.array([0.5, 0.5], np.float32))]
    assert mean_loss([*good, *failed, *unlabelled], "softmax") == pytest.approx(-math.log(0.75))
    assert math.isnan(mean_loss(failed, "softmax")) and math.isnan(mean_loss([], "sigmoid"))


def test_several_labels_of_a_softmax_share_its_loss() -> None:
    videos = videos_of(torch.tensor([[0.5, 0.25, 0.25]]), [[0, 1]])
    assert mean_loss(videos, "softmax") == pytest.approx(-(math.log(0.5) + math.log(0.25)) / 2)


def test_charades_leaves_out_what_its_map_leaves_out() -> None:
    videos = videos_of(torch.tensor([[0.9, 0.2], [0.7, 0.6]]), [[0], []])
    plain, official = (cls("toy", 2, activation="sigmoid") for cls in (MultiLabelEvaluator, CharadesEvaluator))
    assert official.metrics(videos)["loss"] == mean_loss(videos[:1], "sigmoid") != plain.metrics(videos)["loss"]


@pytest.mark.parametrize(
    ("evaluator", "activation", "labels"),
    [
        ("ClassificationEvaluator", "softmax", [0, 3, 1, 1, 2, 0]),
        ("ClassificationEvaluator", "sigmoid", [0, 3, 1, 1, 2, 0]),
        ("MultiLabelEvaluator", "sigmoid", [[0, 2], [], [3], [0, 1], [1], [2]]),
    ],
)
def test_a_file_gives_the_same_number(evaluator: str, activation: str, labels: list, tmp_path: Path) -> None:
    scores = LOGITS.softmax(1) if activation == "softmax" else LOGITS.sigmoid()
    videos = videos_of(scores, labels)
    direct = mean_loss(videos, activation)
    path = str(tmp_path / "a.json")
    write_results(path, Results("toy", evaluator, 4, videos, activation=activation))
    assert evaluate_results(read_results(path))["loss"] == direct


def test_a_loss_that_is_no_number_is_null_in_the_file(tmp_path: Path) -> None:
    evaluator = ClassificationEvaluator("toy", 2, output_dir=str(tmp_path))
    evaluator.process([{"label": 0, "video_id": "a", "failed": True}], [])
    assert math.isnan(evaluator.evaluate()["classification"]["loss"])
    path = tmp_path / "inference" / "toy.json"
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["classification"]["loss"] is None
    assert read_results(str(path)).metrics["classification"]["loss"] is None


def test_files_from_before_there_was_a_loss(tmp_path: Path) -> None:
    videos = videos_of(LOGITS.softmax(1), [0] * 6)
    write_results(
        str(tmp_path / "a.json"),
        Results("toy", "ClassificationEvaluator", 4, videos, metrics={"classification": {"top1": 50.0}}),
    )
    old = read_results(str(tmp_path / "a.json"))
    assert old.metrics == {"classification": {"top1": 50.0}} and evaluate_results(old)["loss"] > 0


@pytest.mark.parametrize("cls", [ClassificationEvaluator, MultiLabelEvaluator, CharadesEvaluator])
def test_the_names_of_metrics_are_known_before_a_test(
    cls: type[PerVideoEvaluator], caplog: pytest.LogCaptureFixture
) -> None:
    activation = "softmax" if cls is ClassificationEvaluator else "sigmoid"
    evaluator = cls("toy", 3, activation=activation)
    names = metric_names(evaluator)
    labels = [0, 1] if activation == "softmax" else [[0], [1]]
    for index, label in enumerate(labels):
        evaluator.process(
            [{"label": label, "video_id": str(index)}], [{"video_id": str(index), "scores": LOGITS[0, :3].softmax(0)}]
        )
    caplog.clear()
    ((task, metrics),) = evaluator.evaluate().items()
    assert names == [f"{task}/{name}" for name in metrics] and f"{task}/loss" in names


def test_metrics_that_only_a_test_can_tell() -> None:
    assert metric_names(object()) == []  # type: ignore[arg-type]

    class OfViews(ClassificationEvaluator):
        """It needs what only some tests keep."""

        def metrics(self, videos: Sequence[VideoScores]) -> dict[str, float]:
            assert len(videos) == 2
            return {"spread": float(np.ptp(videos[0].views))}  # type: ignore[arg-type]

    assert metric_names(OfViews("toy", 400)) == []


def test_a_loss_is_written_with_four_digits(caplog: pytest.LogCaptureFixture) -> None:
    assert lower_is_better("classification/loss") and not lower_is_better("classification/top1")
    assert (with_interval("loss", 0.71234, 10), with_interval("mAP", 71.234, 10)) == ("0.7123", "71.23")
    with caplog.at_level("INFO"):
        print_results({"validation/classification": {"loss": 0.71234, "num_videos": 3}})
    assert "copypaste: 0.7123,3" in caplog.text and "Results of validation/classification" in caplog.text
