"""A process: the command that started it, its CPUs, its memory and its end. Nothing here imports torch."""

import ctypes
import multiprocessing
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence

#: signals within this time are one: a keypress can arrive several times, from the terminal and from a launcher
ONE_KEYPRESS_SEC = 1.0

# glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Environment variables by which a user sets the same limits.
_USER_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")
# Blocks up to this size, 32 MiB, come from memory that is kept: as large as glibc itself lets them become. Without a
# limit, a step with 128 frames is no faster and takes a fifth more memory, for gaps between blocks of hundreds of MiB.
_KEPT_BLOCKS = 2**25
_NEVER = -1
# Linux's prctl.h.
_PR_SET_PDEATHSIG = 1


def command_line(argv: Sequence[str] | None = None, python: str = "python") -> str:
    """Return the command that started this process, or of other ``argv``, ready to paste into a shell.

    ``python`` is the interpreter to name. Under ``torchrun``, that takes its place.
    """
    command = [python, *(sys.argv if argv is None else argv)]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        command[:1] = ["torchrun", "--nproc-per-node", os.environ.get("LOCAL_WORLD_SIZE", "1")]
    return shlex.join(command)


def job() -> dict[str, str]:
    """Return the ``id`` of the launcher's job that this process is a rank of, and its ``agent``; empty without one.

    A rank that an agent starts again has the same. Without a name of its own, a job is called "none".
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return {"id": name, "agent": f"process {os.getppid()} on {socket.gethostname()}"} if name else {}


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use. In a container it may be smaller than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """End this process when the one that started it ends or is killed. It would go on, or wait for work, for ever."""
    if sys.platform == "linux":
        # torch has the kernel send SIGINT instead. Ranks would take it for a user's, and stop those of other machines.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0)
    threading.Thread(target=_end_after, args=(multiprocessing.parent_process(), os.getppid()), daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess | None, number: int) -> None:
    if parent is not None:
        parent.join()
    # A launcher of another kind: its ranks get another parent when it ends.
    while os.getppid() == number:
        time.sleep(1)
    os._exit(1)


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask a run to stop: Ctrl-C, a scheduler's, and that of a terminal that closes.

    Under ``nohup`` the last is ignored, and it does not exist on Windows.
    """
    signals = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)
    return signals if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN else [*signals, hangup]


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory for what is allocated next, if it is glibc.

    A step on a CPU frees what the next one allocates again. By default glibc gives much of it back to the system, which
    then clears every page: thousands of page faults a step, a quarter of the time of a small network. With this, a
    process stays as large as it was at its peak. It is for scripts, which own their process. What the user set about it
    in the environment stays.

    Returns:
        Whether freed memory is kept now.
    """
    mallopt = _mallopt()
    if mallopt is None or any(name in os.environ for name in _USER_VARIABLES):
        return False
    if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    # In this order: setting the second alone would leave glibc's first limit at 128 KiB.
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCKS) and mallopt(_M_TRIM_THRESHOLD, _NEVER))


def _mallopt() -> Callable[[int, int], int] | None:
    """The function of glibc. Other C libraries have none, or one that does nothing."""
    try:
        library = ctypes.CDLL(None)
        return library.mallopt if hasattr(library, "gnu_get_libc_version") else None
    except (OSError, TypeError, AttributeError):  # TypeError: Windows
        return None
