"""The processes that read data: what they do about signals, and what the error says when one of them dies."""

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

# Ranks wait this long for each other, too. No video takes so long to decode.
_STALLED_SEC = 1800.0


class WorkerWatch:
    """Notes which record each worker has begun to read, in shared memory, because a dead worker cannot say it.

    Args:
        records: the dataset, in the order of the indices that are noted.
        num_workers: of the loader.
    """

    def __init__(self, records: Sequence[Record], num_workers: int):
        self._records = records
        # For each worker: its process id, the index that it reads, and since when; 0 before the first.
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
                    waited = f"no data worker has begun a video for {_STALLED_SEC / 60:g} minutes"
                    raise WorkerDied(f"{waited}; they last read: {', '.join(files) or 'nothing'}")
        sent = batch[0] if isinstance(batch, list) else batch
        if isinstance(sent, Exception):
            try:
                raise sent
            finally:
                # Otherwise the error and this frame keep each other, and the workers, alive.
                del sent, batch
        return batch

    def _last_of_dead_workers(self, wait_sec: float = 1.0) -> list[str]:
        """What each worker that is no longer alive read last."""
        deadline = time.monotonic() + wait_sec
        while True:
            alive = {process.pid for process in multiprocessing.active_children()}
            dead = [index for pid, index, _ in self._begun.tolist() if pid and pid not in alive]
            if dead or time.monotonic() >= deadline:
                return [self._records[index]["file_name"] for index in dead]
            time.sleep(0.02)

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
                raise WorkerDied(
                    "too many open files: data workers hand every tensor over in one; allow more (`ulimit -n 65536`),"
                    " or use fewer DATALOADER.NUM_WORKERS"
                ) from None
            # The connection to a worker may break before the system knows that it is dead.
            broken = isinstance(error, (EOFError, ConnectionError))
            files = self._last_of_dead_workers() if broken or "DataLoader worker" in str(error) else []
            if not files:
                raise
            what = "DataLoader worker died" if broken else " ".join(str(error).split()).rstrip(".")
            raise WorkerDied(
                f"{what}. What it read last: {', '.join(files)}. Either decoding crashed, or memory ran out. For more"
                " memory, try fewer DATALOADER.NUM_WORKERS or smaller batches"
            ) from None


def explained(loader: object) -> AbstractContextManager:
    """Return ``WorkerWatch.explained`` of a loader, or a context that does nothing for one that has no watch."""
    watch = getattr(loader, "watch", None)
    return nullcontext() if watch is None else watch.explained()


@contextmanager
def full_memory_explained() -> Iterator[None]:
    """Start workers in this block, and make what they share. If there is no room for it, the error says what to do.

    Raises:
        OSError: one line.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        # Semaphores are in shared memory, too. Their error names no file.
        nameless = isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None
        if full := _full_memory(error, nameless):
            raise full from None
        raise


def _full_memory(error: BaseException, is_full: bool = False) -> OSError | None:
    """The error for a full shared memory, if torch's error says that a tensor or a worker found no room in it."""
    if not is_full and not re.search("</torch_.*No space left on device|out of shared memory", str(error)):
        return None
    # macOS has no /dev/shm.
    size = f" ({shutil.disk_usage('/dev/shm').total / 2**20:.0f} MiB)" if os.path.isdir("/dev/shm") else ""
    return OSError(
        f"/dev/shm is full{size}: data workers hand over what they read in it. Make it larger"
        " (`docker run --shm-size 8g`), or set DATALOADER.NUM_WORKERS to 0"
    )


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Start workers in this block, so that they outlive the signals that ask a run to stop.

    Ctrl-C, a scheduler's SIGTERM and the SIGHUP of a terminal that closes reach every process of a run. The main
    process then finishes its iteration and saves, for which it needs the workers. It ends them itself when it is done.
    Workers, and the server that forks them where there is one, inherit what is blocked here.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # The tracker unblocks signals when it starts. It must not start in the middle of the block.
    resource_tracker.ensure_running()
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def begin_worker(main_pid: int, worker_id: int = 0) -> None:
    """Prepare a worker of a loader, which was started with its signals blocked.

    Only a SIGTERM of the main process ends it, such as torch sends. If it cannot hand a batch over, it sends the error
    instead; torch would print it and leave the main process waiting. Torch passes ``worker_id``.
    """
    # The queue calls this method, which its documentation offers to subclasses, and torch makes the queue.
    queues.Queue._on_queue_feeder_error = _send_error  # type: ignore[attr-defined]
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for_sigterm, args=(main_pid,), daemon=True).start()
    elif hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _wait_for_sigterm(main_pid: int) -> None:
    # A signal handler would not know which process has sent the signal.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main_pid:
        pass
    os._exit(0)


def _send_error(queue: queues.Queue, error: Exception, item: tuple[int, Any]) -> None:
    # Called on the thread that writes into the queue; the item is the number of a batch and the batch.
    text = " ".join(str(error).split())
    failed = _full_memory(error) or WorkerDied(f"a data worker could not hand over what it read: {text}")
    queue.put((item[0], failed))
