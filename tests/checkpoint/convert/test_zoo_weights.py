"""The weights that other zoos publish belong to our configs of their networks."""

import pytest

from nlvideo.checkpoint.convert import convert
from nlvideo.checkpoint.weights import check_config, fit
from nlvideo.model_zoo import get_config

# Config in kinetics/zoo -> table of names of a network that its zoo publishes weights of.
TABLES = {
    "c2d_r50_8x8_scratch": "pyslowfast_c2d_8x8_r50",
    "i3d_r50_8x8_scratch": "pytorchvideo_i3d_r50",
    "i3d_r50_8x8_nl5_scratch": "pyslowfast_i3d_nln_8x8_r50",
    "i3d_r101_8x8_nl5_scratch": "pyslowfast_i3d_nln_8x8_r101",
    "slow_r50_4x16": "pytorchvideo_slow_r50",
    "slow_r50_8x8": "pyslowfast_slow_8x8_r50",
    "slow_r50_4x16_nl5": "pyslowfast_slow_nln_4x16_r50",
    "slowfast_r50_4x16": "pyslowfast_slowfast_4x16",
    "slowfast_r50_8x8": "pytorchvideo_slowfast_r50",
    "i3d_r50_32x2x1_nl5": "mmaction2_i3d_nl_embedded_gaussian",
    "i3d_r50_32x2x1_nl5_gaussian": "mmaction2_i3d_nl_gaussian",
    "slowonly_r50_8x8x1": "mmaction2_slowonly_r50_8x8",
    "slowonly_r50_8x8x1_nl5": "mmaction2_slowonly_nl_eg_8x8",
}


@pytest.mark.parametrize("name", TABLES)
def test_every_tensor_fits_and_no_setting_differs(peers, name):
    cfg = get_config(f"kinetics/zoo/{name}")
    converted = convert(peers.zeros(peers.table(TABLES[name])))
    model = peers.on_meta(cfg)
    check_config(converted, cfg, "file", model)
    assert fit(model, converted.weights, "file", "all").is_complete


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("slow_r50_8x8", "pyslowfast_slowfast_4x16", "MODEL.BACKBONE.NAME: file 'SlowFast', config 'ResNet3d'"),
        ("slowfast_r50_8x8", "pyslowfast_slowfast_4x16", "ARGS: file [['alpha', 4], ['lateral_kernel', 5]] or [['alph"),
        ("slowfast_r50_4x16", "pyslowfast_slow_8x8_r50", "MODEL.BACKBONE.TEMPORAL: file 'slow', config 'c2d'"),
        ("slowonly_r50_8x8x1", "pyslowfast_slow_8x8_r50", "MODEL.PIXEL_MEAN: file [114.75"),
    ],
)
def test_weights_of_another_network_are_refused(peers, name, table, message):
    cfg = get_config(f"kinetics/zoo/{name}")
    with pytest.raises(ValueError, match="file is of another network than the config's: ") as error:
        check_config(convert(peers.zeros(peers.table(table))), cfg, "file", peers.on_meta(cfg))
    assert message in str(error.value) and "\n" not in str(error.value)
