import os
import platform
import subprocess
import sys

import pytest

from nlvideo.utils.system import processes
from nlvideo.utils.system.processes import keep_freed_memory

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

# Thirty arrays of 3 MiB, written and freed, ten times; the first times are the allocator's to get used to it.
WORK = """
import resource
import numpy as np

def work():
    arrays = [np.full(3 * 2**17, 1.0) for _ in range(30)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(3):
    work()
before = faults()
for _ in range(10):
    work()
print(faults() - before)
"""


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    """Take away what the user of the tests has set."""
    for name in list(os.environ):
        if name.startswith(("MALLOC_", "GLIBC_TUNABLES")):
            monkeypatch.delenv(name)


def page_faults(start: str = "") -> int:
    """How many page faults WORK causes in a process of its own, after these lines."""
    done = subprocess.run([sys.executable, "-c", start + WORK], capture_output=True, text=True, check=True)
    return int(done.stdout)


KEEP = "from nlvideo.utils.system.processes import keep_freed_memory\nassert keep_freed_memory()\n"


@glibc
def test_memory_that_was_freed_is_not_cleared_again():
    pages = 10 * 30 * 3 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    assert page_faults() > pages / 2
    assert page_faults(KEEP) < pages / 100


@glibc
def test_scripts_keep_memory():
    start = "import argparse\nfrom nlvideo.engine.script import run_script\n"
    assert page_faults(start + "run_script(vars, argparse.ArgumentParser(), [])\n") < page_faults(start) / 10


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072")]
)
def test_what_the_user_set_stays(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "_mallopt", lambda: lambda *call: pytest.fail(f"mallopt{call}"))
    assert not keep_freed_memory()


def test_a_limit_that_is_refused_leaves_the_other_alone(monkeypatch):
    calls = []
    monkeypatch.setattr(processes, "_mallopt", lambda: lambda *call: calls.append(call))
    assert not keep_freed_memory()
    assert calls == [(-3, 2**25)]


def test_without_glibc_nothing_happens(monkeypatch):
    class Musl:
        def mallopt(self, parameter, value):
            pytest.fail("not glibc's")

    monkeypatch.setattr(processes.ctypes, "CDLL", lambda name: Musl())
    assert not keep_freed_memory()
