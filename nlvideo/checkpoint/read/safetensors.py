"""Read ``.safetensors``: 8 bytes with the length of a header, the header in JSON, and the numbers in a row."""

import json
import math
from typing import Any, BinaryIO

import torch
from torch import Tensor

_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def is_safetensors(file: BinaryIO) -> bool:
    """Return whether a file begins like one: with a length that it has room for, and a JSON object."""
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    return file.read(1) == b"{" and length <= size - 8


def read_safetensors(file: BinaryIO, path: str) -> dict[str, Tensor]:
    """Read all tensors of a file that `is_safetensors` onto the CPU.

    Raises:
        ValueError: cut short, or with tensors that overlap, leave gaps or are of an unknown type; in one line.
    """
    num_bytes = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    tensors: dict[str, Tensor] = {}
    try:
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            tensors[name] = _read_tensor(file, entry, begin=file.tell() - 8 - length, left=num_bytes - file.tell())
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        reason = f"{type(error).__name__} {' '.join(str(error).split())}"
        raise ValueError(f"{path}: not a complete file of safetensors: {reason}") from error
    if file.tell() != num_bytes:
        raise ValueError(f"{path}: not a complete file of safetensors: {num_bytes - file.tell()} bytes too many")
    return tensors


def _read_tensor(file: BinaryIO, entry: dict[str, Any], begin: int, left: int) -> Tensor:
    dtype, shape, place = _TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    is_shape = all(type(size) is int and size >= 0 for size in shape)
    count = math.prod(shape) * dtype.itemsize if is_shape else left + 1
    if place != [begin, begin + count] or count > left:
        raise ValueError(f"{count} bytes of a tensor at {str(place)[:80]}, expected from {begin}, with {left} left")
    tensor = torch.empty(shape, dtype=dtype)
    file.readinto(tensor.view(-1).view(torch.uint8).numpy())
    return tensor
