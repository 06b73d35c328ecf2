"""Files of torch.save are read as PyTorch reads them, whatever stands beside the tensors, and nothing else is built."""

import argparse
import io
import logging
import pathlib
import pickle
import random
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn

from nlvideo.checkpoint.read.read_file import read_form

TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
         torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint16]  # fmt: skip
FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "row"])


def written(content, zipped=True):
    """The bytes of a file."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def read(data):
    """From memory."""
    return read_form("archive" if data.startswith(b"PK") else "row", io.BytesIO(data), "w.pth")


def state():
    """A state dict with every kind of tensor that is one."""
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    tensors = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in TYPES}
    parameter = nn.Parameter(torch.randn(3))
    parameter.note = "an attribute"
    return {
        **tensors, "base": base, "part": base[1:, ::2], "turned": base.t(),
        "empty": torch.zeros(0, 3), "number": torch.tensor(7),
        "parameter": nn.Parameter(torch.randn(2)), "noted": parameter, "grad": torch.ones(2, requires_grad=True),
    }  # fmt: skip


@FORMS
def test_tensors_are_as_pytorch_reads_them(zipped):
    content = {
        "model": OrderedDict(state()),
        "epoch": 3,
        "lr": [0.1, None, (True, "x", 2**70)],
        "size": torch.Size([2, 3]),
    }
    loaded = read(written(content, zipped))
    assert {name: loaded[name] for name in ("epoch", "lr", "size")} == {
        name: content[name] for name in ("epoch", "lr", "size")
    }
    assert loaded["model"].keys() == content["model"].keys()
    for name, tensor in content["model"].items():
        again = loaded["model"][name]
        assert again.dtype == tensor.dtype and again.stride() == tensor.stride(), name
        assert torch.equal(*(part.detach().flatten().clone().view(torch.uint8) for part in (again, tensor))), name
        assert not again.requires_grad
    # What shared memory still does, and optimizers may count on PyTorch's alignment.
    assert loaded["model"]["part"].untyped_storage().data_ptr() == loaded["model"]["base"].untyped_storage().data_ptr()
    assert loaded["model"]["base"].data_ptr() % 64 == 0


@FORMS
def test_a_checkpoint_of_a_module_and_its_optimizer(zipped):
    model = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3, 2, 2, 2)).sum().backward()
    optimizer.step()
    loaded = read(written({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, zipped))
    other = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4))
    other.load_state_dict(loaded["model"])
    again = torch.optim.SGD(other.parameters(), lr=1.0)
    again.load_state_dict(loaded["optimizer"])
    assert torch.equal(
        again.state_dict()["state"][0]["momentum_buffer"], optimizer.state_dict()["state"][0]["momentum_buffer"]
    )
    assert again.param_groups[0]["lr"] == 0.1


class HistoryBuffer:
    """As mmengine keeps the values of its log, with arrays inside."""

    def __init__(self):
        self._log_history, self._count_history = np.arange(5.0), np.ones(5)


@FORMS
def test_objects_beside_the_weights_are_left_out_and_named(zipped, caplog):
    caplog.set_level(logging.INFO)
    content = {
        "meta": {"epoch": 1, "cfg": "model = dict()", "seed": np.int64(3)},
        "message_hub": {"log_scalars": {"train/loss": HistoryBuffer()}},
        "args": argparse.Namespace(lr=0.1, nested=argparse.Namespace(a=torch.ones(2))),
        "config": CfgNode({"MODEL": CfgNode({"WIDTH": 1})}),
        "folder": pathlib.PurePosixPath("/data"),
        "device": torch.device("cuda"),
        "state_dict": OrderedDict(a=torch.ones(2)),
    }
    loaded = read(written(content, zipped))
    assert loaded.keys() == {"meta", "message_hub", "state_dict"} and torch.equal(
        loaded["state_dict"]["a"], torch.ones(2)
    )
    assert loaded["meta"] == {"epoch": 1, "cfg": "model = dict()", "seed": 3}
    assert all(f"{name}" in caplog.text for name in ("HistoryBuffer, ", "argparse.Namespace, ", "and 2 more"))


def rewritten(data, change, **options):
    """The archive with changed members, by the end of their name."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", **options) as new:
        for name in old.namelist():
            content = old.read(name)
            for end, change_it in change.items():
                content = change_it(content) if name.endswith(end) else content
            if content is not None:
                new.writestr(name, content)
    return out.getvalue()


SIMPLE = written({"a": torch.ones(4)})
_COUNT, _SIZE, _STRIDE = b"K\x04tq\x07Q", b"K\x04\x85q\x08", b"K\x01\x85q\t"
assert all(part in zipfile.ZipFile(io.BytesIO(SIMPLE)).read("archive/data.pkl") for part in (_COUNT, _SIZE, _STRIDE))
_MANY = b"J\xff\xff\xff\x7f"


@pytest.mark.parametrize(
    "change",
    [
        {"data.pkl": lambda text: text.replace(_COUNT, _MANY + _COUNT[2:])},
        {"data.pkl": lambda text: text.replace(_SIZE, _MANY + _SIZE[2:])},
        {"data.pkl": lambda text: text.replace(_STRIDE, _MANY + _STRIDE[2:])},
        {"data.pkl": lambda text: text.replace(b"QK\x00", b"QK\x01")},
        {"data.pkl": lambda text: text.replace(b"QK\x00", b"QJ\xff\xff\xff\xff")},
        {"data.pkl": lambda text: text.replace(b"FloatStorage", b"DoubleStorage")},
        {"data.pkl": lambda text: text.replace(_COUNT, b"](K\x04etq\x07Q")},
        {"data/0": lambda text: text[:-1]},
        {"data/0": lambda text: text * 2},
        {"data/0": lambda text: None},
        {"data.pkl": lambda text: text.replace(b"X\x01\x00\x00\x000q", b"X\x10\x00\x00\x00../../etc/passwdq")},
        {"data.pkl": lambda text: text.replace(b"storage", b"module_")},
        {"byteorder": lambda text: b"big"},
    ],
)
def test_no_tensor_reads_memory_that_is_not_its_own(change):
    with pytest.raises(ValueError, match="^w.pth: ") as error:
        read(rewritten(SIMPLE, change))
    assert "\n" not in str(error.value)


def test_archives_that_grow_are_refused():
    with pytest.raises(ValueError, match="data.pkl is to have"):
        read(rewritten(SIMPLE, {}, compression=zipfile.ZIP_DEFLATED))
    # One number that stands for many would fill the memory of a program that copies it.
    assert read(written({"a": torch.ones(1).expand(10**9), "b": torch.ones(2)})).keys() == {"b"}


class _Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w')",)


@FORMS
def test_nothing_is_run(tmp_path, zipped):
    loaded = read(written({"a": torch.ones(2), "b": _Runs(tmp_path / "was_run")}, zipped))
    assert loaded.keys() == {"a"} and not (tmp_path / "was_run").exists()


def test_programs_are_named():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    with pytest.raises(
        ValueError, match=r"^w.pth: a TorchScript program, no file of weights; save the model's state_dict\(\)"
    ):
        read(file.getvalue())
    file = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), file)
    with pytest.raises(ValueError, match="^w.pth: a program of torch.export, no file of weights; give the checkpoint"):
        read(file.getvalue())
    file = io.BytesIO()
    np.savez(file, a=np.ones(2))
    with pytest.raises(ValueError, match="^w.pth: a zip archive of a.npy, no file of torch.save"):
        read(file.getvalue())


@FORMS
def test_files_with_any_damage_are_read_or_one_line(zipped):
    rng = random.Random(0)
    data = written({"model": {"a": torch.randn(3, 2), "b": torch.ones(2)}, "epoch": 3}, zipped)
    if zipped:
        data = rewritten(data, {})
    for _ in range(600):
        broken = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(broken))
            broken[place : place + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        try:
            read(bytes(broken))
        except ValueError as error:
            assert str(error).startswith("w.pth: ") and "\n" not in str(error)


def test_an_archive_whose_pickle_is_damaged_is_read_or_one_line():
    """The checksum of the archive is right, so that the damage reaches the pickle."""
    rng = random.Random(1)

    def damage(text):
        """Change some bytes."""
        broken = bytearray(text)
        for _ in range(rng.randint(1, 3)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        return bytes(broken)

    for _ in range(600):
        try:
            read(rewritten(SIMPLE, {"data.pkl": damage}))
        except ValueError as error:
            assert str(error).startswith("w.pth: ") and "\n" not in str(error)


def test_a_storage_that_the_row_does_not_fill_is_an_error():
    data = written({"a": torch.ones(4)}, zipped=False)
    start = data.rindex(pickle.PROTO + b"\x02" + pickle.EMPTY_LIST)
    with pytest.raises(ValueError, match="it is cut short or damaged"):
        read(data[:start] + pickle.dumps([], protocol=2))
