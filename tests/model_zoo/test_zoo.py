"""Networks of other zoos: what their configs hold, and the parameters and multiply-adds that the zoos print."""

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


@pytest.mark.parametrize("name", NAMES)
def test_the_first_comment_names_the_source_and_its_figures(name: str) -> None:
    first, release = Path(get_config_file(name)).read_text().splitlines()[0], read_ledger()[name]["release"]
    assert first.startswith("# ") and release["model"] in first
    assert "{top1} / {top5}".format(**release["figures"]) in first
    assert get_config(name).OUTPUT_DIR == f"output/{name}"


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


# Millions of parameters and 1e9 multiply-adds that mmaction2 prints.
MMACTION2 = {
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
    cfg = get_config(f"kinetics/zoo/{name}", ["MODEL.HEAD.NUM_CLASSES", str(classes)])
    costs = model_costs(cfg, describe=False)
    assert costs["params"] / 1e6 == pytest.approx(params, rel=1e-3)
    assert costs["gmacs"] + 2 * norm_values(cfg) / 1e9 == pytest.approx(gmacs, rel=3e-4)
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
