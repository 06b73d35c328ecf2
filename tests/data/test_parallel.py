"""Items in processes: all results, whatever happens to one of them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from nlvideo.data.many_files import map_in_processes
from nlvideo.errors import ProcessDied


def square(value):
    """The square, or the end of the process for a negative number."""
    if value < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return value * value


def raise_it(value):
    """An error."""
    raise ValueError(f"no {value}")


@pytest.mark.parametrize("num_workers", [1, 3])
def test_every_item_once(num_workers):
    assert dict(map_in_processes(square, range(20), num_workers)) == {i: i * i for i in range(20)}
    assert list(map_in_processes(square, [], num_workers)) == []


def test_a_process_that_dies_takes_nothing_with_it():
    items = [1, 2, -1, 3, 4, 5, -2, 6, 7, 8, 9]
    results = dict(map_in_processes(square, items, 2))
    assert sorted(results) == list(range(len(items)))
    for index, item in enumerate(items):
        assert isinstance(results[index], ProcessDied) if item < 0 else results[index] == item * item


def test_errors_and_early_ends():
    with pytest.raises(ValueError, match="no 7"):
        list(map_in_processes(raise_it, [7], 1))
    endless = map_in_processes(square, iter(int, 1), 2)
    assert next(endless)[1] == 0
    endless.close()


class NeedsTwo(ValueError):
    """An error that cannot be built from its text."""

    def __init__(self, name, text):
        super().__init__(f"{name}: {text}")


def raise_odd(value):
    """An error that does not reach another process as it is."""
    raise NeedsTwo("item", value)


@pytest.mark.parametrize("start_method", [None, "spawn"])
def test_an_error_that_does_not_pickle_is_no_death(start_method):
    with pytest.raises(ValueError, match="^NeedsTwo: item: 7$"):
        list(map_in_processes(raise_odd, [7], 1, start_method))


ORPHANS = """
import os, time
from nlvideo.data.many_files import map_in_processes

def pid(item):
    time.sleep(0.2)
    return os.getpid()

results = map_in_processes(pid, range(10**6), 3)
print(*{next(results)[1] for _ in range(9)}, flush=True)
time.sleep(60)
"""


def test_workers_end_with_a_process_that_is_killed():
    main = subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in main.stdout.readline().split()]
    assert len(workers) == 3
    main.kill()
    main.wait(60)
    deadline = time.monotonic() + 20
    while any(_is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
