"""Reduce a state to what a safe loader reads: tensors on the CPU and plain Python types. Write files of weights."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nlvideo.checkpoint.read.read_file import METADATA, SAFETENSORS
from nlvideo.utils.files.file_io import atomic_write

_PLAIN = (type(None), bool, int, float, str)


def save_weights(path: str, weights: Mapping[str, Tensor], **extra: Any) -> None:
    """Write a file of weights, whole or not at all: safetensors if ``path`` ends so, or else PyTorch's format.

    Args:
        path: the file; its folder exists.
        weights: name -> tensor. Two names of one tensor become two tensors, and of a view only its part is written.
        **extra: plain values such as ``classes``. `read_file` gives them back. Safetensors has them in its metadata.

    Raises:
        ImportError: safetensors is not installed; the message has the command.
        ValueError: something is neither a tensor nor a plain type.
    """
    weights = {name: tensor.clone().contiguous() for name, tensor in to_plain(weights, "model").items()}
    if not path.endswith(SAFETENSORS):
        atomic_write(path, lambda file: torch.save({"model": weights, **extra}, file))
        return
    try:
        from safetensors.torch import save
    except ImportError:
        raise ImportError(f"{path} needs safetensors: pip install 'nlvideo[hub]'") from None
    metadata = {"format": "pt", METADATA: json.dumps(extra)}
    atomic_write(path, lambda file: file.write(save(weights, metadata)))


def to_plain(value: Any, where: str) -> Any:
    """Return ``value`` with tensors detached on the CPU, mappings as dicts and NumPy scalars as Python numbers.

    ``torch.load(weights_only=True)`` refuses a whole file for one foreign object. That may show years after the run. So
    foreign objects are refused here, when the file is written.

    Raises:
        ValueError: an object of another type; names its place, below ``where``.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {to_plain(key, f"a key of {where}"): to_plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [to_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if type(value) in _PLAIN:
        return value
    raise ValueError(
        f"checkpoint entry {where}: got {type(value).__module__}.{type(value).__qualname__}, allowed: tensors, dict, "
        "list, tuple, str, int, float, bool, None"
    )


def first_not_finite(value: Any, where: str = "") -> str | None:
    """Return the place, below ``where``, of the first tensor in a state that holds NaN or infinity, or None."""
    if isinstance(value, Tensor):
        return where if value.is_floating_point() and not value.isfinite().all() else None
    if not isinstance(value, (Mapping, list, tuple)):
        return None
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    places = (first_not_finite(item, f"{where}.{key}".lstrip(".")) for key, item in items)
    return next((place for place in places if place), None)
