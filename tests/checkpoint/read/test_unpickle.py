"""The unpickler builds arrays and plain types, of Python 2 and 3, and nothing else, whatever a file asks for."""

import argparse
import collections
import fractions
import io
import logging
import os
import pathlib
import pickle
import random
import struct
from typing import ClassVar

import numpy as np
import pytest

from nlvideo.checkpoint.read import unpickle
from nlvideo.checkpoint.read.read_file import read_form
from nlvideo.checkpoint.read.unpickle import Unbuilt


def load(data):
    """From memory."""
    return read_form("pickle", io.BytesIO(data), "w.pkl")


class _Python2Pickler(pickle._Pickler):
    """Writes text as Python 2 wrote its byte strings, and NumPy's functions under their names of that time."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_str(self, text):
        data = text.encode("latin1")
        if len(data) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    def save_bytes(self, data):
        self.save_str(data.decode("latin1"))

    def save_global(self, obj, name=None):
        module = "numpy.core.multiarray" if "multiarray" in obj.__module__ else obj.__module__
        self.write(pickle.GLOBAL + f"{module}\n{name or obj.__qualname__}\n".encode())
        self.memoize(obj)

    dispatch[str], dispatch[bytes] = save_str, save_bytes
    dispatch[type] = save_global
    dispatch[type(save_global)] = dispatch[type(len)] = save_global


def python2_pickle(content):
    """A protocol-2 pickle as Python 2 with an old NumPy wrote it."""
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue()


CONTENT = {
    "blobs": {"a_w": np.arange(6, dtype=np.float32).reshape(2, 3), "lr": np.float32(0.5), "model_iter": 7},
    "list": [1, 2.5, None, True, ("x", b"\xff\x00"), 2**70],
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_types_of_every_protocol(protocol):
    loaded = load(pickle.dumps(CONTENT, protocol))
    assert np.array_equal(loaded["blobs"]["a_w"], CONTENT["blobs"]["a_w"])
    assert loaded["blobs"]["lr"] == np.float32(0.5) and loaded["blobs"]["model_iter"] == 7
    assert loaded["list"] == CONTENT["list"]


def test_a_pickle_of_python_2():
    blobs = {"conv1_w": np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32), "lr": np.float32(0.01)}
    data = python2_pickle({"blobs": blobs})
    assert b"numpy.core.multiarray\n_reconstruct" in data and b"U\x07conv1_w" in data
    loaded = load(data)["blobs"]
    assert np.array_equal(loaded["conv1_w"], blobs["conv1_w"]) and loaded["lr"] == np.float32(0.01)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_arrays_of_every_layout(protocol):
    arrays = {
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "big-endian": np.arange(3, dtype=">f4"),
        "reversed": np.arange(6.0).reshape(2, 3)[:, ::-1],
        "complex": np.array([1j]),
        "empty": np.zeros((0, 3), np.float32),
        "ordered": collections.OrderedDict(a=np.ones(1)),
    }
    loaded = load(pickle.dumps(arrays, protocol))
    assert np.array_equal(loaded["reversed"], arrays["reversed"]) and loaded["complex"] == 1j
    assert loaded["big-endian"].dtype == np.float32 and loaded["fortran"].flags.writeable
    assert np.array_equal(loaded["fortran"], arrays["fortran"]) and loaded["empty"].shape == (0, 3)
    assert loaded["big-endian"].tolist() == [0, 1, 2] and loaded["ordered"]["a"] == 1


class _Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_file_runs_nothing_and_what_it_asks_for_is_named(tmp_path, protocol, caplog):
    caplog.set_level(logging.INFO)
    target = tmp_path / "was_run"
    loaded = load(pickle.dumps({"blobs": {"a": _Runs(target), "b": np.ones(2)}, "list": [_Runs(target)]}, protocol))
    assert not target.exists()
    assert loaded["blobs"].keys() == {"b"} and isinstance(loaded["list"][0], Unbuilt)
    assert f"w.pkl: left out what is neither a tensor nor a plain type: {os.system.__module__}.system" in caplog.text


class _Dict(dict):
    """As yacs and mmengine have them; what it holds is left out with it."""


class _List(list):
    pass


class _Old:
    """Of a class with slots and a state of two parts."""

    __slots__ = ("a", "b")

    def __init__(self):
        self.a, self.b = 1, np.zeros(2)


OBJECTS = {
    "args": argparse.Namespace(lr=0.1, folder=pathlib.PurePosixPath("/data")),
    "path": pathlib.PurePosixPath("a/b"),
    "fraction": fractions.Fraction(1, 3),
    "dict": _Dict(a=1),
    "list": _List([1, 2]),
    "old": _Old(),
    "default": collections.defaultdict(list, a=[1]),
    "function": len,
    "class": collections.OrderedDict,
    "type": np.dtype("f4"),
    "texts": np.array(["a", "b"]),
    "objects": np.array([{}, 1], dtype=object),
    "record": np.zeros(2, dtype=[("x", "f4"), ("y", "i8")]),
    "masked": np.ma.masked_array([1.0, 2.0], [True, False]),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_objects_beside_the_weights_are_left_out(protocol):
    loaded = load(pickle.dumps({**OBJECTS, "weights": np.ones(3), "epoch": 3}, protocol))
    assert loaded.keys() == {"weights", "epoch"} and np.array_equal(loaded["weights"], np.ones(3))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"c__builtin__\ngetattr\n.", "__builtin__.getattr"),
        (b"cnumpy\nload\n.", "numpy.load"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "numpy.core.multiarray.fromfile"),
        (b"cos\nsystem\n)\x81}b.", "os.system"),
        (b"c\x1b[31m\nx\n.", "?[31m.x"),
    ],
)
def test_nothing_else_is_built_however_it_is_asked_for(data, name):
    assert isinstance(load(data), Unbuilt) and load(data).name == name


def _text(text):
    return b"X" + struct.pack("<I", len(text)) + text


_DTYPE = b"cnumpy\ndtype\n" + _text(b"%s") + b"\x89\x88\x87R"
_EMPTY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
_BYTES = b"C\x10" + b"\xff" * 16


@pytest.mark.parametrize(
    "array",
    [
        # An array of objects over given bytes: each would be taken for the address of an object.
        b"cnumpy\nndarray\nK\x02\x85" + _DTYPE % b"O8" + _BYTES + b"\x87R",
        b"cnumpy.core.numeric\n_frombuffer\n(" + _BYTES + _DTYPE % b"O8" + b"K\x02\x85" + _text(b"C") + b"tR",
        _EMPTY + b"(K\x01K\x02\x85" + _DTYPE % b"O8" + b"\x89" + _BYTES + b"tb",
        b"cnumpy.core.multiarray\nscalar\n" + _DTYPE % b"O8" + _BYTES + b"\x86R",
        # A type whose state says that it has fields, a size and no objects.
        _EMPTY + b"(K\x01K\x02\x85" + _DTYPE % b"V8"
        + b"(K\x03" + _text(b"<") + b"N" + _text(b"x") + b"\x85}J\xff\xff\xff\x7fK\x01K\x00tb\x89" + _BYTES + b"tb",
    ],
)  # fmt: skip
def test_no_array_reads_memory_that_is_not_its_own(array):
    assert load(b"\x80\x03}" + _text(b"a") + array + b"s.") == {}


@pytest.mark.parametrize(
    ("shape", "code", "raw"),
    [
        (b"K\x03\x85", b"f8", _BYTES),
        (b"J\xff\xff\xff\x7f\x85", b"f8", _BYTES),
        (b"J\xff\xff\xff\xff\x85", b"f8", _BYTES),
        (b"]", b"f8", _BYTES),
        (b"K\x02\x85", b"f8", b"K\x10"),
        (b"K\x02\x85", b"f8", b"]"),
    ],
)
def test_an_array_is_as_large_as_its_bytes(shape, code, raw):
    with pytest.raises(ValueError, match="^w.pkl: not a complete pickle of arrays"):
        load(b"\x80\x03}" + _text(b"a") + _EMPTY + b"(K\x01" + shape + _DTYPE % code + b"\x89" + raw + b"tbs.")


def test_the_functions_that_are_called_cannot_be_changed():
    before = dict(vars(np)), dict(vars(collections.OrderedDict))
    for target in (b"c_codecs\nencode\n", b"cnumpy\ndtype\n", b"ccollections\nOrderedDict\n"):
        assert isinstance(load(b"\x80\x02" + target + b"N}" + _text(b"x") + b"K\x01s\x86b."), Unbuilt)
    assert before == (dict(vars(np)), dict(vars(collections.OrderedDict)))
    for plain in (b"]", b"K\x01", _text(b"a")):
        with pytest.raises(ValueError, match="sets attributes of"):
            load(b"\x80\x02" + plain + b"}b.")


def _shared(start, fold, levels, end):
    return b"\x80\x02" + start + b"".join(b"q" + bytes([i]) + fold % (b"h" + bytes([i])) for i in range(levels)) + end


@pytest.mark.parametrize(
    ("data", "message"),
    [
        # Each list holds the one before twice: 2 ** 50 items to a program that walks through them.
        (_shared(b"]", b"0](%b2e", 50, b"."), "more than 10,000,000 items"),
        (_shared(b")", b"0%b2\x86", 50, b"."), "more than 10,000,000 items"),
        # A tuple of tuples as a key is walked through for its hash.
        (_shared(b")", b"0%b2\x86", 60, b"q\xff0}h\xffNs."), "sets a key of tuple"),
        (_shared(b")", b"0%b2\x86", 60, b"q\xff0(h\xff\x91."), "KeyError"),
        (b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".", "nested more than 64 deep"),
        (b"\x80\x02]q\x00h\x00a.", "items or 64 levels"),
        (b"\x80\x02}q\x00" + _text(b"a") + b"h\x00s.", "items or 64 levels"),
        (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "cut short"),
        (b"\x80\x05\x96" + b"\x00" * 4 + b"\x01\x00\x00\x00.", "cut short"),
        (b"\x80\x04\x95" + b"\xff" * 8 + b"N.", None),
        (b"\x80\x02\x82\x01.", "KeyError"),
        (b"\x80\x05\x97.", "KeyError"),
        (b"(ios\nsystem\n.", "KeyError"),
        (b"(cos\nsystem\nS'true'\no.", "KeyError"),
        # A long text, asked for again and again.
        (b"\x80\x02c_codecs\nencode\nq\x00" + _text(b"a" * 10**6) + _text(b"latin1") + b"\x86q\x010"
         + b"h\x00h\x01R0" * 10**4 + b"N.", "many times its size"),
    ],
    ids=range(15),
)  # fmt: skip
def test_work_and_memory_have_limits(data, message):
    if message:
        with pytest.raises(ValueError, match=message):
            load(data)
    else:
        assert load(data) is None


def test_a_file_of_endless_parts(monkeypatch):
    monkeypatch.setattr(unpickle, "_MAX_READS", 1000)
    with pytest.raises(ValueError, match="it has more than 1,000 parts"):
        load(b"\x80\x02" + b"N0" * 1000 + b"N.")


def test_files_with_any_damage_are_read_or_one_line():
    """Bytes changed, cut out and put in, at random: never a crash, another error, or an object of another kind."""
    rng = random.Random(0)
    for protocol in (0, 2, 5):
        data = pickle.dumps({**CONTENT, "args": OBJECTS["args"]}, protocol)
        for _ in range(1000):
            broken = bytearray(data)
            for _ in range(rng.randint(1, 4)):
                place = rng.randrange(len(broken))
                broken[place : place + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
            try:
                load(bytes(broken))
            except ValueError as error:
                assert str(error).startswith("w.pkl: not a ") and "\n" not in str(error)


def test_references_outside_of_the_file():
    with pytest.raises(ValueError, match="an object outside of the file, 'storage'"):
        load(b"\x80\x02X\x07\x00\x00\x00storageQ.")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_one_line(part):
    data = pickle.dumps(CONTENT, 2)
    with pytest.raises(ValueError, match="^w.pkl: not a ") as error:
        load(data[: int(len(data) * part)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x02}q\x00(U\x10", b"nonsense", b"\x80\x02K\x01K\x02\x85R."])
def test_nonsense_is_one_line(data):
    with pytest.raises(ValueError, match="^w.pkl: not a ") as error:
        load(data)
    assert "\n" not in str(error.value)
