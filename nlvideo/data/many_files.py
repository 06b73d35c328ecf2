"""A short look at each of many files, by as many threads as the file system is worth."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

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
    chunks = [items[i : i + _CHUNK] for i in range(0, len(items), _CHUNK)]
    begin = time.perf_counter()
    yield from [look(item) for item in chunks[0]] if chunks else []
    slow = time.perf_counter() - begin > _SLOW_SEC * _CHUNK
    progress = tqdm(total=len(chunks) - 1, desc=desc, delay=5, leave=False)
    # A file system that takes its time is waited for by several threads; on a fast one they would wait for each other.
    with ThreadPoolExecutor(_NUM_THREADS if slow else 1) as pool, progress:
        for results in pool.map(lambda chunk: [look(item) for item in chunk], chunks[1:]):
            yield from results
            progress.update()
