"""The processes that read data: what they do about signals, and what is said when one of them dies."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing import resource_tracker

import torch
from torch.utils.data import get_worker_info

from nlvideo.data.catalog import Record


class WorkerDied(RuntimeError):
    """A process that reads data was ended by the system, or by a crash of the decoder."""


class WorkerWatch:
    """Notes, in memory that all workers share, which record each has begun to read: a dead worker cannot tell.

    Args:
        records: the dataset, in the order of the indices that are noted.
        num_workers: of the loader.
    """

    def __init__(self, records: Sequence[Record], num_workers: int):
        self._records = records
        # Process id and index by worker; 0 before the first.
        self._begun = torch.zeros(num_workers, 2, dtype=torch.int64).share_memory_()

    def note(self, index: int) -> None:
        """Remember that this worker begins to read a record; in the main process it does nothing."""
        worker = get_worker_info()
        if worker is not None:
            self._begun[worker.id, 0] = os.getpid()
            self._begun[worker.id, 1] = index

    def files_of_the_dead(self) -> list[str]:
        """Return what each worker that is no longer alive read last."""
        alive = {process.pid for process in multiprocessing.active_children()}
        return [self._records[index]["file_name"] for pid, index in self._begun.tolist() if pid and pid not in alive]

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
            # The connection to a worker may break before the system has buried it.
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
def signals_blocked() -> Iterator[None]:
    """Start workers in this block, so that they outlive the signals that ask a run to stop.

    Ctrl-C and a scheduler's SIGTERM reach every process of a run. The main process then finishes its iteration and
    saves, for which it needs the workers; it ends them itself when it is done. What is blocked here stays blocked in
    them from their first moment, and in the server that forks them, where there is one.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # It unblocks both as it starts, which it would otherwise do in the middle of the block.
    resource_tracker.ensure_running()
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def obey_main_process(main_pid: int, worker_id: int = 0) -> None:
    """Let a worker that was started with its signals blocked end at the main process's own SIGTERM; torch sends one.

    Args:
        main_pid: the main process.
        worker_id: number of the worker, which does not matter.
    """
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
