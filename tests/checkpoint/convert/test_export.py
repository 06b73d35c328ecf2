"""Our weights under the names of PySlowFast, PyTorchVideo, mmaction2 and TSM's authors: exactly theirs, and back."""

import pytest
import torch

from nlvideo.checkpoint.convert import convert, recognise
from nlvideo.checkpoint.convert.export import export_weights
from nlvideo.config import get_cfg
from nlvideo.modeling import build_model

SLOWFAST = {"TEMPORAL": "i3d_3x1x1", "STEM": "slowfast_8x8"}
MMACTION2 = {"TEMPORAL": "i3d_3x1x1", "STEM": "mmaction2_32x2"}
AFTER = {"ENABLED": True, "POOL_FIRST": False}
TSM = {"NAME": "TSM", "STEM": "slow"}
TSM_BLOCKS = {**AFTER, "SCALE": False, "BLOCKS": ["res3.0", "res3.2", "res4.0", "res4.2", "res4.4"]}
STRIDES = {"conv1": 2, "pool1": 2, "pool2": True}


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


# Table of a peer's names -> our network: backbone, block, and what the peer's network does besides (see `forward`).
TABLES = {
    "pyslowfast_c2d_8x8_r50": ({"TEMPORAL": "c2d", "STEM": "slowfast_8x8"}, {}, {"pool2": True}),
    "pyslowfast_slow_8x8_r50": ({"TEMPORAL": "slow", "STEM": "slow"}, {}, {}),
    "pyslowfast_i3d_nln_8x8_r50": (SLOWFAST, {"ENABLED": True}, {"pool2": True}),
    # Its blocks are not spread over res4, as the authors' and ours are.
    "pyslowfast_i3d_nln_8x8_r101": (
        {**SLOWFAST, "DEPTH": 101},
        {"ENABLED": True, "BLOCKS": ["res3.1", "res3.3", "res4.1", "res4.3", "res4.5"]}, {"pool2": True}),
    "pyslowfast_slow_nln_4x16_r50": (
        {"TEMPORAL": "slow", "STEM": "slow"}, {"ENABLED": True, "PAIRWISE": "dot_product", "SCALE": False}, {}),
    "pytorchvideo_c2d_r50": ({"TEMPORAL": "c2d", "STEM": "slowfast_8x8"}, {}, {"pool2": True}),
    "pytorchvideo_i3d_r50": (SLOWFAST, {}, {"pool2": True}),
    "pytorchvideo_slow_r50": ({"TEMPORAL": "slow", "STEM": "slow"}, {}, {}),
    "pyslowfast_slowfast_4x16": ({"NAME": "SlowFast"}, {}, {"alpha": 8}),
    "pytorchvideo_slowfast_r50": (
        {"NAME": "SlowFast", "ARGS": [["alpha", 4], ["lateral_kernel", 7]]}, {}, {"alpha": 4}),
    "mmaction2_c2d_r50_8x8": ({"TEMPORAL": "c2d", "STEM": "authors_8x8"}, {}, {"pool2": True, "padding": 0}),
    "mmaction2_c2d_r50_nopool": ({"TEMPORAL": "c2d", "STEM": "slow"}, {}, {}),
    "mmaction2_slowonly_r50_8x8": ({"TEMPORAL": "slow", "STEM": "slow"}, {}, {}),
    "mmaction2_slowonly_nl_eg_8x8": (
        {"TEMPORAL": "slow", "STEM": "slow"},
        {**AFTER, "BLOCKS": ["res3.0", "res3.2", "res4.0", "res4.2", "res4.4"]}, {}),
    "mmaction2_i3d_nl_embedded_gaussian": (MMACTION2, AFTER, STRIDES),
    "mmaction2_i3d_nl_gaussian": (MMACTION2, {**AFTER, "PAIRWISE": "gaussian", "SCALE": False}, STRIDES),
    "mmaction2_i3d_nl_concatenation": (MMACTION2, {**AFTER, "PAIRWISE": "concatenation"}, STRIDES),
    "mmaction2_tsm_r50_8": (TSM, {}, {}),
    "mmaction2_tsm_nl_dot_product": (TSM, {**TSM_BLOCKS, "PAIRWISE": "dot_product"}, {}),
}  # fmt: skip


def test_every_table_is_exported(peers):
    files = {path.stem for path in peers.tables.glob("*.tsv")}
    assert files == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_names_and_shapes_are_theirs(peers, name):
    backbone, block, _ = TABLES[name]
    cfg = config({**backbone, "WIDTH": 1.0}, block)
    # mmaction2's TSM without blocks is one of Something-Something.
    cfg.MODEL.HEAD.NUM_CLASSES = 174 if name == "mmaction2_tsm_r50_8" else 400
    weights = {key: torch.zeros(()).expand(tensor.shape) for key, tensor in peers.on_meta(cfg).items()}
    exported = export_weights(weights, cfg, name.split("_")[0])
    assert {key: tuple(tensor.shape) for key, tensor in exported.items()} == peers.table(name)


@pytest.mark.parametrize("name", TABLES)
def test_their_network_computes_what_ours_computes(peers, clip, name):
    backbone, block, settings = TABLES[name]
    # The fast pathway of a narrow SlowFast has other proportions.
    cfg = config({**backbone, "WIDTH": 1.0} if "alpha" in settings else backbone, block)
    peer = name.split("_")[0]
    model = build_model(cfg).eval()
    model.load_state_dict(peers.fill({key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}))
    model.head.train()
    model.head.dropout.p = 0.0
    exported = export_weights(model.state_dict(), cfg, peer)
    if peer == "mmaction2":
        # PIXEL_MEAN and PIXEL_STD belong to the data there.
        settings = {"pool": "after", **settings}
    node = cfg.MODEL.NONLOCAL
    with torch.no_grad():
        forward = peers.slowfast if "alpha" in settings else peers.forward
        theirs = forward(peer, exported, clip, form=node.PAIRWISE, scale=node.SCALE, **settings)
        peers.same(model.forward_clips(clip), theirs)


@pytest.mark.parametrize(
    ("backbone", "block", "top"),
    [
        ({"TEMPORAL": "c2d", "STEM": "slowfast_8x8"}, {}, {}),
        ({"TEMPORAL": "slow", "STEM": "slow"}, {"ENABLED": True, "PAIRWISE": "dot_product"}, {}),
        (SLOWFAST, {"ENABLED": True}, {}),
        ({**SLOWFAST, "DEPTH": 101}, {"ENABLED": True}, {}),
        (SLOWFAST, {"ENABLED": True}, {"NORM": "FrozenBN"}),
        ({"NAME": "SlowFast", "WIDTH": 1.0}, {"ENABLED": True}, {}),
        ({"NAME": "SlowFast", "WIDTH": 1.0, "DEPTH": 101, "ARGS": [["temporal_blocks", 6], ["alpha", 4]]}, {}, {}),
    ],
    ids=["c2d", "slow_nl", "i3d_nl", "r101", "frozen", "slowfast", "slowfast_r101"],
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
        ({"TEMPORAL": "c2d", "STEM": "slow"}, {}),
        ({"TEMPORAL": "c2d", "STEM": "slow"}, AFTER),
    ],
    ids=["slow", "3x3x3", "all", "embedded", "gaussian", "concatenation", "r152", "image", "c2d_with_blocks"],
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
        ("gluoncv", SLOWFAST, {}, "framework to export to: got 'gluoncv', allowed: 'pyslowfast', 'pytorchvideo', 'mma"),
        ("pyslowfast", {**SLOWFAST, "DEPTH": 152}, {}, "MODEL.BACKBONE.DEPTH: got 152, allowed: 50, 101"),
        ("mmaction2", {"DEPTH": 18}, {}, "MODEL.BACKBONE.DEPTH: got 18"),
        ("pyslowfast", {"STEM": "paper"}, {}, "MODEL.BACKBONE.STEM): got ('c2d', 'paper')"),
        ("pyslowfast", {**SLOWFAST, "TEMPORAL": "i3d_3x3x3"}, {}, "got ('i3d_3x3x3', 'slowfast_8x8')"),
        ("pyslowfast", SLOWFAST, {"ENABLED": True, "PAIRWISE": "gaussian"}, "PAIRWISE: got 'gaussian'"),
        ("pyslowfast", SLOWFAST, {"ENABLED": True, "SCALE": False}, "SCALE: got False, allowed: True"),
        ("pyslowfast", SLOWFAST, AFTER, "POOL_FIRST: got False, allowed: True"),
        ("pyslowfast", SLOWFAST, {"ENABLED": True, "NORM": "none"}, "NORM: got 'none'"),
        ("pyslowfast", SLOWFAST, {"ENABLED": True, "ATTEND": "time"}, "ATTEND: got 'time', allowed: 'spacetime'"),
        (
            "pyslowfast",
            SLOWFAST,
            {"ENABLED": True, "ARGS": [["num_heads", 2]]},
            "ARGS: got [['num_heads', 2]], allowed: []",
        ),
        (
            "pyslowfast",
            {"NAME": "SlowFast", "ARGS": [["sampling", "stride"]]},
            {},
            "sampling of MODEL.BACKBONE.ARGS: got 'stride', allowed: 'linspace'",
        ),
        ("mmaction2", {"NAME": "SlowFast"}, {}, "MODEL.BACKBONE.NAME: got 'SlowFast', allowed: 'ResNet3d'"),
        ("pytorchvideo", SLOWFAST, {"ENABLED": True}, "MODEL.NONLOCAL.ENABLED: got True, allowed: False"),
        ("pytorchvideo", {**SLOWFAST, "STRIDE_IN_1X1": True}, {}, "MODEL.BACKBONE.STRIDE_IN_1X1: got True"),
        ("pytorchvideo", {"STEM": "paper"}, {}, "MODEL.BACKBONE.STEM): got ('c2d', 'paper')"),
        ("mmaction2", {**MMACTION2, "STEM": "authors_8x8"}, {}, "STEM: got 'authors_8x8', allowed: 'mmaction2_32x2'"),
        ("mmaction2", {"STEM": "authors_8x8"}, AFTER, "STEM: got 'authors_8x8', allowed: 'mmaction2_32x2'"),
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
    with pytest.raises(ValueError, match="NAME: the config says 'SlowFast', the weights are of 'ResNet3d'"):
        export_weights(weights, config({"NAME": "SlowFast"}), "pyslowfast")
    with pytest.raises(ValueError, match="ENABLED: the config says True, the weights are of False"):
        export_weights(weights, config(SLOWFAST, {"ENABLED": True}), "pyslowfast")
    weights["extra.weight"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"pyslowfast has no name for extra.weight \(3,\)"):
        export_weights(weights, config(SLOWFAST), "pyslowfast")
