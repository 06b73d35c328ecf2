"""Honest timings: cases take turns, medians and paired ratios, with the machine written beside them."""

import ctypes
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Timing:
    """Seconds of every run of one case, in the order of the rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the runs, seconds."""
        return statistics.median(self.seconds)

    def ratio_to(self, other: "Timing") -> float:
        """Median of this case's time divided by the other's of the same round: how many times slower this one is.

        Both ran within the same short while, so what slows the machine for longer than that cancels.
        """
        return statistics.median(mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True))


def alternate(
    cases: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 7,
    warmup: int = 1,
    max_seconds: float = float("inf"),
    synchronize: Callable[[], Any] | None = None,
) -> dict[str, Timing]:
    """Time cases in turn: every round runs each of them once, every second round in reverse order.

    Args:
        cases: what to run, by name.
        rounds: how often.
        warmup: rounds before those, not counted.
        max_seconds: no new round starts after this time, but one is always counted.
        synchronize: called before a clock is read, such as ``torch.cuda.synchronize``.

    Raises:
        ValueError: there are no rounds.
    """
    if rounds < 1:
        raise ValueError(f"rounds: got {rounds}, allowed: 1 or more")
    wait = synchronize or (lambda: None)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    start = time.perf_counter()
    for number in range(warmup + rounds):
        counted = number >= warmup
        late = time.perf_counter() - start > max_seconds
        if counted and late and all(seconds.values()):
            break
        if not counted and late:
            continue
        for name in reversed(list(cases)) if number % 2 else cases:
            wait()
            begin = time.perf_counter()
            cases[name]()
            wait()
            if counted:
                seconds[name].append(time.perf_counter() - begin)
    return {name: Timing(tuple(runs)) for name, runs in seconds.items()}


class PeakMemory:
    """What a piece of work needed at its peak beyond what was in use before; see ``peak_memory``.

    Attributes:
        bytes: beyond what was in use before.
        process_bytes: in all, with what was in use before.
    """

    bytes: int | None = None
    process_bytes: int | None = None


@contextmanager
def peak_memory(device: str = "cpu") -> Iterator[PeakMemory]:
    """Measure the peak of memory inside the ``with`` block.

    On CUDA this is PyTorch's own count. On the CPU it is the kernel's high-water mark of the process, so it has
    whatever libraries allocate without PyTorch; ``bytes`` stays None where the system keeps no such mark.

    Yields:
        An object whose ``bytes`` and ``process_bytes`` are set when the block ends.
    """
    peak = PeakMemory()
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.process_bytes = torch.cuda.max_memory_allocated(device)
        peak.bytes = peak.process_bytes - before
        return
    before_bytes = _reset_high_water_mark()
    yield peak
    if before_bytes is not None:
        peak.process_bytes = _status("VmHWM")
        peak.bytes = max(0, peak.process_bytes - before_bytes)


# Side of the matrices whose product stands for what a machine can do; and the operations of a product.
PRODUCT_SIDE = 1536
PRODUCT_FLOPS = 2 * PRODUCT_SIDE**3


def matrix_product(device: str = "cpu") -> Callable[[], Any]:
    """Return a case for `alternate`: a product of two float32 matrices of PRODUCT_SIDE, the peak of the machine."""
    import torch

    first, second = (torch.randn(PRODUCT_SIDE, PRODUCT_SIDE, device=device) for _ in range(2))
    return lambda: first @ second


def environment() -> dict[str, str]:
    """Processor, accelerator and versions, to be written beside every figure."""
    import av
    import torch

    found = {
        "cpu": f"{os.cpu_count()} cores of {_cpu_name()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "av": av.__version__,
        "threads": str(torch.get_num_threads()),
        "date": time.strftime("%Y-%m-%d"),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _reset_high_water_mark() -> int | None:
    """Give free memory back to the system and forget earlier peaks; return what is in use, bytes."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        # Otherwise memory that was freed but kept by the allocator would hide new use of it.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):  # another libc, or a sandbox
        return None
    return _status("VmRSS")


def _status(field: str) -> int:
    """A field of the kernel's status of this process, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(f"{field} is not in /proc/self/status")
