"""The precision of sums: float32 or wider, also under autocast and with weights in half precision."""

from contextlib import AbstractContextManager, nullcontext

import torch


def accumulation_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """The widest dtype among the tensors, but at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def widened(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """The tensors in their ``accumulation_dtype``."""
    dtype = accumulation_dtype(*tensors)
    return [tensor.to(dtype) for tensor in tensors]


def without_autocast(tensor: torch.Tensor) -> AbstractContextManager:
    """A context in which autocast lowers nothing on the tensor's device.

    The backward pass of an ``autograd.Function`` enters it again, because it may run under autocast itself.
    """
    if tensor.device.type == "meta":  # which has no autocast
        return nullcontext()
    return torch.amp.autocast(tensor.device.type, enabled=False)
