"""Read any file of weights, whatever its ending, without executing anything in it.

``torch.load(weights_only=True)`` refuses a whole file for one object beside the weights. Before PyTorch 2.6, some files
could execute code in spite of it. So tensors are built here, and `unpickle` reads the pickles.
"""

import errno
import io
import json
import logging
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from nlvideo.checkpoint.catalog import resolve_weights
from nlvideo.checkpoint.read.unpickle import Unbuilt, Unpickler
from nlvideo.utils.files.file_io import PathManager, place_in_cache
from nlvideo.utils.files.file_kind import kind_of_file
from nlvideo.utils.messages import some

logger = logging.getLogger(__name__)

SAFETENSORS = ".safetensors"
#: where our files of safetensors keep what a checkpoint has beside the weights: its classes, its config
METADATA = "nlvideo"
# torch.save writes a zip archive. Before PyTorch 1.6 it wrote a row of pickles, the first of which is this number.
_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
# A pickle begins with the first of these since protocol 2; an older one of a dict begins with one of the others.
_PICKLE_STARTS = (b"\x80", b"(", b"}")

_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip
_SAFETENSORS_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip

# What a file holds, and the names of what was not built.
_Content = tuple[Any, Iterable[str]]


class _NoWeights(Exception):
    """The file is whole, but is no file of weights."""


def read_file(path: str) -> dict[str, Any]:
    """Read what MODEL.WEIGHTS names: a PyTorch file, safetensors, or a pickle of arrays. The content shows which it is.

    Nothing in it is executed. What is neither a tensor, an array nor a plain type is left out, and the log says so.

    Args:
        path: a file, an address that iopath reads, or a name; see `resolve_weights`.

    Raises:
        FileNotFoundError: the file is missing.
        LookupFailed: torchvision has no such weights.
        ValueError: the file is of another kind, cut short, or holds no dict; in one line.
        OSError: it cannot be downloaded.
    """
    address = resolve_weights(path)
    try:
        local = PathManager.get_local_path(address)
    except ConnectionError as error:
        if not address.startswith("http"):
            raise
        advice = f"without a network, put {address} at {place_in_cache(address)}"
        raise ConnectionError(f"{path}: cannot be downloaded: {error}; {advice}") from error
    if not os.path.isfile(local):
        raise FileNotFoundError(f"no checkpoint {path}")
    with open(local, "rb") as file:
        form = _form_of(file)
        if not form:
            held = kind_of_file(local) or (f"{file.read(8)!r} at its start" if os.path.getsize(local) else "nothing")
            raise ValueError(f"{path}: no file of weights (PyTorch, safetensors or a pickle); it holds {held}")
        content = read_form(form, file, path)
    if isinstance(content, Unbuilt):
        raise ValueError(f"{path} holds an object of {content.name}, which is not built; save its state_dict() instead")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dict, got {type(content).__name__}")
    return content


def _form_of(file: io.BufferedIOBase) -> str:
    """Return a name in `_FORMS` by the first bytes; "" for another file."""
    start = file.read(max(9, len(_MAGIC)))
    file.seek(0)
    # The length of the header, far below 2**40, and then a JSON object.
    if start[5:9] == b"\0\0\0{":
        return "safetensors"
    starts = {b"PK": "archive", _MAGIC: "row", **dict.fromkeys(_PICKLE_STARTS, "pickle")}
    return next((form for first, form in starts.items() if start.startswith(first)), "")


def read_form(form: str, file: io.BufferedIOBase, path: str) -> Any:
    """Read an open file onto the CPU. ``form`` is a name in `_FORMS`; ``path`` is for messages.

    Raises:
        ValueError: the file is of another form, a program, cut short, or asks for more than its size; in one line.
    """
    kind, read = _FORMS[form]
    try:
        content, left_out = read(file)
    except MemoryError:
        raise
    except _NoWeights as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # a damaged file can raise nearly anything
        # EINVAL: a damaged archive names a place before the beginning of the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = " ".join(str(error).split())
        if isinstance(error, (zipfile.BadZipFile, EOFError, OSError)):
            reason = "it is cut short or damaged"
        elif not isinstance(error, pickle.UnpicklingError):
            reason = f"{type(error).__name__} {reason}".strip()
        raise ValueError(f"{path}: not a complete {kind}: {reason}") from error
    if left_out:
        logger.info("%s: left out what is neither a tensor nor a plain type: %s", path, some(list(left_out)))
    return content


def _read_pickle(file: io.BufferedIOBase) -> _Content:
    unpickler = Unpickler(file)
    return unpickler.load(), unpickler.left_out


def _read_safetensors(file: io.BufferedIOBase) -> _Content:
    """Read 8 bytes with the length of a header, the header in JSON, and the numbers in a row."""
    num_bytes = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > num_bytes - 8:
        raise EOFError
    header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    tensors: dict[str, Tensor] = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, left = file.tell() - 8 - length, num_bytes - file.tell()
        dtype, shape, place = _SAFETENSORS_TYPES.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
        if dtype is None:
            what = f"{name[:80]!r} holds numbers of the type {entry['dtype'][:20]!r}"
            raise pickle.UnpicklingError(f"{what}, allowed: {', '.join(_SAFETENSORS_TYPES)}")
        if not all(type(size) is int and size >= 0 for size in shape):
            raise pickle.UnpicklingError(f"{name[:80]!r} has the shape {str(shape)[:80]}")
        count = math.prod(shape) * dtype.itemsize
        if place != [begin, begin + count]:
            what = f"the {count} bytes of {name[:80]!r} are to be at {str(place)[:80]}"
            raise pickle.UnpicklingError(f"{what}, and begin at {begin}")
        if count > left:
            raise EOFError
        tensors[name] = torch.empty(shape, dtype=dtype)
        file.readinto(_bytes_of(tensors[name].view(-1)))
    if file.tell() != num_bytes:
        raise pickle.UnpicklingError(f"{num_bytes - file.tell()} bytes too many")
    # Of several names of one tensor safetensors keeps one, and says in the metadata which: {other: kept}.
    tensors |= {name: tensors[kept] for name, kept in metadata.items() if kept in tensors and name not in tensors}
    if METADATA in metadata:
        return {**json.loads(metadata[METADATA]), "model": tensors}, ()
    return tensors, ()


def _read_archive(file: io.BufferedIOBase) -> _Content:
    """Read a zip archive of torch.save: ROOT/data.pkl, and each storage as ROOT/data/KEY, uncompressed."""
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        roots = [name.removesuffix("data.pkl") for name in names if name.split("/")[1:] == ["data.pkl"]]
        if len(roots) != 1 or f"{roots[0]}constants.pkl" in names:
            raise _NoWeights(_kind_of_archive(names))
        (root,) = roots

        def _read(name: str, count: int) -> bytes:
            # A compressed entry, or many entries at one place, could fill the memory.
            info = archive.getinfo(root + name)
            if info.file_size != count or info.compress_type != zipfile.ZIP_STORED:
                raise pickle.UnpicklingError(f"{name} is to have {count:,} bytes, and has {info.file_size:,}")
            return archive.read(info)

        def _fill(key: str, data: Tensor) -> None:
            _bytes_of(data)[:] = _read(f"data/{key}", data.nbytes)

        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise _NoWeights("written on a machine of another byte order")
        length = min(size, archive.getinfo(f"{root}data.pkl").file_size)
        unpickler = _TorchUnpickler(io.BytesIO(_read("data.pkl", length)), size, _fill)
        return unpickler.load(), unpickler.left_out


def _kind_of_archive(names: Sequence[str]) -> str:
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program, no file of weights; save the model's state_dict() with torch.save"
    if any(name.endswith("models/model.json") for name in names):
        return "a program of torch.export, no file of weights; give the checkpoint that it was made from"
    return f"a zip archive of {some(names, 3)}, no file of torch.save"


def _read_row(file: io.BufferedIOBase) -> _Content:
    """Read the form before PyTorch 1.6: pickles of a number, version, machine, content and keys; then the storages."""
    size = file.seek(0, 2)
    file.seek(0)
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
    return data.view(torch.uint8).numpy().data


_FORMS: dict[str, tuple[str, Callable[[io.BufferedIOBase], _Content]]] = {
    "safetensors": ("file of safetensors", _read_safetensors),
    "archive": ("PyTorch file of tensors and plain types", _read_archive),
    "row": ("PyTorch file of tensors and plain types", _read_row),
    "pickle": ("pickle of arrays and plain types", _read_pickle),
}


class _Storage(Unbuilt):
    """Numbers of one type, without a shape."""

    def __init__(self, data: Tensor) -> None:
        super().__init__("torch.storage")
        self.data = data


class _TorchUnpickler(Unpickler):
    """Builds tensors, too. ``fill`` reads the numbers of the storage with a key into a tensor."""

    def __init__(self, file: io.BufferedIOBase, size: int, fill: Callable[[str, Tensor], None]) -> None:
        super().__init__(file)
        self._left, self._fill = size, fill
        self._storages: dict[str, _Storage] = {}

    def _known_calls(self) -> dict[tuple[str, str], Callable[..., Any]]:
        calls = super()._known_calls()
        for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            calls["torch._utils", name] = _tensor
        for name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            calls["torch._utils", name] = lambda data, *more: data
        calls["torch._tensor", "_rebuild_from_type_v2"] = _with_attributes
        calls["torch", "Size"] = lambda size: size
        return calls

    def find_class(self, module: str, name: str) -> Any:
        """Return torch's types of numbers, also for the names of storages; the rest as the base class."""
        if module in ("torch", "torch.cuda", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        found = vars(torch).get(name) if module == "torch" else None
        return found if isinstance(found, torch.dtype) else super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Unbuilt:
        """Return the storage of a key, or a class: files before PyTorch 1.6 refer to classes in the same way."""
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
    # ``more``: hooks; in version 3 a type other than that of the storage; rarely metadata.
    dtype = next((item for item in more if isinstance(item, torch.dtype)), None)
    if not isinstance(storage, _Storage) or any(item for item in more if item is not dtype):
        return Unbuilt("a tensor of another kind")
    flat = storage.data if dtype is None else storage.data.view(dtype)
    # It refuses a place outside of the storage.
    tensor = flat.as_strided(size, stride, offset)
    return tensor if tensor.numel() <= len(flat) else Unbuilt("a tensor that repeats its numbers")
