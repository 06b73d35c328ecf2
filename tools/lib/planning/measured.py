"""What plans measure on this machine: the peak of memory of real steps, its arithmetic, the reading of videos."""

import contextlib
import os
import tempfile

import torch
from torch.profiler import ProfilerActivity, profile

from nlvideo.config import CfgNode
from nlvideo.data import get_dataset
from nlvideo.data.datasets.beacon import PRESETS
from nlvideo.data.datasets.official import datasets_root
from nlvideo.errors import LookupFailed, VideoDecodeError
from nlvideo.tools.lib.benchmarking import data
from nlvideo.tools.lib.benchmarking.timing import PRODUCT_FLOPS, alternate, matrix_product
from nlvideo.tools.lib.benchmarking.train import WARMUP_STEPS, Trial

from .machines import Gpu

# Videos of the training data whose reading is measured, and clips of each.
_VIDEOS, _CLIPS = 2, 4


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


def measure_machine() -> Gpu:
    """This machine in place of a GPU: the rate of its products, its memory, and how fast that is."""
    source, copy = torch.zeros(2, 2**26)
    found = alternate({"product": matrix_product(), "copy": lambda: copy.copy_(source)}, rounds=5)
    rate = PRODUCT_FLOPS / found["product"].median / 1e12
    bandwidth = 2 * source.nbytes / found["copy"].median / 1e9
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return Gpu("machine like this", rate, rate, round(memory, 1), bandwidth, 0, 0, 0)


def measure_reading(cfg: CfgNode) -> float | None:
    """Seconds of one core for a training clip, the mean of some videos; None where the data is not here."""
    name = (cfg.DATASETS.TRAIN or [""])[0]
    generated = name.rpartition("_")[0]
    if generated in PRESETS and not (datasets_root() / generated).is_dir():
        return None  # to ask for it would make it
    with (
        contextlib.suppress(LookupFailed, OSError, ValueError, VideoDecodeError),
        tempfile.TemporaryDirectory() as folder,
    ):
        records = get_dataset(name)
        paths = [records[number * len(records) // _VIDEOS]["file_name"] for number in range(_VIDEOS)]
        options = {"num_frames": cfg.INPUT.NUM_FRAMES, "frame_stride": cfg.INPUT.FRAME_STRIDE, "num_clips": _CLIPS}
        found = [
            data.measure(path, os.path.join(folder, str(i)), **options, rounds=2, step_seconds=0, clips_per_step=1)
            for i, path in enumerate(paths)
        ]
        return sum(1 / video["clips_per_second"] for video in found) / len(found)
    return None
