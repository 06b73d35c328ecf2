"""Items in processes: all results, whatever happens to one of them."""

import os
import signal

import pytest

from nlvideo.data.parallel import ProcessDied, map_in_processes


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
