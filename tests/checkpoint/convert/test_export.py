"""Our weights under the names of PySlowFast and mmaction2, and back."""

import pytest
import torch

from nlvideo.checkpoint.convert import convert, recognise
from nlvideo.checkpoint.convert.export import export_weights
from nlvideo.config import get_cfg
from nlvideo.modeling import build_model

SLOWFAST = {"TEMPORAL": "i3d_3x1x1", "STEM": "slowfast_8x8"}
MMACTION2 = {"TEMPORAL": "i3d_3x1x1", "STEM": "mmaction2_32x2"}
AFTER = {"ENABLED": True, "POOL_FIRST": False}


def config(backbone, block=(), **top):
    """A narrow network of ours."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.BACKBONE.WIDTH, cfg.MODEL.HEAD.NUM_CLASSES = "cpu", 0.125, 5
    cfg.MODEL.BACKBONE.update(backbone)
    cfg.MODEL.NONLOCAL.update(dict(block))
    cfg.MODEL.update(top)
    return cfg


def random_weights(cfg, output_bias=True):
    """Of the model: every tensor random, or output biases zero."""
    torch.manual_seed(0)
    state = build_model(cfg).state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            # Blocks start as the identity and variances at 1: none of that here.
            tensor.copy_(torch.rand_like(tensor) * 0.2 + (0.9 if name.endswith("running_var") else -0.1))
        if name.endswith("out.bias") and not output_bias:
            tensor.zero_()
    return state


def back(weights, cfg, to):
    """Export and convert again; the settings that a file shows are those of the config."""
    exported = export_weights(weights, cfg, to)
    assert recognise(exported) == to
    converted = convert(exported)
    for key, value in converted.overrides.items():
        if key.startswith(("MODEL.BACKBONE", "MODEL.NONLOCAL")) and not key.endswith("BLOCKS"):
            node = cfg
            for part in key.split("."):
                node = node[part]
            assert node == value, key
    return converted.weights


def assert_equal(ours, weights):
    assert set(ours) == set(weights)
    assert all(torch.equal(ours[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(
    ("backbone", "block", "top"),
    [
        ({"TEMPORAL": "c2d", "STEM": "slowfast_8x8"}, {}, {}),
        ({"TEMPORAL": "slow", "STEM": "slow"}, {"ENABLED": True, "PAIRWISE": "dot_product"}, {}),
        (SLOWFAST, {"ENABLED": True}, {}),
        ({**SLOWFAST, "DEPTH": 101}, {"ENABLED": True}, {}),
        (SLOWFAST, {"ENABLED": True}, {"NORM": "FrozenBN"}),
    ],
    ids=["c2d", "slow_nl", "i3d_nl", "r101", "frozen"],
)
def test_pyslowfast_and_back_is_the_same_to_the_bit(backbone, block, top):
    cfg = config(backbone, block, **top)
    weights = random_weights(cfg)
    assert_equal(back(weights, cfg, "pyslowfast"), weights)


@pytest.mark.parametrize(
    ("backbone", "block"),
    [
        ({"TEMPORAL": "slow", "STEM": "slow"}, {}),
        ({"TEMPORAL": "i3d_3x3x3", "STEM": "mmaction2_32x2"}, {}),
        ({"TEMPORAL": "i3d_3x1x1_all", "STEM": "slowfast_8x8"}, {}),
        (MMACTION2, AFTER),
        (MMACTION2, {**AFTER, "PAIRWISE": "gaussian", "SCALE": False}),
        (MMACTION2, {**AFTER, "PAIRWISE": "concatenation"}),
        ({**MMACTION2, "DEPTH": 152}, AFTER),
    ],
    ids=["slow", "3x3x3", "all", "embedded", "gaussian", "concatenation", "r152"],
)
def test_mmaction2_and_back_is_the_same_to_the_bit(backbone, block):
    cfg = config(backbone, block)
    weights = random_weights(cfg, output_bias=False)
    assert_equal(back(weights, cfg, "mmaction2"), weights)


def test_blocks_without_a_norm_keep_their_bias():
    cfg = config(MMACTION2, {**AFTER, "NORM": "none"})
    weights = random_weights(cfg)
    assert_equal(back(weights, cfg, "mmaction2"), weights)


def test_an_output_bias_moves_into_the_norm_of_mmaction2():
    cfg = config(MMACTION2, {**AFTER, "BLOCKS": ["res3.1"]})
    weights = random_weights(cfg)
    assert weights["backbone.res3.nl1.out.bias"].abs().max() > 0.05
    before = {name: tensor.clone() for name, tensor in weights.items()}
    ours = back(weights, cfg, "mmaction2")
    assert_equal(weights, before)  # the given weights stay as they are
    assert not ours["backbone.res3.nl1.out.bias"].any()
    x = torch.randn(1, 3, 8, 48, 48, generator=torch.Generator().manual_seed(0))
    outputs = []
    for state in (weights, ours):
        model = build_model(cfg).eval()
        model.load_state_dict(state)
        with torch.no_grad():
            outputs.append(model.backbone(x)["res5"])
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize(
    ("to", "backbone", "block", "message"),
    [
        ("gluoncv", SLOWFAST, {}, "framework to export to: got 'gluoncv', allowed: 'pyslowfast', 'mmaction2'"),
        ("pyslowfast", {**SLOWFAST, "DEPTH": 152}, {}, "MODEL.BACKBONE.DEPTH: got 152, allowed: 50, 101"),
        ("mmaction2", {"DEPTH": 18}, {}, "MODEL.BACKBONE.DEPTH: got 18"),
        ("pyslowfast", {"STEM": "paper"}, {}, "MODEL.BACKBONE.STEM): got ('c2d', 'paper')"),
        ("pyslowfast", {**SLOWFAST, "TEMPORAL": "i3d_3x3x3"}, {}, "got ('i3d_3x3x3', 'slowfast_8x8')"),
        ("pyslowfast", SLOWFAST, {"ENABLED": True, "PAIRWISE": "gaussian"}, "PAIRWISE: got 'gaussian'"),
        ("pyslowfast", SLOWFAST, {"ENABLED": True, "SCALE": False}, "SCALE: got False, allowed: True"),
        ("pyslowfast", SLOWFAST, AFTER, "POOL_FIRST: got False, allowed: True"),
        ("pyslowfast", SLOWFAST, {"ENABLED": True, "NORM": "none"}, "NORM: got 'none'"),
        ("pyslowfast", SLOWFAST, {"ENABLED": True, "ATTEND": "time"}, "ATTEND: got 'time', allowed: 'spacetime'"),
        ("mmaction2", {"STEM": "authors_8x8"}, {}, "STEM: got 'authors_8x8', allowed: 'mmaction2_32x2'"),
        ("mmaction2", MMACTION2, {"ENABLED": True}, "POOL_FIRST: got True, allowed: False"),
        ("mmaction2", MMACTION2, {**AFTER, "TEMPORAL_GROUPS": 2}, "TEMPORAL_GROUPS: got 2, allowed: 1"),
        ("mmaction2", MMACTION2, {**AFTER, "PAIRWISE": "gaussian"}, "SCALE of the Gaussian form: got True"),
    ],
)
def test_what_a_framework_cannot_express_is_refused(to, backbone, block, message):
    cfg = config(backbone, block)
    with pytest.raises(ValueError) as error:
        export_weights(random_weights(cfg), cfg, to)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_other_parts_than_ours_are_refused():
    cfg = config(SLOWFAST)
    weights = random_weights(cfg)
    cfg.MODEL.HEAD.NAME = "OtherHead"
    with pytest.raises(ValueError, match="pyslowfast cannot express MODEL.HEAD.NAME: got 'OtherHead', allowed: 'Pool"):
        export_weights(weights, cfg, "pyslowfast")


def test_weights_of_another_network_than_the_config_are_refused():
    weights = random_weights(config(SLOWFAST))
    with pytest.raises(ValueError, match="TEMPORAL: the config says 'slow', the weights are of 'i3d_3x1x1'"):
        export_weights(weights, config({"TEMPORAL": "slow", "STEM": "slow"}), "pyslowfast")
    with pytest.raises(ValueError, match="ENABLED: the config says True, the weights are of False"):
        export_weights(weights, config(SLOWFAST, {"ENABLED": True}), "pyslowfast")
    weights["extra.weight"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"pyslowfast has no name for extra.weight \(3,\)"):
        export_weights(weights, config(SLOWFAST), "pyslowfast")
