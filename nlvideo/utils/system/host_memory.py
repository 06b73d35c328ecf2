"""How this process holds on to memory of the host."""

import ctypes
import os
from collections.abc import Callable

# glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Environment variables by which a user sets the same limits.
_USER_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")
_USER_TUNABLES = "glibc.malloc."
# Blocks up to this size, 32 MiB, come from memory that is kept: as large as glibc itself lets them become. Without a limit
# a step with 128 frames is no faster and takes a fifth more memory, for the gaps between blocks of hundreds of MiB.
_KEPT_BLOCKS = 2**25
_NEVER = -1


def keep_freed_memory() -> bool:
    """Have the C library keep memory that was freed for what is allocated next, where it is glibc's.

    A step on a CPU frees what the next one allocates again. glibc gives much of it back to the system in between, which
    then clears every page: thousands of page faults a step, a quarter of the time of a small network's. It is kept
    instead, so that a process stays as large as it was at its peak. For scripts, which own their process; what the user
    has set about it in the environment stays.

    Returns:
        Whether it is so now.
    """
    mallopt = _mallopt()
    if mallopt is None or any(name in os.environ for name in _USER_VARIABLES):
        return False
    if _USER_TUNABLES in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    # In this order: setting the second alone would leave glibc's first limit at 128 KiB.
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCKS) and mallopt(_M_TRIM_THRESHOLD, _NEVER))


def _mallopt() -> Callable[[int, int], int] | None:
    """Glibc's function of this name; other C libraries have none, or one that does nothing."""
    try:
        library = ctypes.CDLL(None)
        return library.mallopt if hasattr(library, "gnu_get_libc_version") else None
    except (OSError, TypeError, AttributeError):  # TypeError: Windows
        return None
