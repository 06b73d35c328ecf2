"""What a page shows of a validation with a protocol of its own, of the best checkpoint and of an early end."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nlvideo.visualization.report.curves import error_chart, training_charts
from nlvideo.visualization.report.facts import summary
from nlvideo.visualization.report.page import render_report
from nlvideo.visualization.report.run import Run, read_runs


@pytest.fixture()
def run(make_run: Callable[..., Path], tmp_path: Path) -> Run:
    """A run that ended early, after 60 iterations of 100; its best checkpoint is that of iteration 20."""
    folder = make_run(tmp_path / "run", ["TEST.VALIDATION.ENABLED", "True"], iterations=range(9, 60, 10), validation=0)
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    for i in (1, 3, 5):
        rows[i] |= {"validation/classification/top1": 50.0 - i, "validation/classification/loss": 1.0 + i}
    rows[5] |= {"classification/top1": 61.0, "classification/loss": 0.75, "classification/num_videos": 100.0,
                "best/classification/top1": 71.0, "best/classification/loss": 0.5,
                "best/classification/num_videos": 100.0, "best/iteration": 20.0}  # fmt: skip
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run,) = read_runs([str(folder)])
    return run


def test_a_curve_holds_one_protocol(run: Run) -> None:
    lines = {line.label: line.series.y.tolist() for line in error_chart([run]).lines if line.style == "bold"}
    assert lines == {"run, validation error": [51.0, 53.0, 55.0], "run, error of the full test": [39.0]}


def test_losses_of_training_and_validation_are_in_one_chart(run: Run) -> None:
    (chart,) = [chart for chart in training_charts([run]) if chart.title.startswith("Loss")]
    assert chart.title == "Loss: loss_cls, in training and validation"
    lines = {line.label: line.series.y.tolist() for line in chart.lines}
    assert lines["run, validation loss"] == [2.0, 4.0, 6.0] and lines["run, loss of the full test"] == [0.75]
    assert len(lines["run"]) == 6


def test_a_run_without_a_protocol_of_its_own_has_one_curve(make_run: Callable[..., Path], tmp_path: Path) -> None:
    (plain,) = read_runs([str(make_run(tmp_path / "plain"))])
    for row in plain.metrics:
        if "classification/top1" in row:
            row |= {"classification/loss": 0.5, "best/classification/loss": 0.1}
    (chart,) = [chart for chart in training_charts([plain]) if chart.title.startswith("Loss")]
    assert [line.label for line in chart.lines if line.style == "bold"] == ["plain, validation loss"]


def test_the_results_are_those_of_the_full_tests_of_the_last_and_the_best(run: Run) -> None:
    table = summary([run], [{"error": "none"}])
    cells = dict(zip(table["columns"], table["rows"][0]))
    assert cells["top1 (%)"].startswith("61.00 (") and cells["best/top1 (%)"].startswith("71.00 (")
    assert (cells["loss (nats)"], cells["best/loss (nats)"], cells["best/iteration"]) == ("0.7500", "0.5000", "20")
    assert not any("validation" in name for name in table["columns"])
    assert "Stopped early (SOLVER.EARLY_STOPPING) after 60 of 100 iterations." in run.notes
    assert "71.00 (" in render_report([run])


def test_a_run_that_still_goes_on_shows_its_validation(run: Run) -> None:
    run.metrics = run.metrics[:4]
    table = summary([run], [{"error": "none"}])
    assert dict(zip(table["columns"], table["rows"][0]))["validation/top1 (%)"] == "47.00"
