"""Safetensors are read to the byte, and within the file."""

import json
import random

import pytest
import torch

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
