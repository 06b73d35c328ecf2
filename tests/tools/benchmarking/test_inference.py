"""The benchmark of a pass at test: variants, a peer with the same weights, and what it writes; times are not judged."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from nlvideo.config import load_cfg
from nlvideo.modeling import build_model
from nlvideo.tools.lib.benchmarking import inference, peer, train

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
CONFIG = str(CONFIGS / "quickstart/i3d_nl.yaml")
TINY = [
    "MODEL.BACKBONE.DEPTH", "10", "MODEL.BACKBONE.WIDTH", "0.25", "INPUT.CROP_SIZE", "32", "INPUT.NUM_FRAMES", "4",
    "TEST.CROP_SIZE", "32", "MODEL.DEVICE", "cpu",
]  # fmt: skip


@pytest.fixture
def stand_in(monkeypatch):
    """In place of PyTorchVideo's network: a copy of ours, so that the package is not needed."""
    asked = []

    def network(cfg, model):
        asked.append(cfg)
        return copy.deepcopy(model)

    for module in (inference, train):
        monkeypatch.setattr(module, "pytorchvideo_network", network)
    return asked


def test_variants_have_the_same_weights_and_take_turns_with_the_peer(tmp_path, stand_in):
    out = tmp_path / "out.json"
    table = inference.run(
        CONFIG, TINY, str(out), variants=["config", "norms+contiguous", "amp"], views=2, rounds=2, peer="pytorchvideo"
    )
    figures = json.loads(out.read_text())
    assert table.startswith("2 x 4x32\n") and figures["environment"]["torch"] == torch.__version__
    rows = figures["variants"]
    assert list(rows) == ["config", "norms+contiguous", "amp", "pytorchvideo"] and stand_in[0].TEST.AVERAGE == "logits"
    assert all(len(row["runs"]) == 2 and row["share_of_product"] > 0 for row in rows.values())
    assert rows["config"]["ratio"] == 1 and rows["config"]["largest_difference"] == 0
    assert rows["norms+contiguous"]["largest_difference"] < 1e-5 and rows["pytorchvideo"]["largest_difference"] < 1e-5
    assert 0 < rows["amp"]["largest_difference"] < 0.05


def test_a_training_step_of_the_peer_is_a_row_of_the_table(stand_in):
    table = train.run(CONFIG, TINY, iterations=1, batch_size=2, peer="pytorchvideo")
    assert "pytorchvideo" in table and "of the product's rate" in table


def test_every_variant_is_a_config():
    for words in inference.VARIANTS.values():
        load_cfg(CONFIG, [*TINY, *words])


def test_wrong_values():
    with pytest.raises(ValueError, match="variant: got 'fast'"):
        inference.run(CONFIG, TINY, variants=["fast"])
    with pytest.raises(ValueError, match="views: got 0, allowed: 1 or more"):
        inference.run(CONFIG, TINY, views=0)


def test_networks_that_the_peer_has_not_are_refused():
    for opts in (["MODEL.BACKBONE.STEM", "paper"], ["MODEL.BACKBONE.DEPTH", "101"], ["MODEL.NONLOCAL.ENABLED", "True"]):
        with pytest.raises(
            ValueError, match="--peer pytorchvideo: got .* allowed: TEMPORAL c2d with STEM slowfast_8x8"
        ):
            peer.PyTorchVideo(load_cfg(None, ["MODEL.BACKBONE.STEM", "slowfast_8x8", *opts]))


OPTS = ["MODEL.BACKBONE.STEM", "slowfast_8x8", "MODEL.BACKBONE.TEMPORAL", "i3d_3x1x1", "MODEL.DEVICE", "cpu"]
CLIP = ["INPUT.NUM_FRAMES", "8", "INPUT.CROP_SIZE", "224", "MODEL.HEAD.NUM_CLASSES", "5"]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pytorchvideo", None)
    with pytest.raises(ImportError, match="pip install pytorchvideo"):
        peer.PyTorchVideo(load_cfg(None, [*OPTS, *CLIP]))


def test_the_peer_has_our_weights_and_gives_our_scores(monkeypatch):
    pytest.importorskip("pytorchvideo")
    cfg = load_cfg(None, [*OPTS, *CLIP])
    model = build_model(cfg)
    before = model.head.classifier.weight.clone()
    theirs = peer.pytorchvideo_network(cfg, model)
    assert not torch.equal(before, model.head.classifier.weight) and model.training and theirs.training
    assert sum(isinstance(module, nn.BatchNorm3d) for module in theirs.modules()) == 53
    monkeypatch.setattr(peer, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="its scores differ from ours"):
        peer.pytorchvideo_network(cfg, model)
