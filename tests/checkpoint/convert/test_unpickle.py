"""The unpickler builds arrays and plain types, of Python 2 and 3, and nothing else."""

import collections
import fractions
import io
import os
import pickle
import struct

import numpy as np
import pytest

from nlvideo.checkpoint.convert.unpickle import safe_unpickle


def load(data):
    """From memory."""
    return safe_unpickle(io.BytesIO(data), "w.pkl")


class _Python2Pickler(pickle._Pickler):
    """Writes text as Python 2 wrote its byte strings, and NumPy's functions under their names of that time."""

    dispatch = dict(pickle._Pickler.dispatch)

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


def test_arrays_of_every_layout():
    arrays = {
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "big-endian": np.arange(3, dtype=">f4"),
        "empty": np.zeros((0, 3), np.float32),
        "ordered": collections.OrderedDict(a=np.ones(1)),
    }
    loaded = load(pickle.dumps(arrays, 2))
    assert np.array_equal(loaded["fortran"], arrays["fortran"]) and loaded["empty"].shape == (0, 3)
    assert loaded["big-endian"].tolist() == [0, 1, 2] and loaded["ordered"]["a"] == 1


class _Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_file_runs_nothing_and_is_named(tmp_path, protocol):
    target = tmp_path / "was_run"
    with pytest.raises(ValueError, match=rf"w.pkl: .*{os.system.__module__}.system; allowed: NumPy arrays") as error:
        load(pickle.dumps({"blobs": {"a": _Runs(target)}}, protocol))
    assert not target.exists() and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"c__builtin__\ngetattr\n.", "__builtin__.getattr"),
        (b"cbuiltins\nobject\n.", "builtins.object"),
        (b"cnumpy\nload\n.", "numpy.load"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "numpy.core.multiarray.fromfile"),
        (pickle.dumps(fractions.Fraction(1, 3)), "fractions.Fraction"),
    ],
)
def test_only_what_is_listed_is_found(data, name):
    with pytest.raises(ValueError, match=f"it asks for {name}; allowed"):
        load(data)


def test_bytes_of_another_codec():
    with pytest.raises(ValueError, match="bytes encoded as 'rot13', allowed: 'latin1'"):
        load(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.")


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


def test_arrays_of_objects_are_refused():
    with pytest.raises(ValueError, match="it holds an array of Python objects"):
        load(pickle.dumps({"blobs": [{"a": np.array([{}, 1], dtype=object)}]}))
