"""Many files: a short look at each by threads, or long work on each in processes.

A file that takes its process down takes nothing else with it.
"""

import multiprocessing
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from multiprocessing.context import BaseContext
from typing import TypeVar

from nlvideo.errors import ProcessDied, portable
from nlvideo.utils.console import progress_bar
from nlvideo.utils.system.processes import end_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")
_CHUNK = 1000
# Threads for a slow file system. It is slow if a look at a file takes longer than so many seconds: microseconds are
# usual on a local disk, a fraction of a millisecond over a network.
_NUM_THREADS, _SLOW_SEC = 16, 3e-4


def look_at_files(look: Callable[[Item], Result], items: Sequence[Item], desc: str) -> Iterator[Result]:
    """Yield what ``look``, which opens a file or asks for its status, returns of each item, in order.

    What it raises is raised here. If this takes long, a progress bar shows ``desc``.
    """
    chunks = [items[i : i + _CHUNK] for i in range(_CHUNK, len(items), _CHUNK)]
    begin = time.perf_counter()
    first = [look(item) for item in items[:_CHUNK]]
    slow = time.perf_counter() - begin > _SLOW_SEC * len(first)
    yield from first
    # Several threads help on a slow file system. On a fast one they would only wait for each other.
    with ThreadPoolExecutor(_NUM_THREADS if slow else 1) as pool:
        found = pool.map(lambda chunk: [look(item) for item in chunk], chunks)
        for results in progress_bar(found, total=len(chunks), desc=desc, delay=5, leave=False):
            yield from results


def map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int, start_method: str | None = None
) -> Generator[tuple[int, Result | ProcessDied], None, None]:
    """Yield (index of an item, result) as results come in; a ``ProcessDied`` stands for a result that never came.

    Workers ignore Ctrl-C, so that they finish what they have begun while this process stops. They end with it.

    Args:
        function: pickles, and so do items and results. What it raises is raised here.
        items: taken as they are needed.
        num_workers: processes.
        start_method: "spawn" where this process may run threads of torch; None: Python's default.
    """
    queue, work = enumerate(items), partial(_answer, function)
    context = multiprocessing.get_context(start_method)
    while lost := (yield from _run_pool(work, queue, num_workers, context)):
        # One of these items ended the process. Each is tried in a process of its own, to find out which.
        for index, item in lost:
            if (yield from _run_pool(work, iter([(index, item)]), 1, context)):
                yield index, ProcessDied("the process that read it died: a crash, or out of memory")


def _run_pool(
    function: Callable[[Item], Result], queue: Iterator[tuple[int, Item]], num_workers: int, context: BaseContext
) -> Generator[tuple[int, Result], None, list[tuple[int, Item]]]:
    """Work until the queue is empty or a process dies; return the items that were then being worked on."""
    begun: dict[int, Item] = {}
    running: dict[Future[Result], int] = {}
    pool = ProcessPoolExecutor(num_workers, context, initializer=_begin_worker)
    try:
        while True:
            for index, item in islice(queue, 2 * num_workers - len(running)):
                begun[index] = item
                running[pool.submit(function, item)] = index
            if not running:
                return []
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result = future.result()
                index = running.pop(future)
                del begun[index]
                yield index, result
    except BrokenProcessPool:
        return list(begun.items())
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _answer(function: Callable[[Item], Result], item: Item) -> Result:
    try:
        return function(item)
    except Exception as error:
        raise portable(error)  # noqa: B904, an error that is portable as it is would be its own cause
