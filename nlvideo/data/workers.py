"""The processes that read data: what they do about signals, and what is said when one of them dies."""

import errno
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing import queues, resource_tracker
from typing import Any

import torch
from torch.utils.data import get_worker_info

from nlvideo.data.catalog import Record
from nlvideo.errors import WorkerDied
from nlvideo.utils.system.processes import stop_signals

# As long as ranks wait for each other: no video takes so long to decode, whatever its length.
_STALLED_SEC = 1800.0


class WorkerWatch:
    """Notes, in memory that all workers share, which record each has begun to read: a dead worker cannot tell.

    Args:
        records: the dataset, in the order of the indices that are noted.
        num_workers: of the loader.
    """

    def __init__(self, records: Sequence[Record], num_workers: int):
        self._records = records
        # Process id, index and time of its beginning by worker; 0 before the first.
        with full_memory_explained():
            self._begun = torch.zeros(num_workers, 3, dtype=torch.int64).share_memory_()

    def note(self, index: int) -> None:
        """Remember that this worker begins to read a record; in the main process it does nothing."""
        worker = get_worker_info()
        if worker is not None:
            self._begun[worker.id] = torch.tensor([os.getpid(), index, time.monotonic()], dtype=torch.int64)

    def next_of(self, batches: Iterator[Any]) -> Any:
        """Return the next batch of a loader, None at its end.

        Raises:
            WorkerDied: a worker is dead, or no worker has begun a record for half an hour.
            Exception: what a worker sent in place of a batch.
        """
        start = time.monotonic()
        with self.explained():
            while True:
                try:
                    batch = next(batches, None)
                    break
                except RuntimeError as error:
                    if "DataLoader timed out" not in str(error):
                        raise
                if time.monotonic() - max(start, self._begun[:, 2].max().item()) > _STALLED_SEC:
                    files = [self._records[index]["file_name"] for pid, index, _ in self._begun.tolist() if pid]
                    raise WorkerDied(f"no data worker goes on; what they read last: {', '.join(files) or 'nothing'}")
        sent = batch[0] if isinstance(batch, list) else batch
        if isinstance(sent, Exception):
            try:
                raise sent
            finally:
                # Or error and frame keep each other, and the workers, alive until they are collected.
                del sent, batch
        return batch

    def files_of_the_dead(self) -> list[str]:
        """Return what each worker that is no longer alive read last."""
        alive = {process.pid for process in multiprocessing.active_children()}
        return [self._records[index]["file_name"] for pid, index, _ in self._begun.tolist() if pid and pid not in alive]

    def _wait_for_the_dead(self) -> list[str]:
        deadline = time.monotonic() + 1.0
        while not (files := self.files_of_the_dead()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return files

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the error that torch raises when a worker has died into one that says what it was reading.

        Torch raises it wherever the main process happens to be, so the block should hold all of the work.

        Raises:
            WorkerDied: one line.
        """
        try:
            yield
        except (RuntimeError, EOFError, ConnectionError) as error:
            if full := _full_memory(error):
                raise full from None
            if "Too many open files" in str(error):
                what = "too many open files: data workers hand every tensor over in one"
                raise WorkerDied(
                    f"{what}; allow more (`ulimit -n 65536`), or use fewer DATALOADER.NUM_WORKERS"
                ) from None
            # The connection to a worker may break before the system knows that it is dead.
            broken = isinstance(error, (EOFError, ConnectionError))
            files = self._wait_for_the_dead() if broken or "DataLoader worker" in str(error) else []
            if not files:
                raise
            what = "DataLoader worker died" if broken else " ".join(str(error).split()).rstrip(".")
            raise WorkerDied(
                f"{what}. What it read last: {', '.join(files)}. Either decoding that crashes, or memory ran out: then"
                " try fewer DATALOADER.NUM_WORKERS or smaller batches"
            ) from None


def explained(loader: object) -> AbstractContextManager:
    """Return ``WorkerWatch.explained`` of a loader, or a context that does nothing for one that has no watch."""
    watch = getattr(loader, "watch", None)
    return nullcontext() if watch is None else watch.explained()


@contextmanager
def full_memory_explained() -> Iterator[None]:
    """Start workers in this block, and make what they share: where there is no room for that, the error says what to do.

    Raises:
        OSError: one line.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        # Semaphores lie in the shared memory, too; their error names no file.
        nameless = isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None
        if full := _full_memory(error, nameless):
            raise full from None
        raise


def _full_memory(error: BaseException, is_full: bool = False) -> OSError | None:
    """The error for a full shared memory, if torch's is that: of a tensor that found no room, or a worker that died of it."""
    if not is_full and not re.search("</torch_.*No space left on device|out of shared memory", str(error)):
        return None
    size = (
        f" ({shutil.disk_usage('/dev/shm').total / 2**20:.0f} MiB)" if os.path.isdir("/dev/shm") else ""
    )  # macOS has none
    return OSError(
        f"/dev/shm is full{size}: data workers hand over what they read in it. Make it larger"
        " (`docker run --shm-size 8g`), or set DATALOADER.NUM_WORKERS to 0"
    )


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Start workers in this block, so that they outlive the signals that ask a run to stop.

    Ctrl-C, a scheduler's SIGTERM and the SIGHUP of a terminal that closes reach every process of a run. The main
    process then finishes its iteration and saves, for which it needs the workers. It ends them itself when it is done.
    What is blocked here stays blocked in them from their first moment, and in the server that forks them, where there
    is one.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # It unblocks both as it starts, which it would otherwise do in the middle of the block.
    resource_tracker.ensure_running()
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def begin_worker(main_pid: int, worker_id: int = 0) -> None:
    """Prepare a worker of a loader, which was started with its signals blocked.

    It ends at the main process's own SIGTERM; torch sends one. And where it cannot hand a batch over, it sends the error
    in its place: torch would print it and leave the main process waiting.

    Args:
        main_pid: the main process.
        worker_id: number of the worker, which does not matter.
    """
    queues.Queue._on_queue_feeder_error = _send_error
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for_sigterm, args=(main_pid,), daemon=True).start()
    elif hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _wait_for_sigterm(main_pid: int) -> None:
    # A handler would not learn who has sent the signal.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main_pid:
        pass
    os._exit(0)


def _send_error(queue: queues.Queue, error: Exception, item: tuple[int, Any]) -> None:
    # Called on the thread that writes into the queue; the item is the number of a batch and the batch.
    text = " ".join(str(error).split())
    failed = _full_memory(error) or WorkerDied(f"a data worker could not hand over what it read: {text}")
    queue.put((item[0], failed))
