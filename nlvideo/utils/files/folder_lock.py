"""A lock on a folder that ends with the process that holds it."""

import datetime
import errno
import logging
import os
import socket
from typing import TextIO

from nlvideo.utils.files.file_lock import lock_file
from nlvideo.utils.system.invocations import command_line

logger = logging.getLogger(__name__)

# Closing a file gives its lock up, so these stay open until the process ends.
_held: dict[str, TextIO] = {}


def lock_folder(folder: str) -> str | None:
    """Lock a folder until this process ends, and return None; or return in words which process holds the lock.

    Processes that are forked do not inherit it: none of them keeps it after a kill. Where the file system has no locks,
    the log says so.
    """
    path = os.path.realpath(os.path.join(folder, ".lock"))
    if path in _held and os.path.exists(path):
        return None
    file = open(path, "a+", encoding="utf8", errors="replace")
    try:
        lock_file(file, inherited=False)
    except OSError as error:
        with file:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                return file.read().strip() or "a process that has just begun"
        logger.warning("%s cannot be locked (%s): see to it that no two runs write there", folder, error)
        return None
    now = datetime.datetime.now().isoformat(" ", "seconds")
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now}: {command_line()}\n")
    file.flush()
    _held[path] = file
    return None
