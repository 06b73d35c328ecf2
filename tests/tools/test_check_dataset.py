"""tools/check_dataset.py lists bad videos and exits accordingly."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools/check_dataset.py"


@pytest.fixture()
def check(call_tool):
    """``check(*arguments) -> (exit code, output, errors)``."""
    return partial(call_tool, "check_dataset")


def test_good_and_bad_datasets(tmp_path, make_video, check):
    for name in ("run/a.mp4", "walk/b.mp4"):
        make_video(tmp_path / name, num_frames=4)
    status, out, _ = check(f"folder:{tmp_path}", "--num-workers", "2")
    assert status == 0 and f"folder:{tmp_path}: 2 videos, 0 bad, fingerprint " in out
    (tmp_path / "walk/c.mp4").write_bytes(b"nonsense" * 50)
    status, out, _ = check(f"folder:{tmp_path}")
    assert status == 1 and f"{tmp_path}/walk/c.mp4: " in out and "3 videos, 1 bad" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["list:/nothing.csv"], "there is no file /nothing.csv"),
        (["beacon_tain"], "unknown dataset 'beacon_tain'"),
        (["beacon_val", "--num-workers", "0"], "--num-workers: got 0, allowed: 1 or more"),
    ],
)
def test_errors_are_one_line(check, arguments, message):
    status, out, err = check(*arguments)
    assert status == 2 and out == "" and message in err and err.count("\n") == 1


def test_help_does_not_import_torch():
    code = f"import runpy, sys; sys.argv = ['check', '--help']; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-X", "importtime", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0 and "--num-workers" in result.stdout and "| torch" not in result.stderr
