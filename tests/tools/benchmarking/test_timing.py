"""Cases take turns, ratios are paired, peaks of memory are seen."""

import time

import pytest
import torch

from nlvideo.tools.lib.benchmarking.timing import Timing, alternate, environment, peak_memory

MIB = 2**20


def test_cases_take_turns_and_the_order_alternates():
    order = []
    timings = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warmup=1)
    assert "".join(order) == "abbaabba"
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 3, "b": 3}


def test_medians_and_paired_ratios():
    slow, fast = Timing((2.0, 40.0, 6.0)), Timing((1.0, 10.0, 3.0))
    assert slow.median == 6
    assert slow.ratio_to(fast) == 2  # of 2, 4, 2; the ratio of the medians is 2 as well
    assert Timing((1.0, 30.0)).ratio_to(Timing((1.0, 10.0))) == 2


def test_time_is_what_passed():
    timing = alternate({"sleep": lambda: time.sleep(0.02)}, rounds=2, warmup=0)["sleep"]
    assert 0.02 <= timing.median < 0.2


def test_a_limit_in_time_still_counts_one_round():
    timing = alternate({"sleep": lambda: time.sleep(0.02)}, rounds=50, warmup=1, max_seconds=0.01)["sleep"]
    assert len(timing.seconds) == 1


def test_the_device_is_waited_for_before_every_reading_of_the_clock():
    waits = []
    alternate({"a": lambda: None}, rounds=2, warmup=0, synchronize=lambda: waits.append(1))
    assert len(waits) == 4


def test_rounds_are_needed():
    with pytest.raises(ValueError, match="rounds: got 0, allowed: 1 or more"):
        alternate({}, rounds=0)


@pytest.mark.parametrize("size", [4 * MIB, 100 * MIB])
def test_peak_memory_sees_what_is_freed_again(size):
    with peak_memory() as nothing:
        pass
    if nothing.bytes is None:
        pytest.skip("this system keeps no high-water mark of a process's memory")
    for _ in range(2):  # the second time the allocator could serve it from what was freed
        with peak_memory() as peak:
            torch.ones(size, dtype=torch.uint8)
        assert 0.9 * size < peak.bytes < size + 4 * MIB
    assert nothing.bytes < 2 * MIB


def test_on_a_gpu_the_one_that_is_named_is_measured(monkeypatch):
    asked = []
    for name in ("synchronize", "memory_allocated", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device: asked.append(device) or len(asked))
    with peak_memory("cuda:1") as peak:
        pass
    assert asked == ["cuda:1"] * 5 and (peak.process_bytes, peak.bytes) == (5, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peak_memory_on_a_gpu():
    with peak_memory("cuda") as peak:
        torch.ones(100 * MIB, dtype=torch.uint8, device="cuda")
    assert peak.bytes == 100 * MIB


def test_the_environment_names_machine_and_versions():
    found = environment()
    assert found["torch"] == torch.__version__ and found["cpu"].split()[0].isdigit() and "date" in found
