"""Safetensors are read to the byte, and within the file."""

import json
import random
import sys

import pytest
import torch

from nlvideo.checkpoint.plain import save_weights
from nlvideo.checkpoint.read.read_file import read_file

TENSORS = {
    "a.weight": torch.arange(6.0).view(2, 3), "half": torch.ones(3).half(), "brain": torch.ones(1, 2).bfloat16(),
    "count": torch.tensor(5), "flags": torch.tensor([True, False, True]), "last": torch.tensor([1.5]).double(),
    "empty": torch.zeros(0, 2),
}  # fmt: skip
NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.bool: "BOOL",
         torch.float64: "F64"}  # fmt: skip


def file_of(header, data):
    """The bytes of a file, by the description of the format."""
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return len(text).to_bytes(8, "little") + text + data


def parts(tensors):
    """The header and the data."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        raw = bytes(tensor.reshape(-1).view(torch.uint8).tolist())
        place = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        data += raw
    return header, data


def read(folder, data):
    """From a file whose ending says nothing."""
    (folder / "w.bin").write_bytes(data)
    return read_file(str(folder / "w.bin"))


def test_every_type_and_an_order_that_leaves_numbers_unaligned(tmp_path):
    loaded = read(tmp_path, file_of(*parts(TENSORS)))
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)
    assert read(tmp_path, file_of({}, b"")) == {}


def test_the_official_writer(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    assert torch.equal(read(tmp_path, safetensors.save(TENSORS))["brain"], TENSORS["brain"])


def test_our_own_writer(tmp_path):
    """What a checkpoint has beside the weights comes back, and a view or a second name of a tensor is a tensor."""
    pytest.importorskip("safetensors")
    view = torch.arange(6.0).view(2, 3)[:, 1:]
    extra = {"classes": ["a b", "c"], "config": "SEED: 3\n"}
    save_weights(str(tmp_path / "w.safetensors"), {**TENSORS, "view": view, "again": view}, **extra)
    loaded = read_file(str(tmp_path / "w.safetensors"))
    weights = loaded.pop("model")
    assert loaded == extra and weights.keys() == {*TENSORS, "view", "again"}
    assert torch.equal(weights["view"], view) and torch.equal(weights["again"], view)
    assert all(torch.equal(weights[name], tensor) for name, tensor in TENSORS.items())


def test_without_the_package_the_error_has_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"w.safetensors needs safetensors: pip install 'nlvideo\[hub\]'"):
        save_weights(str(tmp_path / "w.safetensors"), TENSORS)
    assert not list(tmp_path.iterdir())


def test_a_shared_tensor_has_both_names(tmp_path):
    """The official writer keeps one of them, and says so in the metadata."""
    safetensors = pytest.importorskip("safetensors.torch")
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    safetensors.save_model(model, str(tmp_path / "w.safetensors"))
    loaded = read_file(str(tmp_path / "w.safetensors"))
    assert loaded.keys() == model.state_dict().keys()
    assert torch.equal(loaded["a.weight"], loaded["b.weight"])


@pytest.mark.parametrize("size", [9, 40, -20, -1])
def test_a_file_that_is_cut_short_is_called_so(tmp_path, size):
    """In its header and in its numbers."""
    with pytest.raises(ValueError) as error:
        read(tmp_path, file_of(*parts(TENSORS))[:size])
    assert str(error.value).endswith("w.bin: not a complete file of safetensors: it is cut short or damaged")


@pytest.mark.parametrize(
    ("data", "held"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"<!DOCTYPE html><p>", "an HTML page"),
    ],
)
def test_another_file_of_this_name_is_called_by_its_kind(tmp_path, data, held):
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=f"w.safetensors: no file of weights .*; it holds {held}"):
        read_file(str(tmp_path / "w.safetensors"))


def test_an_unknown_type_of_numbers_is_named(tmp_path):
    with pytest.raises(ValueError, match="'a' holds numbers of the type 'F4', allowed: F64, F32, F16, BF16"):
        read(tmp_path, file_of({"a": ENTRY | {"dtype": "F4"}}, b"\0" * 8))


@pytest.mark.parametrize("metadata", [[1], {"nlvideo": "[1]"}, {"nlvideo": "{"}, {"b": ["a"]}, {"nlvideo": 3}])
def test_metadata_of_another_form_is_one_line(tmp_path, metadata):
    with pytest.raises(ValueError, match="w.bin: not a complete file of safetensors: ") as error:
        read(tmp_path, file_of({"__metadata__": metadata, "a": ENTRY}, b"\0" * 8))
    assert "\n" not in str(error.value)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": ENTRY}, b"\0" * 7),
        ({"a": ENTRY}, b"\0" * 9),
        ({"a": ENTRY, "b": ENTRY}, b"\0" * 8),
        ({"a": ENTRY, "b": ENTRY}, b"\0" * 16),
        ({"a": ENTRY | {"data_offsets": [8, 16]}}, b"\0" * 16),
        ({"a": ENTRY | {"data_offsets": [-8, 0]}}, b"\0" * 8),
        ({"a": ENTRY | {"shape": [2**40]}}, b"\0" * 8),
        ({"a": ENTRY | {"shape": [2**40], "data_offsets": [0, 2**42]}}, b"\0" * 8),
        ({"a": ENTRY | {"shape": [-1, -2]}}, b"\0" * 8),
        ({"a": ENTRY | {"shape": [True, 2]}}, b"\0" * 8),
        ({"a": ENTRY | {"shape": "2"}}, b"\0" * 8),
        ({"a": ENTRY | {"dtype": "F4"}}, b"\0" * 8),
        ({"a": [1]}, b""),
        ({"a": {}}, b""),
        (b"{" * 100_000, b""),
        (b"{not json", b""),
        (b'{"a": \xff}', b""),
    ],
    ids=range(17),
)
def test_what_is_not_whole_is_one_line(tmp_path, header, data):
    with pytest.raises(ValueError, match="w.bin: not a complete file of safetensors: ") as error:
        read(tmp_path, file_of(header, data))
    assert "\n" not in str(error.value)


def test_any_damage_is_read_or_one_line(tmp_path):
    rng = random.Random(0)
    data = file_of(*parts(TENSORS))
    for _ in range(500):
        broken = bytearray(data)
        broken[rng.randrange(len(broken))] = rng.randrange(256)
        try:
            read(tmp_path, bytes(broken[: rng.choice([None, None, rng.randrange(len(broken))])]))
        except ValueError as error:
            assert "w.bin: " in str(error) and "\n" not in str(error)
