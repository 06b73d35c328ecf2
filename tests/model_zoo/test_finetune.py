"""The configs for fine-tuning torchvision's networks say what the transforms of their weights say."""

import pytest
import torchvision

from nlvideo.checkpoint.catalog import torchvision_url
from nlvideo.checkpoint.convert.torchvision import video_settings
from nlvideo.model_zoo import get_config
from nlvideo.modeling import model_costs


@pytest.mark.parametrize("arch", ["r2plus1d_18", "r3d_18", "swin3d_t"])
def test_values_are_those_of_the_weights(arch: str) -> None:
    cfg = get_config(f"finetune/{arch}")
    for key, value in video_settings(arch).items():
        assert cfg.value_at(key) == value, key
    # FRAME_STRIDE is in frames of Kinetics, which has 30 a second.
    assert cfg.INPUT.FPS == 30
    weights = cfg.MODEL.WEIGHTS
    assert weights == f"torchvision://{arch}/KINETICS400_V1" and torchvision_url(weights.partition("://")[2])
    assert cfg.MODEL.HEAD.NUM_CLASSES == 0


@pytest.mark.parametrize("arch", ["r2plus1d_18", "r3d_18", "swin3d_t"])
def test_costs_are_those_that_torchvision_reports(arch: str) -> None:
    """Its figures are for 16 frames."""
    costs = model_costs(get_config(f"finetune/{arch}", ["MODEL.HEAD.NUM_CLASSES", 400]), describe=False)
    meta = torchvision.models.get_model_weights(arch)["DEFAULT"].meta
    assert costs["params"] == meta["num_params"]
    assert costs["gmacs"] == pytest.approx(meta["_ops"] * (2 if arch == "swin3d_t" else 1), rel=0.01)
