"""The register of sources, and how a file finds its own."""

import pytest
import torch

from nlvideo.checkpoint.convert import SOURCES, Converted, Source, convert, get_source, recognise, register


def test_every_source_is_registered_under_its_name():
    assert {"caffe2", "detectron", "torchvision"} <= set(SOURCES)
    assert all(source.name == name for name, source in SOURCES.items())


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="source 'caffe2' is registered twice"):
        register(Source("caffe2", bool, Converted))


def test_an_unknown_source():
    with pytest.raises(ValueError, match="source of weights: got 'keras', allowed: 'auto', 'caffe2'"):
        get_source("keras")
    with pytest.raises(ValueError, match="got 'keras'"):
        convert({}, "keras")


def test_several_claims(monkeypatch):
    for name in ("one", "two"):
        monkeypatch.setitem(SOURCES, name, Source(name, lambda content: "strange" in content, Converted))
    with pytest.raises(ValueError, match="the names strange, ... may be of one or two: say which"):
        recognise({"strange": torch.zeros(1)})


def test_auto_takes_the_one_that_claims(monkeypatch):
    chosen = Source("one", lambda content: "strange" in content, lambda content: Converted(dict(content)))
    monkeypatch.setitem(SOURCES, "one", chosen)
    content = {"strange": torch.zeros(1)}
    assert convert(content).weights == content == convert(content, "one").weights


def test_other_places_are_listed(authors):
    shapes = authors.blob_shapes(base=8, classes=7)
    content = {n: torch.zeros(1).expand(s) for n, s in shapes.items() if not n.startswith("nonlocal_conv3")}
    overrides = convert(content).overrides
    assert overrides["MODEL.NONLOCAL.BLOCKS"] == ["res4.1", "res4.3", "res4.5"]
    assert overrides["MODEL.BACKBONE.WIDTH"] == 0.125 and overrides["MODEL.HEAD.NUM_CLASSES"] == 7
