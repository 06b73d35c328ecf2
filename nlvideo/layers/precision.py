"""In which precision sums are made: float32 or wider, whatever autocast or half-precision weights say."""

from contextlib import AbstractContextManager, nullcontext

import torch


def accumulation_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """The widest dtype among the tensors, but at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def without_autocast(tensor: torch.Tensor) -> AbstractContextManager:
    """A context in which autocast lowers nothing on the tensor's device.

    Entered in forward and again in the backward of an ``autograd.Function``: backward may itself run under autocast.
    """
    if tensor.device.type == "meta":  # has no autocast
        return nullcontext()
    return torch.amp.autocast(tensor.device.type, enabled=False)
