"""Networks of other zoos: what their configs hold, and the parameters and multiply-adds that the zoos print."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from nlvideo.config import CfgNode
from nlvideo.model_zoo import get_config, get_config_file, list_networks
from nlvideo.modeling import model_costs
from nlvideo.modeling.costs import meta_model
from nlvideo.tools.lib.ledger import read_ledger

NAMES = [name for name in list_networks() if name.startswith("kinetics/zoo/")]
TSM = [name for name in NAMES if "/tsm_" in name]
OTHERS = [name for name in NAMES if name not in TSM]
AT_256 = ["INPUT.CROP_SIZE", "256", "INPUT.SHORT_SIDE_RANGE", "[256, 320]"]


@pytest.mark.parametrize("name", NAMES)
def test_the_first_comment_names_the_source_and_its_figures(name: str) -> None:
    first, entry = Path(get_config_file(name)).read_text().splitlines()[0], read_ledger()[name]
    assert first.startswith("# ") and get_config(name).OUTPUT_DIR == f"output/{name}"
    found = entry.get("release") or entry.get("paper")
    if found is None:
        assert first.endswith(": no figure published.") or "no figure published. " in first
        assert entry["note"].endswith("publishes no figures.")
        return
    assert "{top1} / {top5}".format(**found["figures"]) in first
    assert found["model"] in first if "model" in found else found["source"].split(", ", 2)[2] in first


def norm_values(cfg: CfgNode) -> int:
    """Values that pass a norm for one clip."""
    model, clip = meta_model(cfg)
    count = []
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_hook(lambda module, inputs, output: count.append(output.numel()))
    with torch.no_grad():
        model(clip)
    return sum(count)


# Millions of parameters and 1e9 multiply-adds that mmaction2 prints: of TSM for 224 pixels, of the others for 256.
MMACTION2 = {
    "i3d_r50_32x2x1": (28.0, 43.5),
    "i3d_r50_32x2x1_nl5": (35.4, 59.3),
    "i3d_r50_32x2x1_nl5_dot_product": (35.4, 59.3),
    "i3d_r50_32x2x1_nl5_gaussian": (31.7, 56.5),
    "slowonly_r50_4x16x1": (32.45, 27.38),
    "slowonly_r50_4x16x1_nl5": (39.81, 43.23),
    "slowonly_r50_8x8x1": (32.45, 54.75),
    "slowonly_r50_8x8x1_nl5": (39.81, 96.66),
    "tsm_r50_8x1x1": (23.87, 32.88),
    "tsm_r50_8x1x1_nl5": (31.68, 61.30),
    "tsm_r50_8x1x1_nl5_dot_product": (31.68, 61.30),
    "tsm_r50_8x1x1_nl5_gaussian": (28.00, 59.06),
}


@pytest.mark.parametrize("name", MMACTION2)
def test_costs_are_those_that_mmaction2_prints(name: str) -> None:
    """Its counter adds two operations for each value of a norm. Its blocks have no bias before their norm."""
    params, gmacs = MMACTION2[name]
    # It prints TSM without blocks as it is for the 174 classes of Something-Something, and that with blocks for 400.
    classes = 174 if name == "tsm_r50_8x1x1" else 400
    side = [] if name.startswith("tsm") else AT_256
    cfg = get_config(f"kinetics/zoo/{name}", ["MODEL.HEAD.NUM_CLASSES", str(classes), *side])
    costs = model_costs(cfg, describe=False)
    # It prints one digit of I3D.
    rounding = 0.05 if name.startswith("i3d") else 0
    assert costs["params"] / 1e6 == pytest.approx(params, rel=1e-3, abs=rounding)
    assert costs["gmacs"] + 2 * norm_values(cfg) / 1e9 == pytest.approx(gmacs, rel=3e-4, abs=rounding)
    # Without the norms the difference is that of the counters.
    assert costs["gmacs"] == pytest.approx(gmacs, rel=6e-3)
    assert costs["nonlocal_blocks"] == (5 if "_nl5" in name else 0)


@pytest.mark.parametrize("name", TSM)
def test_tsm_is_trained_and_tested_as_in_mmaction2(name: str) -> None:
    cfg = get_config(name)
    backbone, node, solver, test = cfg.MODEL.BACKBONE, cfg.MODEL.NONLOCAL, cfg.SOLVER, cfg.TEST
    assert (backbone.NAME, backbone.DEPTH, backbone.TEMPORAL, backbone.STEM) == ("TSM", 50, "c2d", "slow")
    assert (cfg.MODEL.WEIGHTS, cfg.MODEL.PIXEL_MEAN) == ("torchvision://resnet50", [123.675, 116.28, 103.53])
    form = "dot_product" if "dot" in name else "gaussian" if name.endswith("gaussian") else "embedded_gaussian"
    assert node.ENABLED == ("_nl5" in name) and (not node.ENABLED or node.PAIRWISE == form)
    assert (cfg.MODEL.HEAD.NAME, cfg.MODEL.HEAD.INIT_STD) == ("ConsensusHead", 0.001)
    assert node.BLOCKS == ["res3.0", "res3.2", "res4.0", "res4.2", "res4.4"]
    assert (node.SUBSAMPLE, node.POOL_FIRST, node.SCALE, node.NORM) == (True, False, False, "same")
    assert (cfg.INPUT.NUM_FRAMES, cfg.INPUT.CLIP_SAMPLER, test.CLIP_SAMPLER) == (8, "SegmentClip", "SegmentClip")
    # "8 clips x 10 crops" there are the 8 segments of one clip here.
    assert (test.NUM_CLIPS, test.NUM_CROPS, test.SHORT_SIDE, test.CROP_SIZE) == (1, 10, 256, 224)
    assert (solver.CLIPS_PER_BATCH, solver.REFERENCE_WORLD_SIZE, solver.BASE_LR, solver.NESTEROV) == (
        128,
        8,
        0.02,
        False,
    )
    assert [part * solver.MAX_EPOCHS for part in (*solver.STEP_FRACTIONS, solver.WARMUP_FRACTION)] == [25, 45, 5]
    assert (solver.CLIP_GRADIENTS.ENABLED, solver.CLIP_GRADIENTS.MAX, solver.HEAD_LR_FACTOR) == (True, 20, 5)


# The same of PyTorchVideo for 256 pixels, which trained PySlowFast's networks again, and how many operations it counted
# for each value of a norm.
PYTORCHVIDEO = {
    "i3d_r50_8x8_scratch": (28.04, 37.53, 5),
    "slow_r50_4x16": (32.45, 27.55, 5),
    "slow_r50_8x8": (32.45, 54.52, 0),
    "slowfast_r50_4x16": (34.48, 36.69, 5),
    "slowfast_r50_8x8": (34.57, 65.71, 0),
    "slowfast_r101_16x8": (53.77, 215.61, 5),
}
# 1e9 multiply-adds that the paper prints, for 256 pixels.
PAPER = {"slowfast_r50_4x16": 36.1, "slowfast_r50_8x8": 65.7, "slowfast_r101_16x8": 213}


@pytest.mark.parametrize("name", PYTORCHVIDEO)
def test_costs_are_those_that_pytorchvideo_and_the_paper_print(name: str) -> None:
    params, gmacs, of_norms = PYTORCHVIDEO[name]
    cfg = get_config(f"kinetics/zoo/{name}", AT_256)
    costs = model_costs(cfg, describe=False)
    assert costs["params"] / 1e6 == pytest.approx(params, rel=1e-3)
    assert costs["gmacs"] + of_norms * norm_values(cfg) / 1e9 == pytest.approx(gmacs, rel=3e-4)
    assert costs["gmacs"] == pytest.approx(PAPER.get(name, costs["gmacs"]), rel=1e-3)


def test_what_the_note_says_of_the_blocks_of_slowfast() -> None:
    """With 256 pixels the map of res4 has 16 x 16 x 16 positions, and a quarter as many keys."""
    names = [f"kinetics/zoo/slowfast_r101_16x8{blocks}" for blocks in ("", "_nl3")]
    plain, blocks = (model_costs(get_config(name, AT_256), describe=False)["gmacs"] for name in names)
    queries, keys, channels, inner = 4096, 1024, 1024, 512
    projections = 2 * (queries + keys) * channels * inner
    dense, reordered = 2 * queries * keys * inner, (queries + keys) * inner * inner
    assert blocks - plain == pytest.approx(3 * (projections + dense) / 1e9, rel=1e-3)
    here, without = round(blocks - plain), round(3 * (projections + reordered) / 1e9)
    note = " ".join(read_ledger()[names[1]]["note"].split())
    assert f"the three blocks are {here} G" in note and f"they are {without} G" in note


SCHEME = re.compile(
    r"(?P<kind>c2d|i3d|slow|slowonly|slowfast)_r(?P<depth>50|101)_(?P<frames>\d+)x(?P<stride>\d+)(?P<mmaction2>x1)?"
    r"(_nl(?P<blocks>3|5))?(_(?P<form>gaussian|dot_product))?(_(?P<start>scratch|in1k))?"
)


@pytest.mark.parametrize("name", OTHERS)
def test_a_name_says_what_the_config_holds(name: str) -> None:
    parts, cfg = SCHEME.fullmatch(name.rpartition("/")[2]), get_config(name)
    backbone, node, clip = cfg.MODEL.BACKBONE, cfg.MODEL.NONLOCAL, cfg.INPUT
    alpha = dict(backbone.ARGS).get("alpha", 1)
    assert (clip.NUM_FRAMES, clip.FRAME_STRIDE * alpha) == (int(parts["frames"]) * alpha, int(parts["stride"]))
    assert (backbone.NAME == "SlowFast") == (parts["kind"] == "slowfast") == (alpha > 1)
    temporal = {"c2d": "c2d", "i3d": "i3d_3x1x1", "slow": "slow", "slowonly": "slow"}
    assert backbone.TEMPORAL == temporal.get(parts["kind"], "c2d") and backbone.DEPTH == int(parts["depth"])
    stem = "mmaction2_32x2" if parts["frames"] == "32" else "slow" if "slow" in parts["kind"] else "slowfast_8x8"
    without_pool = "c2d_r50_8x8_scratch" in name
    assert parts["kind"] == "slowfast" or backbone.STEM == ("slow" if without_pool else stem)
    assert node.ENABLED == bool(parts["blocks"])
    usual = "dot_product" if parts["kind"] in ("slow", "slowfast") else "embedded_gaussian"
    assert not node.ENABLED or node.PAIRWISE == (parts["form"] or usual)
    # mmaction2 pools after the convolutions, and scales the logits of SlowOnly alone.
    scaled = not parts["mmaction2"] or parts["kind"] == "slowonly"
    assert (node.POOL_FIRST, node.SCALE) == (not parts["mmaction2"], scaled)
    assert (cfg.MODEL.WEIGHTS == "") == (not parts["mmaction2"] and parts["start"] != "in1k")


def epochs(cfg: CfgNode) -> list[float]:
    """The end of the training, of its steps and of its warm-up."""
    solver = cfg.SOLVER
    steps = [] if solver.LR_SCHEDULE == "cosine" else solver.STEP_FRACTIONS
    return [round(solver.MAX_EPOCHS * part, 1) for part in (1, *steps, solver.WARMUP_FRACTION)]


@pytest.mark.parametrize("name", OTHERS)
def test_they_are_trained_and_tested_as_in_their_zoo(name: str) -> None:
    cfg, leaf = get_config(name), name.rpartition("/")[2]
    solver, test = cfg.SOLVER, cfg.TEST
    mmaction2 = re.search(r"x\d+x1(_|$)", leaf) is not None
    rates = (solver.LR_SCHEDULE, solver.BASE_LR, solver.CLIPS_PER_BATCH, solver.NESTEROV, solver.WEIGHT_DECAY_NORM)
    if not mmaction2:
        expected = [("cosine", 0.1, 64, True, 0), [196, 34]]
        expected = [("step", 0.01, 64, True, 0), [118, 44, 88, 0]] if leaf.endswith("in1k") else expected
    elif leaf.startswith("i3d"):
        expected = [("step", 0.01, 64, False, 1e-4), [100, 40, 80, 0]]
    else:
        expected = [("step", 0.01 if "_nl5" in leaf else 0.02, 128, False, 1e-4), [150, 90, 130, 10]]
    assert [rates, epochs(cfg)] == expected
    assert solver.CLIP_GRADIENTS.ENABLED == (mmaction2 and not re.match(r"slowonly.*_nl5", leaf))
    assert (test.CLIP_SAMPLER, test.PRECISE_BN.ENABLED) == (
        "MMActionClips" if mmaction2 else "SlowFastClips",
        not mmaction2,
    )
    assert (test.NUM_CLIPS, test.NUM_CROPS, test.SHORT_SIDE, test.CROP_SIZE) == (10, 3, 256, 256)
    assert cfg.MODEL.PIXEL_MEAN == ([123.675, 116.28, 103.53] if mmaction2 else [114.75] * 3)
