"""Tables of the page: results and costs, environment, how to run it again."""

from pathlib import Path

import pytest

from nlvideo.config import load_cfg
from nlvideo.modeling.costs import model_costs
from nlvideo.visualization.report.facts import (
    config_differences,
    description,
    environment_rows,
    flatten,
    model_facts,
    reproduce_text,
    summary,
)
from nlvideo.visualization.report.run import Run, read_runs


def run_with(**started):
    return Run(Path("."), "run", invocations=[started] if started else [])


def test_summary_of_runs_that_know_different_things(make_run, make_test, tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", validation=0, iterations=range(9, 60, 10))
    make_test(tmp_path / "b", [[0.9, 0.1, 0.0]], [0])
    runs = read_runs([str(tmp_path / "a"), str(tmp_path / "b")])
    table = summary(runs, [model_facts(runs[0]), {"error": "none"}])
    a, b = (dict(zip(table["columns"], row)) for row in table["rows"])
    assert table["columns"][:2] == ["top1 (%)", "top5 (%)"] and not any("num_videos" in c for c in table["columns"])
    assert (a["top1 (%)"], a["top5 (%)"], a["iterations"]) == ("49.90 (18.7 to 81.2)", "90.00 (50.0 to 98.8)", "100")
    # From the results file, since training never evaluated.
    assert (b["top1 (%)"], b["top5 (%)"], b["iterations"]) == ("50.00 (5.5 to 94.5)", "–", "60 of 100")
    assert b["params (M)"] == "–" and float(a["params (M)"]) > 0


def test_costs_are_those_of_the_model(make_run, tmp_path):
    (run,) = read_runs([str(make_run(tmp_path / "run"))])
    facts = model_facts(run)
    costs = model_costs(load_cfg(str(tmp_path / "run" / "config.yaml")))
    assert facts == {**costs, "clip": "4 x 32 x 32", "error": ""} and costs["nonlocal_blocks"]


def test_costs_of_a_config_that_does_not_load(make_run, tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "config.yaml").write_text("MODEL: {NOTHING: 1}\n")
    (run,) = read_runs([str(folder)])
    assert "MODEL.NOTHING" in model_facts(run)["error"]
    assert model_facts(Run(folder, "run"))["error"] == "the configuration is unknown"


def test_a_report_imports_no_plugin(make_run, tmp_path):
    folder = make_run(tmp_path / "run")
    package = tmp_path / "plugin_of_a_report"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w').close()\n")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("PLUGINS: []", f"PLUGINS: [{package}]"))
    (run,) = read_runs([str(folder)])
    assert f"needs the plugin '{package}'" in model_facts(run)["error"] and not (tmp_path / "was_run").exists()


def test_description(make_run, tmp_path):
    (run,) = read_runs([str(make_run(tmp_path / "run"))])
    assert description(run) == (
        "ResNet3d-18; c2d; non-local: embedded_gaussian over spacetime; trained on beacon_tiny_train;"
        " 4 clips an iteration; batch norm unfrozen; clips of 4 frames of 32 pixels"
    )
    run.config["MODEL"]["NONLOCAL"]["NAME"] = "GlobalContext"  # which has no pairwise function
    assert "; non-local: GlobalContext over spacetime; " in description(run)
    run.config["MODEL"]["NONLOCAL"]["ENABLED"] = False
    del run.config["INPUT"]
    assert "no non-local blocks" in description(run) and "pixels" not in description(run)
    solver, backbone = run.config["SOLVER"], run.config["MODEL"]["BACKBONE"]
    solver["BN_MODE"], solver["BN_MODE_ITER"], backbone["FREEZE_AT"], backbone["FREEZE_UNTIL"] = "frozen_after", 9, 2, 7
    assert description(run).endswith("; batch norm frozen_after iteration 9; first 2 stages frozen until iteration 7")
    backbone["FREEZE_UNTIL"] = 0
    assert description(run).endswith("; first 2 stages frozen")
    assert description(run_with()) == ""


@pytest.mark.parametrize(
    "started, text",
    [
        ({}, ""),
        ({"command": "python t.py"}, "python t.py"),
        ({"command": "python t.py", "folder": "/a b"}, "cd '/a b'\npython t.py"),
        ({"command": "python t.py", "drawn_seed": 7}, "python t.py SEED 7"),
        ({"command": "python t.py", "drawn_seed": None, "environment": {"commit": "none"}}, "python t.py"),
        # From before the repository was written down.
        ({"command": "c", "environment": {"commit": "abc"}}, "git -C REPOSITORY_OF_NLVIDEO checkout abc\nc"),
        (
            {"command": "c", "folder": "/a", "environment": {"commit": "abc", "repository": "/r s"}},
            "git -C '/r s' checkout abc\ncd /a\nc",
        ),
        (
            {"command": "c", "environment": {"commit": "abc-dirty", "repository": "/r"}},
            "# the files differed from this commit\ngit -C /r checkout abc\nc",
        ),
    ],
)
def test_how_to_run_it_again(started, text):
    assert reproduce_text(run_with(**started)) == text


def test_environments_beside_each_other():
    runs = [run_with(environment={"torch": "2", "av": "17"}, world_size=2, time="now"), run_with(command="c")]
    assert environment_rows(runs) == [
        {"item": "started", "values": ["now", "–"]}, {"item": "ranks", "values": ["2", "–"]},
        {"item": "torch", "values": ["2", "–"]}, {"item": "av", "values": ["17", "–"]},
    ]  # fmt: skip
    assert environment_rows([run_with(command="c")]) == []


def test_flat_configs():
    assert flatten({"A": {"B": 1, "C": {"D": [2]}}, "E": {}}) == {"A.B": 1, "A.C.D": [2], "E": {}}


def test_config_differences():
    a = {"OUTPUT_DIR": "a", "SEED": 0, "A": {"B": 1, "C": [1]}}
    b = {"OUTPUT_DIR": "b", "SEED": 0, "A": {"B": 2, "C": [1]}, "NEW": None}
    assert config_differences([a, b]) == [{"key": "A.B", "values": [1, 2]}, {"key": "NEW", "values": [None, None]}]
    assert config_differences([a, {}, b])[0] == {"key": "A.B", "values": [1, None, 2]}
    assert config_differences([a, a]) == config_differences([a]) == []
