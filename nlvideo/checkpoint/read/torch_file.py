"""Read what ``torch.save`` wrote, today's zip archives and the files from before PyTorch 1.6, building tensors only.

``torch.load(weights_only=True)`` refuses a whole file for one object beside the weights, and before PyTorch 2.6 some
files got past it.
"""

import errno
import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO

import torch
from torch import Tensor

from nlvideo.checkpoint.read.unpickle import Unbuilt, Unpickler, log_left_out, reason_of
from nlvideo.utils.messages import some

# Before PyTorch 1.6 a file was a row of pickles, the first of which is this number.
MAGIC = 0x1950A86A20F9469CFC6C

_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip


class _NoWeights(Exception):
    """Whole, and something else than a file of weights."""


class _Storage(Unbuilt):
    """Numbers of one type, without a shape."""

    def __init__(self, data: Tensor) -> None:
        super().__init__("torch.storage")
        self.data = data


class _TorchUnpickler(Unpickler):
    """Knows tensors, too. ``fill`` reads the numbers of the storage with a key into a tensor."""

    def __init__(self, file: BinaryIO, size: int, fill: Callable[[str, Tensor], None]) -> None:
        super().__init__(file)
        self._left, self._fill = size, fill
        self._storages: dict[str, _Storage] = {}

    def _known_calls(self) -> dict[tuple[str, str], Callable[..., Any]]:
        utils = "torch._utils"
        return super()._known_calls() | {
            (utils, "_rebuild_tensor"): _tensor,
            (utils, "_rebuild_tensor_v2"): _tensor,
            (utils, "_rebuild_tensor_v3"): _tensor,
            (utils, "_rebuild_parameter"): lambda data, *more: data,
            (utils, "_rebuild_parameter_with_state"): lambda data, *more: data,
            ("torch._tensor", "_rebuild_from_type_v2"): _with_attributes,
            ("torch", "Size"): lambda size: size,
        }

    def find_class(self, module: str, name: str) -> Any:
        """Types of numbers and of storages stand for themselves."""
        if module in ("torch", "torch.cuda", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        found = vars(torch).get(name) if module == "torch" else None
        return found if isinstance(found, torch.dtype) else super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Unbuilt:
        """Give a storage, the same for the same key; or a class, which files before PyTorch 1.6 hold with its text."""
        kind, dtype, key, _, count = (*pid, None)[:5] if type(pid) is tuple and len(pid) >= 4 else [None] * 5
        if kind == "module" and isinstance(dtype, Unbuilt):
            return dtype
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(key) is not str or any(pid[5:]):
            raise pickle.UnpicklingError(f"it refers to an object outside of the file, {str(pid)[:80]!r}")
        if key not in self._storages:
            if type(count) is not int or not 0 <= count * dtype.itemsize <= self._left:
                raise EOFError("it is cut short")
            self._left -= count * dtype.itemsize
            self._storages[key] = _Storage(torch.empty(count, dtype=dtype))
            self._fill(key, self._storages[key].data)
        storage = self._storages[key]
        if (storage.data.dtype, len(storage.data)) != (dtype, count):
            raise pickle.UnpicklingError(f"storage {key} has two types or sizes")
        return storage


def _with_attributes(function: Any, cls: Any, args: Any, *state: Any) -> Any:
    is_tensor = cls.name in ("torch.Tensor", "torch.nn.parameter.Parameter") and function.call is _tensor
    return _tensor(*args) if is_tensor else Unbuilt("a tensor of another class")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, *more: Any) -> Any:
    # After the hooks: another type than that of the storage, in version 3, and rarely what else it is.
    dtype = next((item for item in more if isinstance(item, torch.dtype)), None)
    if not isinstance(storage, _Storage) or any(item for item in more if item is not dtype):
        return Unbuilt("a tensor of another kind")
    flat = storage.data if dtype is None else storage.data.view(dtype)
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(number) is int and number >= 0 for number in numbers):
        raise pickle.UnpicklingError(f"a tensor of the shape {str(size)[:80]} and strides {str(stride)[:80]}")
    count = math.prod(size)
    if count and offset + sum((length - 1) * step for length, step in zip(size, stride)) >= len(flat):
        raise pickle.UnpicklingError(f"a tensor of the shape {size} in a storage of {len(flat)} numbers")
    return flat.as_strided(size, stride, offset) if count <= len(flat) else Unbuilt("a tensor that repeats its numbers")


def read_torch_file(file: BinaryIO, path: str) -> Any:
    """Read a file of ``torch.save`` onto the CPU: tensors and plain types. A dict lacks what is neither.

    Raises:
        ValueError: not such a file, a program, or cut short; in one line.
    """
    size = file.seek(0, 2)
    file.seek(0)
    is_archive = file.read(2) == b"PK"
    file.seek(0)
    try:
        content, left_out = _read_archive(file, size) if is_archive else _read_row(file, size)
    except MemoryError:
        raise
    except Exception as error:  # a broken archive or stream of opcodes can raise nearly anything
        if isinstance(error, _NoWeights):
            raise ValueError(f"{path}: {error}") from error
        # Broken archives have places before the beginning of the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        is_cut = isinstance(error, (zipfile.BadZipFile, EOFError, OSError))
        reason = "it is cut short or damaged" if is_cut else reason_of(error)
        raise ValueError(f"{path}: not a complete PyTorch file of tensors and plain types; {reason}") from error
    log_left_out(path, left_out)
    return content


def _read_archive(file: BinaryIO, size: int) -> tuple[Any, Iterable[str]]:
    """Read a zip archive: ROOT/data.pkl, and each storage as ROOT/data/KEY, uncompressed."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        roots = [name.removesuffix("data.pkl") for name in names if name.split("/")[1:] == ["data.pkl"]]
        if len(roots) != 1 or f"{roots[0]}constants.pkl" in names:
            raise _NoWeights(_kind_of_archive(names))
        (root,) = roots

        def read(name: str, count: int) -> bytes:
            """An archive that is compressed, or says one place is many, would fill the memory."""
            info = archive.getinfo(root + name)
            if info.file_size != count or info.compress_type != zipfile.ZIP_STORED:
                raise pickle.UnpicklingError(f"{name} is to have {count:,} bytes, and has {info.file_size:,}")
            return archive.read(info)

        def fill(key: str, data: Tensor) -> None:
            """The numbers of one storage."""
            _bytes_of(data)[:] = read(f"data/{key}", data.nbytes)

        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise _NoWeights("written on a machine of another byte order")
        length = min(size, archive.getinfo(f"{root}data.pkl").file_size)
        unpickler = _TorchUnpickler(io.BytesIO(read("data.pkl", length)), size, fill)
        return unpickler.load(), unpickler.left_out


def _kind_of_archive(names: Sequence[str]) -> str:
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program, no file of weights; save the model's state_dict() with torch.save"
    if any(name.endswith("models/model.json") for name in names):
        return "a program of torch.export, no file of weights; give the checkpoint that it was made from"
    return f"a zip archive of {some(names, 3)}, no file of torch.save"


def _read_row(file: BinaryIO, size: int) -> tuple[Any, Iterable[str]]:
    """Read the form before PyTorch 1.6: pickles of a number, a version, the machine, the object, the keys; storages."""
    _, _, machine = (Unpickler(file).load() for _ in range(3))
    if not machine.get("little_endian"):
        raise _NoWeights("written on a machine of another byte order")
    waiting: dict[str, Tensor] = {}
    unpickler = _TorchUnpickler(file, size, waiting.__setitem__)
    content = unpickler.load()
    for key in Unpickler(file).load():
        data = waiting.pop(key)
        if int.from_bytes(file.read(8), "little") != len(data) or file.readinto(_bytes_of(data)) != data.nbytes:
            raise EOFError
    if waiting:
        raise EOFError
    return content, unpickler.left_out


def _bytes_of(data: Tensor) -> memoryview:
    return memoryview(data.view(torch.uint8).numpy())
