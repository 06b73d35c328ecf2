"""Reading the folder of a run, whatever state it is in."""

import json
import math
from pathlib import Path

import pytest

from nlvideo.visualization.report.run import read_runs, run_names


def read(folder: Path):
    return read_runs([str(folder)])[0]


def test_everything_of_a_run(make_run, make_test, tmp_path):
    folder = make_run(tmp_path / "run", ["SOLVER.BASE_LR", "0.25"])
    make_test(folder, [[0.9, 0.1, 0.0]], [0])
    (folder / "invocations.json").write_text('{"command": "python train.py"}\n')
    run = read(folder)
    assert (run.name, run.iterations, run.max_iter, run.notes) == ("run", 100, 100, [])
    assert run.setting("SOLVER.BASE_LR") == 0.25 and run.setting("SOLVER.NOTHING.MORE") is None
    assert run.column("classification/top1") == [(50, pytest.approx(44.9)), (100, pytest.approx(49.9))]
    assert [results.dataset for results in run.results] == ["toy_val"]
    assert run.started() == {"command": "python train.py"}


@pytest.mark.parametrize(
    "paths, names",
    [
        (["a/b/run"], ["run"]),
        (["x/run", "y/run"], ["x/run", "y/run"]),
        (["x/run", "y/run", "y/other"], ["x/run", "y/run", "other"]),
        (["a/run", "a/run"], ["a/run", "a/run (2)"]),
    ],
)
def test_names_tell_runs_apart(paths, names):
    found = run_names([Path(path) for path in paths])
    assert [name[-len(wanted) :] for name, wanted in zip(found, names)] == names
    assert len(set(found)) == len(found)


def test_lines_that_cannot_be_read(make_run, tmp_path):
    folder = make_run(tmp_path / "run", validation=0)
    path = folder / "metrics.json"
    path.write_text('[1]\n{"total_loss": 1}\n' + path.read_text() + '{"iteration": 109, "total_l')
    run = read(folder)
    assert len(run.metrics) == 10 and run.iterations == 100
    assert run.notes[0].startswith("metrics.json: 3 of 13 lines cannot be read,") and "first is line 1." in run.notes[0]
    path.write_text('{"iteration": 9, "a": 1}\n{"iter')
    assert read(folder).notes[0].endswith("The first is line 2.")


def test_bytes_that_are_no_text(make_run, tmp_path):
    folder = make_run(tmp_path / "run")
    with open(folder / "metrics.json", "ab") as file:
        file.write(b"\xff\x00\xfe\n")
    assert len(read(folder).metrics) == 10
    (folder / "config.yaml").write_bytes(b"\xff\xfe\x00")
    assert read(folder).config == {}


def test_of_an_iteration_that_was_trained_twice_the_later_line_counts(make_run, tmp_path):
    folder = make_run(tmp_path / "run", validation=0)
    with open(folder / "metrics.json", "a") as file:
        file.write(json.dumps({"iteration": 49, "lr": 7.0}) + "\n")
    run = read(folder)
    assert [row["iteration"] for row in run.metrics] == list(range(9, 100, 10))
    assert dict(run.column("lr"))[50] == 7.0


def test_what_is_not_a_number_is_no_scalar(tmp_path):
    (tmp_path / "metrics.json").write_text('{"iteration": 0, "a": NaN, "b": "text", "c": true, "d": null, "e": 2}\n')
    (row,) = read(tmp_path).metrics
    assert math.isnan(row["a"]) and set(row) == {"iteration", "a", "e"}


def test_a_run_that_stopped(make_run, tmp_path):
    run = read(make_run(tmp_path / "run", iterations=range(9, 60, 10)))
    assert "Stopped, or still running, after 60 of 100 iterations." in run.notes


def test_a_run_that_has_just_begun(make_run, tmp_path):
    run = read(make_run(tmp_path / "run", iterations=[]))
    assert run.iterations == 0 and "metrics.json has no line yet: no curves." in run.notes


@pytest.mark.parametrize("content", ["a: [", "just text", ""])
def test_a_config_that_cannot_be_read(make_run, tmp_path, content):
    folder = make_run(tmp_path / "run")
    (folder / "config.yaml").write_text(content)
    run = read(folder)
    assert run.config == {} and run.max_iter is None and "config.yaml cannot be read" in run.notes[0]


def test_results_of_another_format(make_run, make_test, tmp_path):
    folder = make_run(tmp_path / "run")
    make_test(folder, [[0.9, 0.1, 0.0]], [0])
    (folder / "inference" / "old.json").write_text('{"videos": []}')
    run = read(folder)
    assert len(run.results) == 1
    assert run.notes == ["inference/old.json is left out: not a results file: 'format' is not 'nlvideo results'."]


def test_the_last_training_counts(make_run, tmp_path):
    folder = make_run(tmp_path / "run")
    rows = [{"command": "a"}, {"command": "b", "eval_only": False}, {"command": "c", "eval_only": True}]
    (folder / "invocations.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read(folder).started()["command"] == "b"


def test_no_runs():
    with pytest.raises(ValueError, match="runs: got none, allowed: one output folder or more"):
        read_runs([])
