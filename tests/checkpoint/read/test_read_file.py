"""Files are read by what is in them, and flattened to one dict of tensors."""

import pickle

import numpy as np
import pytest
import torch

from nlvideo.checkpoint.read.read_file import read_file
from nlvideo.checkpoint.weights import WRAPPERS, flatten
from nlvideo.utils.files.file_io import PathManager

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}
ARRAYS = {name: tensor.numpy() for name, tensor in STATE.items()}


def write(path, content, form):
    """Write ``content`` in one of the forms, and return the path."""
    if form == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return str(path)


# The ending says nothing: any form comes under any of them.
@pytest.mark.parametrize("ending", ["pkl", "pth"])
@pytest.mark.parametrize(("form", "state"), [("zip", STATE), ("legacy", STATE), ("pickle", ARRAYS)])
@pytest.mark.parametrize("wrapper", [None, *WRAPPERS])
def test_every_form_and_wrapper(tmp_path, ending, form, state, wrapper):
    path = write(tmp_path / f"w.{ending}", state if wrapper is None else {wrapper: state, "epoch": 3}, form)
    flat = flatten(read_file(path), path)
    assert flat.keys() == STATE.keys()
    assert all(isinstance(flat[name], torch.Tensor) and torch.equal(flat[name], STATE[name]) for name in STATE)


def test_what_is_not_a_tensor_vanishes():
    content = {
        "a": np.ones((2, 2)),
        "lr": np.float32(0.5),
        "model_iter": 7,
        "author": "x",
        "names": ["a"],
        "none": None,
    }
    assert flatten(content, "w").keys() == {"a"}


def test_arrays_share_their_memory_with_the_tensors():
    """A file may name one array many times."""
    array = np.ones(3)
    flat = flatten({"a": array, "b": array}, "w")
    array[0] = 7
    assert flat["a"][0] == flat["b"][0] == 7


def test_the_prefix_of_ddp_is_gone():
    assert set(flatten({"state_dict": {f"module.{name}": t for name, t in STATE.items()}}, "w")) == set(STATE)
    # One tensor without it: then it is part of the names.
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert set(flatten(mixed, "w")) == set(mixed)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"blobs": {"lr": 0.1}}, {"model": {"names": ["a"]}}])
def test_no_weights(content):
    with pytest.raises(ValueError, match="w.pkl: found no weights; the file holds"):
        flatten(content, "w.pkl")


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint .*nowhere.pkl"):
        read_file(str(tmp_path / "nowhere.pkl"))


@pytest.mark.parametrize("data", [b"text", b"#!/bin/sh", b"\x1f\x8b zipped"])
def test_other_files(tmp_path, data):
    (tmp_path / "w.pkl").write_bytes(data)
    with pytest.raises(ValueError, match="w.pkl: no file of weights .PyTorch, safetensors or a pickle.; it holds "):
        read_file(str(tmp_path / "w.pkl"))


def test_not_a_dict(tmp_path):
    with pytest.raises(ValueError, match="w.pkl: expected a dict, got list"):
        read_file(write(tmp_path / "w.pkl", [1, 2], "pickle"))


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_truncated_files_are_one_line(tmp_path, form):
    path = write(tmp_path / "w.bin", {"model": ARRAYS if form == "pickle" else STATE}, form)
    data = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="w.bin: not a ") as error:
        read_file(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_whole_module_is_named(tmp_path, form):
    path = write(tmp_path / "w.pth", torch.nn.Linear(2, 2), form)
    with pytest.raises(
        ValueError, match="holds an object of torch.nn.modules.linear.Linear, which is not built; save its"
    ):
        read_file(path)


def test_an_address_that_cannot_be_reached(monkeypatch, tmp_path):
    """The error says where to put the file, and a file that is put there is read."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))

    def fail(path):
        raise ConnectionError("no network")

    address, place = "https://host/a/w.pth", tmp_path / "host/a/w.pth"
    advice = f"no network; without a network, put {address} at {place}"
    with monkeypatch.context() as offline, pytest.raises(OSError) as caught:
        offline.setattr(PathManager, "get_local_path", fail)
        read_file(address)
    assert str(caught.value) == f"{address}: cannot be downloaded: {advice}"
    place.parent.mkdir(parents=True)
    torch.save({"a": torch.ones(1)}, place)
    assert read_file(address)["a"] == 1
