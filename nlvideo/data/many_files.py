"""A short look at each of many files, by as many threads as the file system is worth."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from nlvideo.utils.console import progress_bar

Item, Result = TypeVar("Item"), TypeVar("Result")
_CHUNK = 1000
# A look at one file: microseconds on a local disk, a fraction of a millisecond over a network.
_NUM_THREADS, _SLOW_SEC = 16, 3e-4


def look_at_files(look: Callable[[Item], Result], items: Sequence[Item], desc: str) -> Iterator[Result]:
    """Yield what a function returns of each item, in order.

    Args:
        look: opens a file or asks for its status. What it raises is raised here.
        items: paths, for example.
        desc: of the progress bar, which is shown where this takes its time.
    """
    chunks = [items[i : i + _CHUNK] for i in range(_CHUNK, len(items), _CHUNK)]
    begin = time.perf_counter()
    first = [look(item) for item in items[:_CHUNK]]
    slow = time.perf_counter() - begin > _SLOW_SEC * len(first)
    yield from first
    # A file system that takes its time is waited for by several threads; on a fast one they would wait for each other.
    with ThreadPoolExecutor(_NUM_THREADS if slow else 1) as pool:
        found = pool.map(lambda chunk: [look(item) for item in chunk], chunks)
        for results in progress_bar(found, total=len(chunks), desc=desc, delay=5, leave=False):
            yield from results
