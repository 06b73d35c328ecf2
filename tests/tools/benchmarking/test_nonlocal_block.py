"""The benchmark of the block: the same function three times, what is kept, and the tool around it."""

import importlib.util
import json

import pytest
import torch

from nlvideo.tools.lib.benchmarking import nonlocal_block as bench
from nlvideo.tools.lib.benchmarking.nonlocal_block import (
    FORMS,
    SHAPES,
    MapShape,
    Trial,
    measure_all,
    saved_for_backward,
)

needs_mmcv = pytest.mark.skipif(importlib.util.find_spec("mmcv") is None, reason="mmcv is not installed")


@pytest.mark.parametrize(
    "name, channels, size",
    [("res3-32x224", 512, (4, 28, 28)), ("res4-128x256", 1024, (16, 16, 16)), ("res3-8x224", 512, (1, 28, 28))],
)
def test_shapes_are_those_of_the_paper(name, channels, size):
    shape = MapShape.parse(name)
    assert (shape.channels, shape.size) == (channels, size)
    assert all(MapShape.parse(name) for name in SHAPES)


@pytest.mark.parametrize("peer", [False, pytest.param(True, marks=needs_mmcv)])
@pytest.mark.parametrize("form", FORMS)
def test_all_compute_the_same_and_ours_keeps_no_matrix(form, peer):
    # Small: mmcv's concatenation form takes 10 GB on four times as many positions.
    (row,) = measure_all([form], ["res2-16x56"], ["all"], peer=peer, rounds=1)
    assert (row["P"], row["Q"]) == (2 * 14 * 14, 2 * 14 * 14)
    found = row["implementations"]
    assert list(found) == (["mmcv"] if peer else []) + ["dense", "exact"] and list(row["ratios"]) == list(found)[:-1]
    assert all(f["max_difference"] < 1e-4 and f["seconds"] > 0 for f in found.values())
    assert found["exact"]["saved_matrices"] == 0 < found["dense"]["saved_matrices"]
    assert found["exact"]["saved_bytes"] < found["dense"]["saved_bytes"]


def test_what_is_kept_is_counted_once_and_without_parameters():
    layer = torch.nn.Linear(10, 20)
    x = torch.randn(5, 10, requires_grad=True)

    def work():
        """x twice, and a product of 5 x 20 that exp keeps."""
        return layer(x).exp() + x.sum() * 0

    assert saved_for_backward(work, layer, 100) == (4 * (50 + 100), 1)


def test_what_does_not_fit_is_extrapolated_and_marked(monkeypatch):
    P = 8 * 14 * 14
    monkeypatch.setattr(bench, "_available_bytes", lambda device: 0.9 * 16 * P * P / bench.USABLE_MEMORY)
    rows = list(measure_all(["dot_product"], ["res2-64x56"], ["all"], rounds=1))
    dense, exact = (rows[0]["implementations"][name] for name in ("dense", "exact"))
    assert dense["note"] == "needs about 0 GiB" and dense["extrapolated_from"] == f"{P // 2} x {P // 2}"
    assert exact["extrapolated_from"] == "" and dense["saved_bytes"] is None
    assert rows[0]["ratios"]["dense"] == pytest.approx(dense["seconds"] / exact["seconds"])
    table = bench.format_rows(rows)
    assert "*" in table.splitlines()[2] and "extrapolated" in table.splitlines()[-1]


@needs_mmcv
def test_mmcvs_concatenation_needs_what_is_said():
    trial = Trial("concatenation", MapShape.parse("res3-8x224"), False, "cpu", torch.float32, peer=True)
    assert trial.needs_bytes("mmcv") == 2 * 4 * 784 * 784 * 512
    assert trial.needs_bytes("exact") == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((["gauss"], ["res3-8x224"], ["all"]), "form: got 'gauss', allowed: 'gaussian'"),
        ((["gaussian"], ["res9-8x224"], ["all"]), "shape 'res9-8x224': allowed are STAGE-FRAMESxSIDE"),
        ((["gaussian"], ["res3-8x224"], ["some"]), "keys: got 'some', allowed: 'all', 'pooled'"),
    ],
)
def test_wrong_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        list(measure_all(*arguments))


def test_the_tool_prints_and_writes(call_tool, tmp_path):
    out = tmp_path / "new" / "out.json"
    words = ["nonlocal", "--forms", "dot_product", "--shapes", "res4-16x112", "--keys", "pooled", "--rounds", "1"]
    status, text, errors = call_tool("benchmark", *words, "--json", str(out))
    assert status == 0 and "dot_product" in text and "dense / exact" in text, errors
    content = json.loads(out.read_text())
    assert content["rows"][0]["shape"] == "res4-16x112" and content["environment"]["torch"] == torch.__version__
    status, _, errors = call_tool("benchmark", "nonlocal", "--dtype", "int8")
    assert status == 2 and "dtype: got 'int8', allowed: 'float32', 'bfloat16', 'float16'" in errors
