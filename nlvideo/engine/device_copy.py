"""Batches on their way to the GPU while it still computes with the one before."""

from typing import Any

import torch


class DeviceCopy:
    """Copies the tensors of a batch to the device on a stream of its own; on the CPU batches stay as they are.

    A loop that does not wait for the GPU asks for its next batch while the step before is still being computed; the
    copy, out of pinned memory, then runs beside that. Nothing is taken from the loader ahead of its time, so the stream
    of batches and what a resumed run sees are the same with it and without.
    """

    def __init__(self, device: torch.device):
        """Make the stream.

        Args:
            device: of the model.
        """
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Any) -> Any:
        """Return the batch with its tensors on the device; anything but a dict as it is."""
        if self._stream is None or not isinstance(batch, dict):
            return batch
        with torch.cuda.stream(self._stream):
            copies = {
                name: value.to(self.device, non_blocking=True)
                for name, value in batch.items()
                if isinstance(value, torch.Tensor) and not value.is_cuda
            }
        stream = torch.cuda.current_stream(self.device)
        stream.wait_stream(self._stream)
        for tensor in copies.values():
            # Their memory must not serve the next copy before the step is through with them.
            tensor.record_stream(stream)
        return {**batch, **copies}
