"""Logging set-up, messages that do not repeat, tables."""

import logging

import pytest

from nlvideo.utils import console
from nlvideo.utils.console import create_table, format_seconds, log_once, setup_logger


@pytest.fixture
def name(request):
    """A logger of the test's own, emptied afterwards."""
    name = f"nlvideo_test.{request.node.name}"
    yield name
    for handler in list(logging.getLogger(name).handlers):
        logging.getLogger(name).removeHandler(handler)
        handler.close()


def test_rank_0_writes_to_console_and_file(tmp_path, capsys, name):
    setup_logger(str(tmp_path / "new"), 0, name).info("hello")
    assert "hello" in capsys.readouterr().out
    line = (tmp_path / "new" / "log.txt").read_text()
    assert f"{name}] INFO: hello" in line


def test_other_ranks_write_to_their_file_only(tmp_path, capsys, name):
    setup_logger(str(tmp_path), 1, name).info("hello")
    assert capsys.readouterr().out == ""
    assert "hello" in (tmp_path / "log.txt.rank1").read_text()
    assert not (tmp_path / "log.txt").exists()


def test_children_are_logged_and_debug_is_not(tmp_path, name):
    setup_logger(str(tmp_path), 0, name)
    logging.getLogger(f"{name}.child").info("from a child")
    logging.getLogger(name).debug("a detail")
    text = (tmp_path / "log.txt").read_text()
    assert "from a child" in text and "a detail" not in text


def test_a_second_set_up_replaces_the_first(tmp_path, capsys, name):
    setup_logger(str(tmp_path / "a"), 0, name)
    other = logging.NullHandler()
    logging.getLogger(name).addHandler(other)
    setup_logger(str(tmp_path / "b"), 0, name).info("once")
    assert capsys.readouterr().out.count("once") == 1
    assert "once" not in (tmp_path / "a" / "log.txt").read_text()
    assert (tmp_path / "b" / "log.txt").read_text().count("once") == 1
    assert other in logging.getLogger(name).handlers


def test_a_resumed_run_appends(tmp_path, name):
    setup_logger(str(tmp_path), 0, name).info("first")
    setup_logger(str(tmp_path), 0, name).info("second")
    text = (tmp_path / "log.txt").read_text()
    assert text.index("first") < text.index("second")


def test_without_a_folder_there_is_no_file(tmp_path, capsys, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    setup_logger(None, 0, name).info("hello")
    assert "hello" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_log_once(caplog, monkeypatch):
    monkeypatch.setattr(console, "_seen", type(console._seen)())
    for _ in range(5):
        log_once("single")
        log_once("single", name="nlvideo.other")
    assert caplog.messages.count("single") == 2
    assert caplog.records[0].levelno == logging.WARNING


def test_table_of_a_dict():
    lines = create_table({"top1": 72.123456, "name": "i3d"}).splitlines()
    assert any(line.split() == ["top1", "72.12"] for line in lines)
    assert any(line.split() == ["name", "i3d"] for line in lines)


def test_table_of_rows():
    lines = create_table([{"stage": "res3", "blocks": 2}, {"stage": "res4", "blocks": 3}]).splitlines()
    assert lines[0].split() == ["stage", "blocks"]
    assert [line.split() for line in lines[2:4]] == [["res3", "2"], ["res4", "3"]]


def test_lengths_of_time_for_people():
    texts = {0.8: "0.8 s", 20: "20 s", 60: "1 min", 125: "2 min 5 s", 3600: "1 h", 12_000: "3 h 20 min", 1e5: "1 d 3 h"}
    assert {given: format_seconds(given) for given in texts} == texts
