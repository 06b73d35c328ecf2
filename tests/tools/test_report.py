"""tools/report.py as a user runs it."""

import json
from pathlib import Path

import pytest


@pytest.fixture()
def runs(tmp_path: Path) -> list[str]:
    """Two folders with metrics and nothing else."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps({"iteration": 9, "top1": 50.0, "lr": 0.1}) + "\n")
    return [str(folder) for folder in folders]


def test_one_run_gets_its_page_in_its_folder(call_tool, runs):
    status, out, err = call_tool("report", runs[0])
    page = Path(runs[0], "report.html")
    assert (status, err) == (0, "") and out == f"Wrote {page} (0.0 MB)\n"
    assert "<h1>one</h1>" in page.read_text()
    # Over the page that is there.
    assert call_tool("report", runs[0], "--clips-mb", "0", "--heat")[0] == 0


def test_several_runs_get_a_page_here_or_where_it_is_asked_for(call_tool, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call_tool("report", *runs)[0] == 0
    assert "<h1>2 runs compared</h1>" in (tmp_path / "report.html").read_text()
    assert call_tool("report", *runs, "--output", str(tmp_path / "both.html"))[0] == 0
    assert (tmp_path / "both.html").read_text() == (tmp_path / "report.html").read_text()


def test_mistakes_are_one_line(call_tool, runs, tmp_path):
    (tmp_path / "empty").mkdir()
    mistakes = [
        ([str(tmp_path / "no")], "no: there is no such folder"),
        ([str(tmp_path / "empty")], "empty: not the folder of a run: no config.yaml, no metrics.json and no inference"),
        ([runs[0], "--output", str(tmp_path / "no" / "a.html")], "a.html', allowed: a file in a folder that is there"),
        ([runs[0], "--output", str(tmp_path)], "allowed: a file in a folder that is there"),
        ([runs[0], "--clips-mb", "-1"], "--clips-mb: got -1.0, allowed: 0 or more"),
        ([runs[0], "--clips-mb", "nan"], "--clips-mb: got nan, allowed: 0 or more"),
    ]
    for arguments, message in mistakes:
        status, out, err = call_tool("report", *arguments)
        assert status == 2 and message in err and err.count("\n") == 1 and out == "", (arguments, err)
    assert not (tmp_path / "empty" / "report.html").exists()
