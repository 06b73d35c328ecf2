"""How much memory a training needs."""

import resource
import sys

import torch
from torch import nn

from nlvideo.engine.hooks import is_due
from nlvideo.engine.train_loop import HookBase

_MIB = 2**20


class PeakMemory(HookBase):
    """Puts the peak of memory so far into the storage, in MiB, whenever a line is about to be written.

    On a GPU it is what torch has allocated there, ``peak_gpu_memory_mib``; else what the process has held in memory,
    ``peak_cpu_memory_mib``, without the workers that decode. Of rank 0, like everything that is written.
    """

    def __init__(self, model: nn.Module, period: int):
        """Set what to look at.

        Args:
            model: its device decides which memory counts.
            period: iterations between two looks.
        """
        self._device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self._period = period

    def after_step(self) -> None:
        """Look if it is time."""
        if not (is_due(self.trainer.iter + 1, self._period) or self.trainer.is_last_step):
            return
        if self._device.type == "cuda":
            name, num_bytes = "peak_gpu_memory_mib", torch.cuda.max_memory_allocated(self._device)
        else:
            # Linux counts in KiB, macOS in bytes.
            unit = 1 if sys.platform == "darwin" else 1024
            name, num_bytes = "peak_cpu_memory_mib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        self.trainer.storage.put_scalar(name, num_bytes / _MIB, smoothing_hint=False)
