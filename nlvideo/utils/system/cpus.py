"""How many processes to start; loads nothing heavy, for the scripts' defaults."""

import os


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use, which a container can make fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
