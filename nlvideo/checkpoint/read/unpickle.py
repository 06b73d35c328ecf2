"""Read pickles of plain types and arrays, of Python 2 and 3, without running or building anything else in them.

This is Python's own unpickler. The opcodes that call, build or fill an object are replaced. A name in the file is
looked up in a table of functions of this module. Any other class or function becomes an `Unbuilt`: it accepts what the
file does with it, and stays empty. The size of the file limits work and memory.
"""

import io
import math
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

# A file of weights needs some tens of reads for each tensor. Python makes a million in a second.
_MAX_READS = 10_000_000
# Items in nested lists and dicts, counted in each place where a list is used; and levels of nesting.
_MAX_ITEMS, _MAX_DEPTH = 10_000_000, 64

_NUMBERS = {np.dtype(code).str[1:] for code in "?bBhHiIlLqQefdFD"}
_PLAIN_KEYS = (type(None), bool, int, float, str, bytes)
_ARRAY = "numpy.ndarray"
_KEPT = [
    "proto", "persid", "binpersid", "none", "false", "true", "int", "binint", "binint1", "binint2", "long",
    "long1", "long4", "float", "binfloat", "string", "binstring", "binbytes", "unicode", "binunicode",
    "binunicode8", "binbytes8", "short_binstring", "short_binbytes", "short_binunicode", "tuple", "empty_tuple",
    "tuple1", "tuple2", "tuple3", "list", "empty_list", "empty_dictionary", "global", "stack_global", "pop",
    "pop_mark", "dup", "get", "binget", "long_binget", "put", "binput", "long_binput", "memoize", "mark", "stop",
]  # fmt: skip


class Unbuilt:
    """Stands for what is not built: a class, a function or an object that is no plain type."""

    def __init__(self, name: str, call: Callable[..., Any] | None = None) -> None:
        """Keep the name, ``module.name``, and the function that a call runs; None: a call does nothing."""
        self.call = call
        self.name = "".join(letter if letter.isprintable() else "?" for letter in name[:200])
        self.value: Any = None


class _Dtype(Unbuilt):
    """A type of numbers as NumPy pickles it: a code, and the order of the bytes."""

    def __init__(self, code: Any, *flags: Any) -> None:
        super().__init__("numpy.dtype")
        self.code, self.order = code, "="


class _File:
    """A file that cannot be read past its end, or in too many steps."""

    def __init__(self, file: io.BufferedIOBase, size: int) -> None:
        self._file, self._size, self._reads, self.readline = file, size, 0, file.readline

    def read(self, count: int) -> bytes:
        """Read ``count`` bytes; EOFError where the file has fewer."""
        self._reads += 1
        if self._reads > _MAX_READS:
            raise pickle.UnpicklingError(f"it has more than {_MAX_READS:,} parts")
        if count > self._size - self._file.tell():
            raise EOFError("it is cut short")
        return self._file.read(count)


class Unpickler(pickle._Unpickler):
    """Builds plain types and arrays. A subclass may know more names, and objects outside of the pickle."""

    # Attributes of the base class, for type checkers.
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: io.BufferedIOBase) -> None:
        """Prepare to read one pickle from here. Text of Python 2 is read as latin1, because arrays are such text."""
        here, size = file.tell(), file.seek(0, 2)
        file.seek(here)
        super().__init__(_File(file, size), encoding="latin1")
        # How much may be copied. It stops a file that copies one long text again and again.
        self._budget = 4 * size + 2**20
        self.left_out: dict[str, None] = {}
        self._calls = self._known_calls()

    def load(self) -> Any:
        """Read the pickle. A damaged one can raise nearly anything."""
        content = self._settled(super().load())
        _measure(content, {}, _MAX_DEPTH)
        return content

    def find_class(self, module: str, name: str) -> Any:
        """Look up a name in the table of what is built."""
        return Unbuilt(f"{module}.{name}", self._calls.get((module, name)))

    def persistent_load(self, pid: Any) -> Any:
        """Refuse: there is nothing outside of the pickle."""
        raise pickle.UnpicklingError(f"it refers to an object outside of the file, {str(pid)[:80]!r}")

    def _known_calls(self) -> dict[tuple[str, str], Callable[..., Any]]:
        calls: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): self._dict,
            # This is how protocol 2 writes bytes. Python always writes this encoding.
            ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
            ("builtins", "bytes"): bytes,
            ("__builtin__", "bytes"): bytes,
            ("numpy", "dtype"): _Dtype,
        }
        # NumPy moved its internals in version 2; files name either place.
        for core in ("numpy.core", "numpy._core"):
            calls[f"{core}.multiarray", "_reconstruct"] = lambda cls, *shape_and_code: Unbuilt(cls.name)
            calls[f"{core}.multiarray", "scalar"] = _scalar
            calls[f"{core}.numeric", "_frombuffer"] = _array
        return calls

    def _dict(self, pairs: Iterable[Any] = ()) -> dict:
        content: dict = {}
        for key, value in pairs:
            self._put(content, key, value)
        return content

    def _reduce(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Unbuilt) or type(args) is not tuple:
            raise pickle.UnpicklingError(f"it calls {type(function).__name__} with {type(args).__name__}")
        self._spend(args)
        self.append(function.call(*args) if function.call else Unbuilt(function.name))

    def _new_object(self) -> None:
        _, cls = self.stack.pop(), self.stack.pop()
        self.append(Unbuilt(cls.name if isinstance(cls, Unbuilt) else type(cls).__name__))

    def _build(self) -> None:
        """Fill an array, or set the byte order of a type. The state of any other object is left out."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Dtype):
            target.order = state[1]
        elif isinstance(target, Unbuilt) and target.name == _ARRAY:
            self._spend(state)
            shape, dtype, is_fortran, raw = state[-4:]
            array = _array(raw, dtype, shape, "F" if is_fortran else "C")
            target.name, target.value = (array.name, None) if isinstance(array, Unbuilt) else (_ARRAY, array)
        elif not isinstance(target, (Unbuilt, dict)):
            raise pickle.UnpicklingError(f"it sets attributes of {type(target).__name__}")

    def _filled_dict(self) -> None:
        items = self.pop_mark()
        self.append({})  # after pop_mark, which changes the stack
        self._update(items)

    def _update(self, items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=False):
            self._put(self.stack[-1], key, value)

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(map(self._settled, items))
        elif not isinstance(target, Unbuilt):
            raise pickle.UnpicklingError(f"it adds items to {type(target).__name__}")

    def _put(self, target: Any, key: Any, value: Any) -> None:
        if isinstance(target, Unbuilt):
            return
        if type(target) is not dict or not _is_key(key):
            raise pickle.UnpicklingError(f"it sets a key of {type(key).__name__} in {type(target).__name__}")
        key, value = self._settled(key), self._settled(value)
        if not isinstance(key, Unbuilt) and not isinstance(value, Unbuilt):
            target[key] = value

    def _settled(self, value: Any) -> Any:
        """Return the array in place of an `Unbuilt` that holds one; note any other `Unbuilt` as left out."""
        if isinstance(value, Unbuilt) and value.value is None:
            self.left_out[value.name] = None
        return value.value if isinstance(value, Unbuilt) and value.value is not None else value

    def _spend(self, values: Any) -> None:
        self._budget -= sum(len(value) for value in values if isinstance(value, (str, bytes, list, tuple, dict)))
        if self._budget < 0:
            raise pickle.UnpicklingError("what it asks for is many times its size")

    # Python's own opcodes for literals, tuples, the stack, the memo and names, and ours. Any other one is refused.
    dispatch = {
        code: opcode
        for code, opcode in pickle._Unpickler.dispatch.items()
        if opcode.__name__.removeprefix("load_") in _KEPT
    } | {
        ord(code): opcode
        for code, opcode in {
            # A frame says how much to read at once.
            pickle.FRAME: lambda self: self.read(8),
            pickle.BYTEARRAY8: lambda self: self.append(self.read(int.from_bytes(self.read(8), "little"))),
            pickle.REDUCE: _reduce, pickle.NEWOBJ: _new_object, pickle.BUILD: _build, pickle.DICT: _filled_dict,
            pickle.APPEND: lambda self: self._extend([self.stack.pop()]),
            pickle.APPENDS: lambda self: self._extend(self.pop_mark()),
            pickle.SETITEM: lambda self: self._update([self.stack.pop(-2), self.stack.pop()]),
            pickle.SETITEMS: lambda self: self._update(self.pop_mark()),
        }.items()
    }  # fmt: skip


def _is_key(value: Any) -> bool:
    """Whether a value may be a key: its hash must be fast. The hash of nested tuples may take for ever."""
    if type(value) is tuple:
        return len(value) <= 16 and all(type(item) is not tuple and _is_key(item) for item in value)
    if type(value) is int:
        return value.bit_length() <= 64
    return type(value) in _PLAIN_KEYS or isinstance(value, Unbuilt)


def _measure(value: Any, seen: dict[int, tuple[int, int]], levels: int) -> tuple[int, int]:
    """Count the items and levels of nested containers, in each place where one is used, and refuse too many."""
    if not isinstance(value, (dict, list, tuple, set)):
        return 1, 0
    if id(value) not in seen:
        if not levels:
            raise pickle.UnpicklingError(f"its lists and dicts are nested more than {_MAX_DEPTH} deep")
        # A container that holds itself is met again here, and counts as too deep.
        seen[id(value)] = 1, _MAX_DEPTH
        inner = [_measure(item, seen, levels - 1) for item in (value.values() if isinstance(value, dict) else value)]
        seen[id(value)] = 1 + sum(count for count, _ in inner), 1 + max((height for _, height in inner), default=0)
    count, height = seen[id(value)]
    if count > _MAX_ITEMS or height > _MAX_DEPTH:
        raise pickle.UnpicklingError(f"its lists and dicts hold more than {_MAX_ITEMS:,} items or {_MAX_DEPTH} levels")
    return count, height


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    array = _array(raw, dtype, (), "C")
    return array if isinstance(array, Unbuilt) else array[()]


def _array(raw: Any, dtype: Any, shape: Any, order: Any, *more: Any) -> np.ndarray | Unbuilt:
    """Make an array of numbers, as a copy in this machine's byte order; of other things it is an `Unbuilt`."""
    if not isinstance(dtype, _Dtype) or dtype.code not in _NUMBERS or dtype.order not in ("<", ">", "|", "="):
        return Unbuilt(f"numpy.ndarray of {dtype.code if isinstance(dtype, _Dtype) else type(dtype).__name__}")
    kind = np.dtype(dtype.code).newbyteorder(dtype.order)
    raw = raw.encode("latin1") if isinstance(raw, str) else raw  # text of Python 2
    is_shape = type(shape) is tuple and all(type(size) is int and size >= 0 for size in shape)
    is_whole = type(raw) is bytes and is_shape and math.prod(shape) * kind.itemsize == len(raw)
    if not is_whole or order not in ("C", "F"):
        raise pickle.UnpicklingError(f"an array of {dtype.code} and the shape {str(shape)[:80]} in other bytes")
    array = np.frombuffer(bytearray(raw), kind).reshape(shape, order=order)
    return array.astype(kind.newbyteorder("="), copy=False)
