"""Tables of names read in both directions."""

import pytest
import torch

from nlvideo.checkpoint.convert import SOURCES
from nlvideo.checkpoint.convert.common import ModuleNames, rename

TABLE = ModuleNames({"layer{stage}.{block}.conv": "res{stage}.{block}.conv", "top.fc": "head.fc"}, stages={1: 2, 2: 3})


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("layer1.0.conv.weight", "res2.0.conv.weight"),
        ("layer2.13.conv.running_var", "res3.13.conv.running_var"),
        ("top.fc.bias", "head.fc.bias"),
    ],
)
def test_both_directions(theirs, ours):
    assert TABLE.to_ours(theirs) == ours
    assert TABLE.to_theirs(ours) == theirs


@pytest.mark.parametrize(
    "name",
    ["layer3.0.conv.weight", "layer1.x.conv.weight", "layer1.0.conv", "xtop.fc.bias", "topxfc.bias", "top.fc.scale"],
)
def test_unknown_names_have_no_translation(name):
    assert TABLE.to_ours(name) is None
    assert TABLE.to_theirs(name) is None


def test_rename_reports_what_it_did():
    tensor = torch.ones(3)
    converted = rename("them", {"top.fc.bias": tensor, "epoch": "three"}, TABLE.to_ours)
    assert converted.weights["head.fc.bias"] is tensor
    assert converted.mapped == [("top.fc.bias", "head.fc.bias")] and converted.dropped == [("epoch", "not a tensor")]
    dropped = rename("them", {"top.lr": tensor}, TABLE.to_ours, drop=lambda name: f"{name} is no weight").dropped
    assert converted.source == "them" and dropped == [("top.lr", "top.lr is no weight")]


def test_rename_refuses_what_has_no_place():
    with pytest.raises(ValueError, match=r"them: cannot express x.weight \(3,\): it is an x"):
        rename("them", {"x.weight": torch.ones(3)}, TABLE.to_ours, {r"^x\.": "it is an x"})
    with pytest.raises(ValueError, match="our ResNets have no such layer"):
        rename("them", {"y.weight": torch.ones(3)}, TABLE.to_ours)


def test_rename_refuses_two_tensors_for_one_place():
    table = ModuleNames({"a": "ours", "b": "ours"}, stages={})
    with pytest.raises(ValueError, match="them: b.bias is a second tensor for ours.bias"):
        rename("them", {"a.bias": torch.ones(1), "b.bias": torch.ones(1)}, table.to_ours)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("s1.pathway0_stem.conv.weight", "pyslowfast"),
        ("s1.pathway0_stem.conv_xy.weight", "pyslowfast"),
        ("backbone.conv1.conv.weight", "mmaction2"),
        ("backbone.slow_path.conv1.conv.weight", "mmaction2"),
        ("backbone.conv1.conv.conv_s.weight", "mmaction2"),
        ("blocks.0.conv.weight", "pytorchvideo"),
        ("model.blocks.0.conv.conv_t.weight", "pytorchvideo"),
        ("backbone.stem.conv.weight", None),
        ("conv1.weight", None),
        ("conv1_w", None),
        ("blocks.0.attn.qkv.weight", None),
    ],
)
def test_sources_are_not_confused(name, source):
    peers = ("pyslowfast", "mmaction2", "pytorchvideo")
    content = {name: torch.zeros(64, 3, 1, 7, 7)}
    assert [peer for peer in peers if SOURCES[peer].recognise(content)] == ([source] if source else [])
