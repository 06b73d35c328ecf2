"""Locks on files, which end with the process that holds them."""

import errno
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def lock_file(file: int | IO, wait: bool = False, inherited: bool = True) -> None:
    """Lock an open file for this process alone.

    Args:
        file: the file, or its descriptor.
        wait: until another process gives its lock up.
        inherited: forked processes keep the lock, too.

    Raises:
        BlockingIOError, PermissionError: another process holds the lock.
        OSError: the system or the file system has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOLCK, "this system has no locks on files")
    (fcntl.flock if inherited else fcntl.lockf)(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
