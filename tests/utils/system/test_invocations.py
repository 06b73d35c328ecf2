"""The record of what was started in a folder."""

import datetime
import json
import os
import sys

from nlvideo.utils.system.env import append_invocation, read_invocations
from nlvideo.utils.system.processes import command_line


def test_lines_are_appended_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/train_net.py", "DATASETS.TRAIN", "['list:a b.csv']"])
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    append_invocation(str(tmp_path), {"torch": "2.9"}, eval_only=False)
    append_invocation(str(tmp_path), {}, eval_only=True)
    first, second = read_invocations(str(tmp_path))
    assert first["command"] == """python tools/train_net.py DATASETS.TRAIN '['"'"'list:a b.csv'"'"']'"""
    assert (first["folder"], first["environment"], first["eval_only"]) == (os.getcwd(), {"torch": "2.9"}, False)
    age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(first["time"])
    assert age.total_seconds() < 60 and second["eval_only"] is True


def test_damaged_lines_and_no_file(tmp_path):
    assert read_invocations(str(tmp_path)) == []
    path = tmp_path / "invocations.json"
    path.write_bytes(b'{"command": "a"}\n{"comm\n[1]\n\xff\xfe\n' + json.dumps({"command": "b"}).encode())
    assert [row["command"] for row in read_invocations(str(tmp_path))] == ["a", "b"]


def test_the_launcher_is_part_of_the_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/train_net.py", "--resume"])
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert command_line() == "torchrun --nproc-per-node 4 tools/train_net.py --resume"
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert command_line() == "python tools/train_net.py --resume"
    assert command_line(["a.py", "x y"], "/usr/bin/python3") == "/usr/bin/python3 a.py 'x y'"
