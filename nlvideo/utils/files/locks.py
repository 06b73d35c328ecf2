"""Locks on files and folders, which end with the process that holds them."""

import datetime
import errno
import logging
import os
import socket
import sys
from typing import IO, TextIO

from nlvideo.utils.system.processes import command_line

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

# Closing a file gives up its lock, so these stay open until the process ends.
_held: dict[str, TextIO] = {}


def lock_file(file: int | IO, wait: bool = False, inherited: bool = True) -> None:
    """Lock an open file for this process alone.

    Args:
        file: the file, or its descriptor.
        wait: wait until another process gives up its lock.
        inherited: forked processes keep the lock, too.

    Raises:
        BlockingIOError, PermissionError: another process holds the lock.
        OSError: the system or the file system has no locks.
    """
    if sys.platform == "win32":
        raise OSError(errno.ENOLCK, "this system has no locks on files")
    (fcntl.flock if inherited else fcntl.lockf)(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def lock_folder(folder: str) -> str | None:
    """Lock a folder until this process ends, and return None; or return in words which process holds the lock.

    Forked processes do not inherit it: none of them keeps it after a kill. Where the file system has no locks, the log
    says so.
    """
    path = os.path.realpath(os.path.join(folder, ".lock"))
    if path in _held and os.path.exists(path):
        return None
    file = open(path, "a+", encoding="utf8", errors="replace")  # noqa: SIM115 it stays open
    try:
        lock_file(file, inherited=False)
    except OSError as error:
        with file:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                return file.read().strip() or "a process that has just begun"
        logger.warning("%s cannot be locked (%s): make sure that no two runs write there", folder, error)
        return None
    now = datetime.datetime.now().isoformat(" ", "seconds")
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now}: {command_line()}\n")
    file.flush()
    _held[path] = file
    return None
