"""Golden costs: parameters (millions) and multiply-adds (1e9) of the networks of the paper and of the authors' code.

The totals follow from the layer tables and agree with what the paper prints: C2D R101 has 43.2 M parameters and 34.2 G
(Table 2e), and five non-local blocks add a fifth to it.
"""

import functools

import pytest
import torch

from nlvideo.config import CfgNode, get_cfg
from nlvideo.modeling.costs import meta_model, model_costs, stage_table


def _cfg(depth: int, temporal: str, stem: str = "paper", frames: int = 32, blocks: bool = False) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.DEPTH, cfg.MODEL.BACKBONE.TEMPORAL, cfg.MODEL.BACKBONE.STEM = depth, temporal, stem
    cfg.MODEL.NONLOCAL.ENABLED = blocks
    cfg.INPUT.NUM_FRAMES = frames
    return cfg


@functools.cache
def _costs(*arguments: object, **keywords: object) -> dict:
    return model_costs(_cfg(*arguments, **keywords))


GOLDEN = [
    # Table 1 and its I3D and non-local versions, 32x224x224.
    ((50, "c2d"), {}, 24.33, 20.44),
    ((50, "c2d"), {"blocks": True}, 31.69, 28.57),
    ((50, "i3d_3x1x1"), {}, 28.04, 33.13),
    ((50, "i3d_3x3x3"), {}, 33.43, 39.09),
    ((101, "c2d"), {}, 43.32, 35.29),
    ((101, "i3d_3x1x1"), {}, 51.75, 51.68),
    ((101, "c2d"), {"blocks": True}, 50.68, 43.41),
    # The authors' stems.
    ((50, "c2d", "authors_32x2"), {}, 24.33, 20.23),
    ((50, "i3d_3x1x1", "authors_32x2"), {}, 28.04, 32.83),
    ((50, "c2d", "authors_8x8", 8), {}, 24.33, 19.29),
    ((50, "i3d_3x1x1", "authors_8x8", 8), {"blocks": True}, 35.40, 36.24),
]


@pytest.mark.parametrize(("network", "keywords", "params", "gmacs"), GOLDEN)
def test_golden_costs(network: tuple, keywords: dict, params: float, gmacs: float) -> None:
    costs = _costs(*network, **keywords)
    assert costs["params"] / 1e6 == pytest.approx(params, rel=1e-3)
    assert costs["gmacs"] == pytest.approx(gmacs, rel=1e-3)


@pytest.mark.parametrize(
    ("temporal", "keywords", "params", "gmacs"),
    [("i3d_3x3x3", {}, 1.5, 1.8), ("i3d_3x1x1", {}, 1.2, 1.5), ("c2d", {"blocks": True}, 1.2, 1.2)],
)
def test_ratios_of_table_2e(temporal: str, keywords: dict, params: float, gmacs: float) -> None:
    base, model = _costs(101, "c2d"), _costs(101, temporal, **keywords)
    assert model["params"] / base["params"] == pytest.approx(params, abs=0.06)
    assert model["gmacs"] / base["gmacs"] == pytest.approx(gmacs, abs=0.06)


def test_each_of_the_five_blocks_is_listed() -> None:
    blocks = _costs(50, "c2d", blocks=True)["nonlocal_blocks"]
    assert [row["name"].removeprefix("backbone.") for row in blocks] == [
        "res3.nl1",
        "res3.nl3",
        "res4.nl1",
        "res4.nl3",
        "res4.nl5",
    ]
    assert sum(row["gmacs"] for row in blocks) == pytest.approx(8.13, rel=1e-3)
    assert _costs(50, "c2d")["nonlocal_blocks"] == []


def test_the_short_count_is_the_same() -> None:
    long = _costs(50, "c2d", blocks=True)
    assert model_costs(_cfg(50, "c2d", blocks=True), describe=False) == {**long, "nonlocal_blocks": 5}


@pytest.mark.parametrize(("pairwise", "algorithm"), [("dot_product", "reordered"), ("embedded_gaussian", "fused")])
def test_costs_do_not_depend_on_the_algorithm(pairwise: str, algorithm: str) -> None:
    cfg = _cfg(50, "c2d", blocks=True)
    cfg.MODEL.NONLOCAL.PAIRWISE, cfg.MODEL.NONLOCAL.ALGORITHM = pairwise, algorithm
    costs = model_costs(cfg)
    assert costs["gmacs"] == pytest.approx(28.57, rel=1e-3)
    assert all(row["algorithm"] == algorithm for row in costs["nonlocal_blocks"])


def test_pooling_after_the_convolutions_costs_more() -> None:
    cfg = _cfg(101, "c2d", blocks=True)
    cfg.MODEL.NONLOCAL.POOL_FIRST = False
    assert model_costs(cfg)["gmacs"] - _costs(101, "c2d")["gmacs"] == pytest.approx(11.21, rel=1e-3)


def test_long_clips_cost_four_times_as_much() -> None:
    short, long = _costs(50, "i3d_3x1x1"), _costs(50, "i3d_3x1x1", frames=128)
    assert long["params"] == short["params"]
    # All but the classifier, which sees one position in either.
    assert long["gmacs"] / short["gmacs"] == pytest.approx(4, rel=1e-3)


def test_a_number_of_classes_that_the_data_decides_counts_as_the_default() -> None:
    cfg = _cfg(18, "c2d")
    cfg.MODEL.HEAD.NUM_CLASSES = 0
    assert model_costs(cfg) == _costs(18, "c2d") and cfg.MODEL.HEAD.NUM_CLASSES == 0


def test_the_model_stays_without_memory() -> None:
    model, clip = meta_model(_cfg(101, "i3d_3x1x1", blocks=True))
    assert all(tensor.is_meta for tensor in [clip, *model.parameters(), *model.buffers()])
    assert clip.dtype == torch.uint8 and clip.shape == (1, 3, 32, 224, 224)
    assert model(clip).shape == (1, 400)


def test_the_table_has_a_row_for_every_stage() -> None:
    rows = {line.split()[0]: line.split()[1:] for line in stage_table(_cfg(50, "c2d")).splitlines()}
    for stage in ("stem", "res2", "res3", "res4", "res5"):
        params, gmacs = rows[f"backbone.{stage}"]
        assert int(params.replace(",", "")) > 0 and float(gmacs) > 0
    assert rows["head"][0].replace(",", "") == str(2048 * 400 + 400)
    assert rows["VideoClassifier"][1] == "20.44"
