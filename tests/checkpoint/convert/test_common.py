"""The register of sources, and how a file finds its own."""

from pathlib import Path

import pytest
import torch

from nlvideo.checkpoint.convert import SOURCES, Converted, Source, convert, recognise

# Tables of names of the networks that ours can express: all but those with shifts.
TABLES = sorted(path.stem for path in Path(__file__).parent.glob("data/peer_keys/*.tsv"))
TABLES = [name for name in TABLES if "_tsm_" not in name]


@pytest.mark.parametrize("name", TABLES)
def test_every_tensor_of_the_tables_has_a_place(peers, name):
    state = peers.zeros(peers.table(name))
    converted = convert(state)
    assert converted.source == name.split("_")[0]
    assert {theirs for theirs, _ in converted.mapped} == set(state) and not converted.dropped
    ours = {key: tuple(tensor.shape) for key, tensor in peers.on_meta(peers.config(converted)).items()}
    assert {key: tuple(tensor.shape) for key, tensor in converted.weights.items()} == ours


def test_an_unknown_source():
    with pytest.raises(ValueError, match="source of weights: got 'keras', allowed: 'auto', 'caffe2'"):
        convert({}, "keras")


def test_several_claims(monkeypatch):
    for name in ("one", "two"):
        monkeypatch.setitem(SOURCES, name, Source(lambda content: "strange" in content, Converted))
    with pytest.raises(ValueError, match="the names strange, ... may be of one or two: say which"):
        recognise({"strange": torch.zeros(1)})


def test_auto_takes_the_one_that_claims(monkeypatch):
    chosen = Source(lambda content: "strange" in content, lambda content: Converted(dict(content)))
    monkeypatch.setitem(SOURCES, "one", chosen)
    content = {"strange": torch.zeros(1)}
    assert convert(content).weights == content == convert(content, "one").weights


def test_other_places_are_listed(authors):
    shapes = authors.blob_shapes(base=8, classes=7)
    content = {n: torch.zeros(1).expand(s) for n, s in shapes.items() if not n.startswith("nonlocal_conv3")}
    overrides = convert(content).overrides
    assert overrides["MODEL.NONLOCAL.BLOCKS"] == ["res4.1", "res4.3", "res4.5"]
    assert overrides["MODEL.BACKBONE.WIDTH"] == 0.125 and overrides["MODEL.HEAD.NUM_CLASSES"] == 7
