"""The peak of memory of real training steps, to compare with what was counted."""

import torch
from torch.profiler import ProfilerActivity, profile

from nlvideo.config import CfgNode
from nlvideo.tools.lib.benchmarking.train import WARMUP_STEPS, Trial


def measure_peak(cfg: CfgNode) -> int:
    """Bytes that PyTorch had allocated at the peak of real steps of a config, from the building of the model on.

    On a CPU this is the sum over the profiler's list of allocations. On a GPU it is PyTorch's own count.

    Args:
        cfg: SOLVER.CLIPS_PER_BATCH clips make one pass; MODEL.DEVICE says where.
    """
    if cfg.MODEL.DEVICE != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        _step(cfg)
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        _step(cfg)
    events = [event for event in run.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def _step(cfg: CfgNode) -> None:
    trial = Trial(cfg, "synthetic", None)
    for _ in range(WARMUP_STEPS):
        trial.step()
