"""Which charts a page has, and what they show."""

import json
from pathlib import Path

import pytest

from nlvideo.visualization.report.curves import (
    clips_per_iteration,
    error_chart,
    training_charts,
    training_seconds,
    validation_metrics,
)
from nlvideo.visualization.report.run import Run, read_runs


def run_of(rows, name="run", config=None, **started):
    return Run(Path("."), name, config=config or {}, metrics=rows, invocations=[started])


def row(iteration, **scalars):
    return {"iteration": float(iteration), **{key.replace("__", "/"): value for key, value in scalars.items()}}


def test_error_is_what_is_missing_to_100_percent(make_run, tmp_path):
    (run,) = read_runs([str(make_run(tmp_path / "run", iterations=range(1, 100, 2)))])
    chart = error_chart([run])
    assert [line.style for line in chart.lines] == ["raw", "thin", "bold"]
    assert chart.y_label == "top-1 error (%)" and chart.x_label == "iterations"
    validation = chart.lines[-1]
    assert validation.series.x.tolist() == [50, 100] and validation.series.y == pytest.approx([55.1, 50.1])
    assert chart.lines[0].series.y == pytest.approx([100 - value for _, value in run.column("top1")])
    assert chart.lines[1].series.y.std() < chart.lines[0].series.y.std()


def test_several_test_sets_have_a_curve_each():
    run = run_of([row(9, a__classification__top1=50.0, b__classification__top1=60.0, b__classification__top5=90.0)])
    assert validation_metrics(run) == ["a/classification/top1", "b/classification/top1"]
    assert [line.label for line in error_chart([run]).lines] == [
        "run, validation error on a", "run, validation error on b"
    ]  # fmt: skip


def test_multi_label_runs_show_map():
    chart = error_chart([run_of([row(9, multilabel__mAP=30.0, multilabel__num_classes=7.0)])])
    assert chart.y_label == "100 − mAP (%)" and chart.lines[0].series.y.tolist() == [70.0]


def test_metrics_of_other_tasks_are_no_error():
    assert error_chart([run_of([row(9, count__n=3.0, lr=1.0)])]) is None
    assert error_chart([run_of([])]) is None and training_charts([run_of([])]) == []


def charts_of(*runs):
    return {chart.title: chart for chart in training_charts(runs)}


def test_the_sum_of_losses_is_shown_where_there_are_several():
    assert list(charts_of(run_of([row(0, total_loss=1.0, loss_cls=1.0)]))) == ["Loss: loss_cls"]
    several = charts_of(run_of([row(0, total_loss=3.0, loss_cls=1.0, loss_aux=2.0)]))
    assert list(several) == ["Loss: loss_aux", "Loss: loss_cls", "Loss: total_loss"]
    assert list(charts_of(run_of([row(0, total_loss=3.0)]))) == ["Loss: total_loss"]


def test_throughput_needs_the_batch_size_and_time_does_not():
    rows = [row(i, time=0.5, data_time=0.2) for i in range(3)]
    known = charts_of(run_of(rows, config={"SOLVER": {"CLIPS_PER_BATCH": 8}}))
    assert known["Throughput"].lines[0].series.y.tolist() == [16.0] * 3
    assert known["Waiting for data"].lines[0].series.y.tolist() == [40.0] * 3
    assert "Throughput" not in charts_of(run_of(rows)) and "Time of an iteration" in charts_of(run_of(rows))


def test_a_time_of_zero_divides_nothing():
    charts = charts_of(run_of([row(0, time=0.0, data_time=0.0)], config={"SOLVER": {"CLIPS_PER_BATCH": 8}}))
    assert "Throughput" not in charts and "Waiting for data" not in charts


def test_memory_is_in_gib():
    charts = charts_of(run_of([row(0, peak_gpu_memory_mib=2048.0)]), run_of([row(0, peak_cpu_memory_mib=512.0)]))
    assert charts["Peak of GPU memory"].lines[0].series.y.tolist() == [2.0]
    assert charts["Peak of memory"].lines[0].series.y.tolist() == [0.5]
    assert charts["Peak of memory"].lines[0].run == 1 and charts["Peak of memory"].runs == [1]


@pytest.mark.parametrize(
    "solver, started, clips",
    [
        ({"CLIPS_PER_BATCH": 64, "REFERENCE_WORLD_SIZE": 0}, {"world_size": 2}, 64),
        ({"CLIPS_PER_BATCH": 64, "REFERENCE_WORLD_SIZE": 8}, {"world_size": 2}, 16),
        ({"CLIPS_PER_BATCH": 64, "REFERENCE_WORLD_SIZE": 8}, {}, 64),
        ({}, {}, None),
    ],
)
def test_clips_of_an_iteration_follow_the_ranks(solver, started, clips):
    assert clips_per_iteration(run_of([], config={"SOLVER": solver}, **started)) == clips


def test_the_batch_of_the_trainer_is_the_one_of_the_page(make_run, tmp_path):
    from nlvideo.config import load_cfg
    from nlvideo.solver import scale_to_world_size

    opts = ["SOLVER.REFERENCE_WORLD_SIZE", "2", "SOLVER.CLIPS_PER_BATCH", "8"]
    folder = make_run(tmp_path / "run", opts)
    (folder / "invocations.json").write_text(json.dumps({"command": "c", "world_size": 4}) + "\n")
    (run,) = read_runs([str(folder)])
    cfg = scale_to_world_size(load_cfg(str(folder / "config.yaml")), 4)
    assert clips_per_iteration(run) == cfg.SOLVER.CLIPS_PER_BATCH == 16


def test_seconds_of_a_training():
    rows = [row(9, time=1.0), row(19, time=2.0), row(24, time=float("nan")), row(29, time=4.0)]
    assert training_seconds(run_of(rows)) == 10 * 1 + 10 * 2 + 10 * 4
    assert training_seconds(run_of([row(0, lr=1.0)])) is None
    assert training_seconds(run_of([row(9, time=1.0, training_time=12.5), row(19, training_time=31.0)])) == 31.0
