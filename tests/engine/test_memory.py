"""The peak of memory among the scalars."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nlvideo.config import CfgNode
from nlvideo.engine import DefaultTrainer
from nlvideo.engine.hooks import MemoryStats
from nlvideo.utils.events import EventStorage


def _put(hook: MemoryStats, iterations: range, last: int) -> dict[str, list[tuple[float, int]]]:
    with EventStorage() as storage:
        for i in iterations:
            storage.iter = i
            # Trainers know a hook's trainer as an attribute.
            hook.trainer = SimpleNamespace(iter=i, is_last_step=i == last, storage=storage)
            hook.after_step()
        return {name: storage.history(name).values() for name in storage.latest()}


def test_it_is_looked_at_when_a_line_is_due_and_at_the_end() -> None:
    found = _put(MemoryStats(nn.Linear(2, 2), 4), range(11), last=10)
    assert list(found) == ["peak_cpu_memory_mib"]
    assert [iteration for _, iteration in found["peak_cpu_memory_mib"]] == [3, 7, 10]


def test_it_is_the_peak_that_the_kernel_has_counted() -> None:
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("this system has no /proc to compare with")
    peak_kib = int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    found = _put(MemoryStats(nn.Identity(), 1), range(1), last=0)["peak_cpu_memory_mib"][0][0]
    assert found == pytest.approx(peak_kib / 1024, rel=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_is_what_torch_has_allocated() -> None:
    found = _put(MemoryStats(nn.Linear(2, 2).cuda(), 1), range(1), last=0)
    assert found["peak_gpu_memory_mib"][0][0] == torch.cuda.max_memory_allocated() / 2**20


def test_a_training_writes_it_and_the_console_does_not(tiny_cfg: Callable[..., CfgNode], caplog) -> None:
    cfg = tiny_cfg()
    with caplog.at_level("INFO"):
        DefaultTrainer(cfg).train()
    lines = [json.loads(line) for line in (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()]
    name = "peak_gpu_memory_mib" if torch.cuda.is_available() and cfg.MODEL.DEVICE != "cpu" else "peak_cpu_memory_mib"
    assert all(line[name] > 0 for line in lines)
    assert not any("peak_" in message for message in caplog.messages)
