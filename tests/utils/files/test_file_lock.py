import multiprocessing

import pytest

from nlvideo.utils.files import locks
from nlvideo.utils.files.locks import lock_file


def hold(path, told, go_on):
    with open(path, "a+") as file:
        lock_file(file)
        told.set()
        go_on.wait(30)


@pytest.mark.parametrize("inherited", [True, False])
def test_a_lock_ends_with_its_process(tmp_path, inherited):
    path, context = tmp_path / "lock", multiprocessing.get_context("spawn")
    told, go_on = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(path, told, go_on))
    holder.start()
    assert told.wait(60)
    with open(path, "a+") as file:
        with pytest.raises(BlockingIOError):
            lock_file(file)
        holder.kill()
        holder.join()
        lock_file(file, inherited=inherited)


def test_a_system_without_locks_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(locks.sys, "platform", "win32")
    with open(tmp_path / "lock", "w") as file, pytest.raises(OSError, match="no locks on files"):
        lock_file(file)
