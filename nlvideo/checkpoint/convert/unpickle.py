"""Read pickles of arrays and plain types, of Python 2 and 3, without running anything that is in them."""

import builtins
import collections
import pickle
from typing import Any, BinaryIO

import numpy as np

_BUILTINS = (
    "dict", "list", "tuple", "set", "frozenset", "int", "float", "bool", "str", "bytes", "bytearray", "complex"
)  # fmt: skip
_PYTHON2 = {"unicode": str, "long": int}


def _encode(text: str, encoding: str) -> bytes:
    """What protocol 2 of Python 3 asks for to rebuild bytes: only the one encoding that it writes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}, allowed: 'latin1'")
    return text.encode("latin1")


def _from_buffer(buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """What protocol 5 asks for to rebuild an array."""
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)


def _allowed() -> dict[tuple[str, str], Any]:
    table: dict[tuple[str, str], Any] = {("collections", "OrderedDict"): collections.OrderedDict}
    for module in ("builtins", "__builtin__"):
        table |= {(module, name): getattr(builtins, name) for name in _BUILTINS}
        table |= {(module, name): cls for name, cls in _PYTHON2.items()}
    table["_codecs", "encode"] = _encode
    # NumPy moved its internals in version 2; files name either place.
    reconstruct, scalar = np.zeros(1).__reduce__()[0], np.float32(0).__reduce__()[0]
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        table |= {(core, "_reconstruct"): reconstruct, (core, "scalar"): scalar}
    for core in ("numpy.core.numeric", "numpy._core.numeric"):
        table[core, "_frombuffer"] = _from_buffer
    return table | {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}


_ALLOWED = _allowed()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Look up what the pickle names, among what is allowed."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; allowed: NumPy arrays and plain types"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        """Refuse: there is nothing outside of the file."""
        raise pickle.UnpicklingError(f"it refers to an object outside of the file, {pid!r}")


def safe_unpickle(file: BinaryIO, path: str) -> Any:
    """Read the first pickled object of a file: NumPy arrays and plain types.

    Text of Python 2 is read as latin1, as NumPy's arrays in such files need.

    Args:
        file: open at the start of the pickle.
        path: for the error.

    Raises:
        ValueError: anything else is in it, named as module.name, or the file is cut short; in one line.
    """
    try:
        content = _Unpickler(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: not a pickle that can be read safely: {_line(error)}") from error
    except Exception as error:  # a broken stream of opcodes can raise nearly anything
        reason = f"{type(error).__name__} {_line(error)}".strip()
        raise ValueError(f"{path}: not a complete pickle of arrays and plain types: {reason}") from error
    _refuse_objects(content, path)
    return content


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _refuse_objects(value: Any, path: str) -> None:
    """An array of Python objects holds nothing that a network could use."""
    if isinstance(value, dict):
        for item in value.values():
            _refuse_objects(item, path)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _refuse_objects(item, path)
    elif isinstance(value, np.ndarray) and value.dtype.hasobject:
        raise ValueError(f"{path}: not a pickle that can be read safely: it holds an array of Python objects")
