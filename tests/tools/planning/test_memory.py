"""The counted memory of a training step: what is measured on a CPU, what is kept for backward, what settings change."""

import pytest
import torch

from nlvideo.config import CfgNode
from nlvideo.modeling import build_model
from nlvideo.tools.lib.benchmarking.nonlocal_block import saved_for_backward
from nlvideo.tools.lib.benchmarking.train import load_variant, make_batch
from nlvideo.tools.lib.planning import memory
from nlvideo.tools.lib.planning.measured import measure_peak
from nlvideo.tools.lib.planning.memory import StepMemory, count_step

CLIPS = 4
# What makes a network of the paper small: its stages, its blocks and its step stay.
SMALL = ["MODEL.WEIGHTS", "", "MODEL.BACKBONE.WIDTH", 0.25, "INPUT.NUM_FRAMES", 8, "INPUT.CROP_SIZE", 64]
NL5 = "configs/kinetics/i3d_r50_32x2_nl5.yaml"
CONFIGS: dict[str, tuple[str, list]] = {
    "quickstart": ("configs/quickstart/i3d_nl.yaml", []),
    "dense softmax, contiguous, AdamW": (
        NL5,
        [*SMALL, "MODEL.NONLOCAL.ALGORITHM", "dense", "MODEL.CHANNELS_LAST", False, "SOLVER.OPTIMIZER", "AdamW"],
    ),
    "sorted, mixed precision": (
        "configs/kinetics/c2d_r50_32x2_nl1_concatenation.yaml",
        [*SMALL, "MODEL.NONLOCAL.ALGORITHM", "sorted", "SOLVER.AMP.ENABLED", True],
    ),
    "folded, recomputed, clipping": (
        "configs/kinetics/c2d_r50_32x2_nl1_dot_product.yaml",
        [*SMALL, "MODEL.NONLOCAL.ALGORITHM", "folded", "MODEL.NONLOCAL.CHECKPOINT", True,
         "SOLVER.CLIP_GRADIENTS.ENABLED", True],
    ),
    "symmetric softmax, unfused": (
        "configs/kinetics/c2d_r50_32x2_nl1_gaussian.yaml",
        [*SMALL, "MODEL.NONLOCAL.SUBSAMPLE", False, "SOLVER.FUSED", False],
    ),
}  # fmt: skip


def config(name: str) -> CfgNode:
    """One of ``CONFIGS`` on a CPU."""
    file, overrides = CONFIGS[name]
    return load_variant(file, ["MODEL.DEVICE", "cpu", *overrides], CLIPS)


@pytest.fixture(scope="module")
def counted() -> dict[str, StepMemory]:
    """What is counted of each config."""
    return {name: count_step(config(name), "cpu", CLIPS) for name in CONFIGS}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_counted_peak_is_the_measured_one(name: str, counted: dict[str, StepMemory]) -> None:
    assert counted[name].peak == pytest.approx(measure_peak(config(name)), rel=0.1)


@pytest.mark.parametrize("name", [name for name in CONFIGS if "recomputed" not in name])
def test_what_is_kept_is_what_real_tensors_keep(name: str, counted: dict[str, StepMemory]) -> None:
    cfg = config(name)
    model, batch = build_model(cfg).train(), make_batch(cfg, torch.device("cpu"))

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=cfg.SOLVER.AMP.ENABLED):
            return sum(model(batch).values())

    saved, _ = saved_for_backward(forward, model, 0)
    # The statistics of the norms, which have their places anyway, are also saved.
    assert counted[name].kept == pytest.approx(saved, rel=0.01)


def gpu(*overrides: object, clips: int = CLIPS, passes: int = 1) -> StepMemory:
    """What is counted of a thin ResNet-10 on a GPU, with a block on 28 x 28 positions and one on 14 x 14."""
    blocks = ["MODEL.NONLOCAL.BLOCKS", ["res3.0", "res4.0"]]
    cfg = load_variant(NL5, [*SMALL, "INPUT.CROP_SIZE", 224, "MODEL.BACKBONE.DEPTH", 10, *blocks, *overrides], CLIPS)
    return count_step(cfg, "cuda", clips, passes)


def test_without_a_gpu_its_tensors_are_counted() -> None:
    one, two, four = (gpu(clips=clips) for clips in (1, 2, 4))
    assert one.parameters == four.parameters and one.gradients == one.optimizer == four.gradients > 0 == four.batch
    assert four.kept - two.kept == 2 * (two.kept - one.kept) > 0
    assert four.peak > four.parameters + four.optimizer + four.kept


def test_settings_change_what_they_should() -> None:
    plain = gpu()
    # A quarter of the positions are keys.
    matrices = 4 * CLIPS * (784 * 196 + 196 * 49)
    assert gpu("MODEL.NONLOCAL.ALGORITHM", "dense").kept - plain.kept == pytest.approx(matrices, rel=0.02)
    assert gpu("MODEL.NONLOCAL.CHECKPOINT", True).kept < plain.kept
    assert gpu("SOLVER.AMP.ENABLED", True).kept < 0.7 * plain.kept
    frozen = gpu("MODEL.BACKBONE.FREEZE_AT", 3)
    assert frozen.gradients < plain.gradients and frozen.kept < plain.kept
    assert gpu("SOLVER.EMA.ENABLED", True).parameters > 1.9 * plain.parameters
    assert gpu("SOLVER.OPTIMIZER", "AdamW").optimizer > 1.9 * plain.optimizer
    # Clips are mixed on the device, where they stay.
    assert gpu("SOLVER.MIX.MIXUP_ALPHA", 0.8, "MODEL.HEAD.NUM_CLASSES", 0).batch == CLIPS * (3 * 8 * 224**2 + 4 * 400)
    # The gradients of the first pass are there in the second.
    assert gpu(passes=2).peak > plain.peak


def test_a_model_of_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(2, 2)
    model.example_input = torch.zeros(1, 3, 32, 32)
    monkeypatch.setattr(memory, "meta_model", lambda cfg: (model, model.example_input))
    with pytest.raises(ValueError, match="MODEL.META_ARCHITECTURE: got 'VideoClassifier', allowed for a plan: a model"):
        gpu()
