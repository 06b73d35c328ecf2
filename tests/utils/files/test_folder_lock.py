"""The lock on a folder, between processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from nlvideo.utils.files.locks import lock_folder

ROOT = Path(__file__).resolve().parents[2]
# Holds the lock, has a worker that outlives it, and waits to be killed.
HOLDER = """
import os, sys, time
from nlvideo.utils.files.locks import lock_folder
print(lock_folder(sys.argv[1]), flush=True)
if os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
"""


def _start(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLDER, str(folder)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)


def test_the_lock_is_that_of_one_living_process(tmp_path: Path) -> None:
    first = _start(tmp_path)
    assert first.stdout.readline() == "None\n"
    worker = int(first.stdout.readline())
    try:
        assert lock_folder(str(tmp_path)).startswith(f"process {first.pid} on ")
        # To ask is not to take.
        assert f"python -c {tmp_path}" in lock_folder(str(tmp_path))
        first.send_signal(signal.SIGKILL)
        first.wait()
        os.kill(worker, 0)
        assert lock_folder(str(tmp_path)) is None
        # A second run in this process is no other run.
        assert lock_folder(str(tmp_path)) is None
        second = _start(tmp_path)
        assert second.stdout.readline().startswith(f"process {os.getpid()} on ")
        second.kill()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch, caplog) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("nlvideo.utils.files.locks.lock_file", refuse)
    assert lock_folder(str(tmp_path)) is None
    assert f"{tmp_path} cannot be locked" in caplog.text and "no two runs" in caplog.text
