"""PySlowFast's C2D, I3D and Slow: the converted network computes what theirs computes, stated again on their names."""

import pytest
import torch
import torch.nn.functional as F
import yaml

from nlvideo.checkpoint.convert import convert, recognise
from nlvideo.checkpoint.convert.common import WHOLE_MAP_NOTE
from nlvideo.checkpoint.convert.release import settle
from nlvideo.checkpoint.weights import flatten
from nlvideo.modeling import build_model

# Table of names -> the network of their code: MODEL.ARCH, what their NONLOCAL.INSTANTIATION is, and its pool over time.
NETWORKS = {
    "pyslowfast_c2d_8x8_r50": ("c2d", None, True),
    "pyslowfast_slow_8x8_r50": ("slow", None, False),
    "pyslowfast_i3d_nln_8x8_r50": ("i3d", "softmax", True),
    "pyslowfast_i3d_nln_8x8_r101": ("i3d", "softmax", True),
    "pyslowfast_slow_nln_4x16_r50": ("slow", "dot_product", False),
}
FORMS = {"softmax": "embedded_gaussian", "dot_product": "dot_product"}
I3D = "pyslowfast_i3d_nln_8x8_r50"


@pytest.fixture
def weights_of(peers):
    """``weights_of(table, blocks=True)``: random weights of a narrow network, without its blocks if wished."""

    def build(name, blocks=True):
        shapes = peers.narrow(peers.table(name))
        return peers.fill({key: shape for key, shape in shapes.items() if blocks or "_nonlocal" not in key})

    return build


def recipe(arch="i3d", **sections):
    """A file of theirs carries its config as YAML."""
    return yaml.safe_dump({**sections, "MODEL": {"ARCH": arch, **sections.get("MODEL", {})}})


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_the_tables_gives_the_same_logits(peers, weights_of, clip, name):
    arch, instantiation, pool2 = NETWORKS[name]
    state = weights_of(name)
    assert recognise(state) == "pyslowfast"
    form = FORMS.get(instantiation)
    expected = peers.forward("pyslowfast", state, clip, pool2=pool2, form=form)
    # Without their config some settings are open, those of their recipes first; with it there is no doubt.
    untold = convert(state)
    open_keys = {"MODEL.BACKBONE.STEM"} if arch != "slow" else set()
    assert set(untold.undecided) == open_keys | ({"MODEL.NONLOCAL.PAIRWISE"} if form else set())
    peers.same(peers.logits(untold, clip), expected)
    told = convert({**state, "cfg": recipe(arch, NONLOCAL={"INSTANTIATION": instantiation} if form else {})})
    assert told.undecided == {}
    peers.same(peers.logits(told, clip), expected)
    for other in set(FORMS.values()) - {form} if form else ():
        wrong = peers.forward("pyslowfast", state, clip, pool2=pool2, form=other)
        assert not torch.allclose(expected, wrong, atol=1e-3)


def test_blocks_of_old_files_call_their_norm_otherwise(weights_of):
    state = weights_of(I3D)
    old = {name.replace("1.bn.", "1.norm.") if "_nonlocal" in name else name: value for name, value in state.items()}
    assert "s3.pathway0_nonlocal1.norm.weight" in old
    ours, theirs = convert(state).weights, convert(old).weights
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("table", "arch"),
    [("pyslowfast_c2d_8x8_r50", "slow_c2d"), ("pyslowfast_c2d_8x8_r50", "c2d_nopool"), (I3D, "slow_i3d"),
     (I3D, "i3d_nopool")],
)  # fmt: skip
def test_the_networks_without_a_temporal_pool_have_the_same_names(peers, weights_of, clip, table, arch):
    state = weights_of(table, blocks=False)
    assert convert(state).undecided == {"MODEL.BACKBONE.STEM": ["slowfast_8x8", "slow"]}
    told = convert({**state, "cfg": recipe(arch)})
    assert told.undecided == {} and told.overrides["MODEL.BACKBONE.STEM"] == "slow"
    ours = peers.logits(told, clip)
    peers.same(ours, peers.forward("pyslowfast", state, clip))
    assert not torch.allclose(ours, peers.forward("pyslowfast", state, clip, pool2=True), atol=1e-3)


def test_groups_and_blocks_without_a_pool(peers, weights_of, clip):
    state = weights_of(I3D)
    block = {"INSTANTIATION": "softmax", "GROUP": [[1], [2], [1], [1]], "POOL": [[[1, 1, 1]]] * 4}
    converted = convert({**state, "cfg": recipe(NONLOCAL=block)})
    assert converted.overrides["MODEL.NONLOCAL.TEMPORAL_GROUP_STAGES"] == ["res3"]
    settings = {"pool2": True, "form": "embedded_gaussian", "pool": None}
    expected = peers.forward("pyslowfast", state, clip, group=2, **settings)
    peers.same(peers.logits(converted, clip), expected)
    assert not torch.allclose(expected, peers.forward("pyslowfast", state, clip, **settings), atol=1e-3)


def test_stride_in_the_first_convolution(peers, weights_of, clip):
    state = weights_of("pyslowfast_c2d_8x8_r50")
    converted = convert({**state, "cfg": recipe("c2d", RESNET={"STRIDE_1X1": True})})
    expected = peers.forward("pyslowfast", state, clip, pool2=True, stride_1x1=True)
    peers.same(peers.logits(converted, clip), expected)


def test_what_their_config_says_of_clips_and_scores(weights_of):
    data = {"NUM_FRAMES": 4, "SAMPLING_RATE": 16, "MEAN": [0.4, 0.5, 0.6], "STD": [0.2, 0.2, 0.25],
            "TRAIN_JITTER_SCALES": [160, 200], "TRAIN_CROP_SIZE": 128, "TEST_CROP_SIZE": 160}  # fmt: skip
    text = recipe("slow", DATA=data, MODEL={"HEAD_ACT": "sigmoid"}, MULTIGRID={"SHORT_CYCLE": True})
    converted = convert({**weights_of("pyslowfast_slow_8x8_r50"), "cfg": text})
    expected = {
        "INPUT.NUM_FRAMES": 4, "INPUT.FRAME_STRIDE": 16, "MODEL.PIXEL_MEAN": [102.0, 127.5, 153.0],
        "MODEL.PIXEL_STD": [51.0, 51.0, 63.75], "MODEL.HEAD.LOSS": "sigmoid", "INPUT.SHORT_SIDE_RANGE": [160, 200],
        "INPUT.CROP_SIZE": 128, "TEST.SHORT_SIDE": 160, "TEST.CROP_SIZE": 160,
    }  # fmt: skip
    assert {key: converted.overrides[key] for key in expected} == expected
    assert converted.notes == [WHOLE_MAP_NOTE]


@pytest.mark.parametrize(("crop", "size"), [(224, 224), (128, 128), (112, 96), (64, 64)])
def test_the_windows_of_the_head_are_theirs_at_test(peers, weights_of, crop, size):
    """They are as large as the crops of training, rounded down: 3 x 3 of a map of 4 x 4 for 112 pixels."""
    state = weights_of("pyslowfast_slow_8x8_r50")
    text = recipe("slow", DATA={"TRAIN_CROP_SIZE": crop, "NUM_FRAMES": 4, "TEST_CROP_SIZE": 144})
    converted = convert({**state, "cfg": text})
    assert converted.overrides["INPUT.CROP_SIZE"] == size and bool(converted.notes) == (size != crop)
    model = build_model(peers.config(converted)).eval()
    model.load_state_dict(converted.weights)
    clip = torch.randint(0, 256, (1, 3, 4, 144, 144), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.no_grad():
        maps = peers.features("pyslowfast", state, clip)
        window = (4, *[min(crop // 32, maps.shape[3])] * 2)
        means = F.avg_pool3d(maps, window, stride=1).flatten(2).transpose(1, 2)
        scores = F.linear(means, state["head.projection.weight"], state["head.projection.bias"]).softmax(-1).mean(1)
        torch.testing.assert_close(model.forward_clips(clip), scores, atol=1e-5, rtol=1e-4)


def test_a_file_without_a_config_gets_the_usual_clip(weights_of):
    converted = convert(weights_of("pyslowfast_c2d_8x8_r50"))
    settle(converted, {"MODEL.BACKBONE.STEM": "slow"})
    assert (converted.overrides["INPUT.NUM_FRAMES"], converted.overrides["INPUT.FRAME_STRIDE"]) == (8, 8)
    assert converted.notes[-1].startswith("the clip is taken to be 8 frames with stride 8")


def test_a_training_checkpoint(weights_of):
    content = {"epoch": 3, "model_state": weights_of(I3D), "optimizer_state": {}, "cfg": recipe("i3d")}
    flat = flatten(content, "x.pyth")
    assert recognise(flat) == "pyslowfast"
    converted = convert(flat)
    assert converted.undecided == {} and converted.dropped == [("cfg", "not a tensor")]


def test_their_imagenet_network_starts_networks_of_every_kind(peers):
    """The weights that their recipes "IN1K" start from have kernels without a time axis."""
    shapes = peers.narrow(peers.table("pyslowfast_c2d_8x8_r50"))
    images = {key: shape[:2] + shape[3:] if len(shape) == 5 else shape for key, shape in shapes.items()}
    converted = convert(peers.zeros(images))
    assert converted.undecided == {} and "MODEL.BACKBONE.TEMPORAL" not in converted.overrides
    assert converted.overrides["MODEL.PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    assert converted.tolerated["MODEL.PIXEL_MEAN"] == [[114.75] * 3] and "image network" in converted.notes[0]


SLOWFAST = "pyslowfast_slowfast_4x16"


def with_blocks(peers):
    """The shapes of a SlowFast network with the non-local blocks of its slow pathway."""
    blocks = {key: shape for key, shape in peers.table("pyslowfast_slow_nln_4x16_r50").items() if "nonlocal" in key}
    return peers.table(SLOWFAST) | blocks


@pytest.mark.parametrize("alpha", [4, 8])
@pytest.mark.parametrize("blocks", [False, True])
def test_two_pathways_give_the_same_logits(peers, clip, alpha, blocks):
    state = peers.fill(with_blocks(peers) if blocks else peers.table(SLOWFAST))
    text = recipe("slowfast", SLOWFAST={"ALPHA": alpha}, NONLOCAL={"INSTANTIATION": "softmax"})
    assert recognise(state) == "pyslowfast"
    converted = convert({**state, "cfg": text})
    assert converted.undecided == {} and len(converted.mapped) == len(state)
    assert converted.overrides["MODEL.BACKBONE.ARGS"] == [["alpha", alpha], ["lateral_kernel", 5]]
    expected = peers.slowfast("pyslowfast", state, clip, alpha, form="embedded_gaussian")
    peers.same(peers.logits(converted, clip), expected)


def test_the_alpha_of_a_file_without_a_config_is_left_open(peers):
    converted = convert(peers.zeros(with_blocks(peers)))
    assert converted.undecided == {
        "MODEL.BACKBONE.ARGS": [[["alpha", alpha], ["lateral_kernel", 5]] for alpha in (4, 8)],
        "MODEL.NONLOCAL.PAIRWISE": ["dot_product", "embedded_gaussian"],
    }
    given = {"MODEL.BACKBONE.ARGS": [["alpha", 8]], "MODEL.NONLOCAL.PAIRWISE": "dot_product"}
    # The kernel is the default, so it may be left out.
    settle(converted, given)
    assert converted.undecided == {} and converted.overrides["INPUT.NUM_FRAMES"] == 32
    with pytest.raises(
        ValueError, match=r"ARGS: got \[\['alpha', 2\]\], the file can mean \[\['alpha', 4\], \['lateral"
    ):
        settle(convert(peers.zeros(peers.table(SLOWFAST))), {"MODEL.BACKBONE.ARGS": [["alpha", 2]]})


@pytest.mark.parametrize(
    ("text", "table", "message"),
    [
        (
            recipe("slow"),
            SLOWFAST,
            "MODEL.ARCH is 'slow' (MODEL.BACKBONE.NAME ResNet3d), but the weights are of 'SlowF",
        ),
        (recipe("slowfast"), I3D, "MODEL.ARCH is 'slowfast' (MODEL.BACKBONE.NAME SlowFast), but the weights are of 'R"),
    ],
)
def test_a_config_of_the_other_kind_is_refused(peers, text, table, message):
    with pytest.raises(ValueError) as error:
        convert({**peers.zeros(peers.table(table)), "cfg": text})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s1_fuse.conv_f2s.weight": None}, "there is no kernel backbone.lateral.stem.conv.weight"),
        ({"s3_fuse.bn.weight": None}, "only in the model: backbone.lateral.res3.bn.weight"),
        ({"s2.pathway1_res0.branch2.a.weight": (8, 8, 1, 1, 1)}, "other shapes: backbone.fast.res2.0.conv1.weight"),
        ({"s3.pathway1_nonlocal1.conv_g.weight": (32, 64, 1, 1, 1)}, "cannot express s3.pathway1_nonlocal1.conv_g.wei"),
        ({"s4_fuse.conv_f2s.weight": (256, 128, 7, 1, 1)}, "other shapes: backbone.lateral.res4.conv.weight"),
    ],
)
def test_two_pathways_that_ours_cannot_express_are_refused(peers, change, message):
    assert message in peers.refusal(peers.table(SLOWFAST) | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s1.pathway0_stem.conv_xy.weight": (24, 3, 1, 3, 3)}, "an X3D network is not one of our ResNets"),
        ({"s3.pathway0_res0.branch2.b.weight": (16, 4, 1, 3, 3)}, "grouped convolutions (ResNeXt) in res3"),
        ({"s3.pathway0_res1.branch2.a.weight": (16, 64, 3, 1, 1)}, "none of our styles"),
        ({"s3.pathway0_nonlocal1.conv_g.weight": (32, 64, 1, 1, 1)}, "only in the model: backbone.res3.nl1.theta"),
        ({"s5.pathway0_res3.branch2.a.weight": (64, 256, 1, 1, 1)}, "a ResNet of [3, 4, 6, 4] bottlenecks"),
        ({"s1.something.weight": (3,)}, "cannot express s1.something.weight (3,)"),
        ({"s1.pathway0_stem.conv.weight": (12, 3, 1, 7, 7)}, "allowed: 16 and 48 after a stem of 12"),
        ({"s1.pathway0_stem.conv.weight": (8, 2, 1, 7, 7)}, "reads 2 channels, such as optical flow; ours reads RGB"),
        ({"head.projection.bias": None}, "only in the model: head.classifier.bias"),
        ({"head.projection.weight": None}, "only in the model: head.classifier.weight"),
    ],
)
def test_networks_that_ours_cannot_express_are_refused(peers, change, message):
    assert message in peers.refusal(peers.narrow(peers.table("pyslowfast_c2d_8x8_r50")) | change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (recipe("x3d"), "MODEL.ARCH: got 'x3d', allowed: '2d', 'c2d'"),
        (recipe("c2d"), "MODEL.ARCH is 'c2d' (MODEL.BACKBONE.TEMPORAL c2d), but the weights are of 'i3d_3x1x1'"),
        (recipe(RESNET={"SPATIAL_DILATIONS": [[1], [1], [1], [2]]}), "RESNET.SPATIAL_DILATIONS in the config of the f"),
        (recipe(RESNET={"SPATIAL_STRIDES": [[1], [2], [2], [1]]}), "RESNET.SPATIAL_STRIDES in the config of the file:"),
        (recipe(RESNET={"NEW_POOL": "max"}), "RESNET.NEW_POOL: 'max' in the config of the file is not understood"),
        (recipe(MODEL={"HEAD_ACT": "none"}), "MODEL.HEAD_ACT in the config of the file: got 'none', allowed: 'softma"),
        (recipe(BN={"EPSILON": 1e-3}), "BN.EPSILON in the config of the file: got 0.001, allowed: 1e-05"),
        (recipe(DETECTION={"ENABLE": True}), "DETECTION.ENABLE: got True"),
        (recipe(DATA={"REVERSE_INPUT_CHANNEL": True}), "DATA.REVERSE_INPUT_CHANNEL"),
        (recipe(NONLOCAL={"INSTANTIATION": "gaussian"}), "NONLOCAL.INSTANTIATION: got 'gaussian'"),
        (recipe(NONLOCAL={"POOL": [[[2, 2, 2]]] * 4}), "NONLOCAL.POOL"),
        (recipe(NONLOCAL={"GROUP": [[1], [2], [4], [1]]}), "NONLOCAL.GROUP"),
        (recipe(DATA=["a"]), "pyslowfast: a setting of the config in the file is of another kind than expected (Attri"),
        (recipe(NONLOCAL={"POOL": [1]}), "of another kind than expected (IndexError: list index out of range)"),
        ("[", "is not YAML"),
        ("just text", "is not YAML"),
    ],
)
def test_configs_that_ours_cannot_express_are_refused(weights_of, text, message):
    with pytest.raises(ValueError) as error:
        convert({**weights_of(I3D), "cfg": text})
    assert message in str(error.value) and "\n" not in str(error.value)


def test_every_setting_at_its_default_is_accepted(weights_of):
    """The sections that make the network, as their `cfg.dump()` writes them."""
    text = """
BN: {GLOBAL_SYNC: false, NORM_TYPE: batchnorm, NUM_BATCHES_PRECISE: 200, NUM_SPLITS: 1, NUM_SYNC_DEVICES: 1,
  USE_PRECISE_STATS: false, WEIGHT_DECAY: 0.0}
DETECTION: {ALIGNED: true, ENABLE: false, ROI_XFORM_RESOLUTION: 7, SPATIAL_SCALE_FACTOR: 16}
MODEL: {ACT_CHECKPOINT: false, ARCH: i3d, DETACH_FINAL_FC: false, DROPCONNECT_RATE: 0.0, DROPOUT_RATE: 0.5,
  FC_INIT_STD: 0.01, FP16_ALLREDUCE: false, FROZEN_BN: false, HEAD_ACT: softmax, LOSS_FUNC: cross_entropy,
  MODEL_NAME: ResNet, MULTI_PATHWAY_ARCH: [slowfast], NUM_CLASSES: 400,
  SINGLE_PATHWAY_ARCH: [2d, c2d, slow_c2d, i3d, slow_i3d, slow, x3d, mvit, maskmvit]}
NONLOCAL: {GROUP: [[1], [1], [1], [1]], INSTANTIATION: softmax, LOCATION: [[[]], [[1, 3]], [[1, 3, 5]], [[]]],
  POOL: [[[1, 2, 2]], [[1, 2, 2]], [[1, 2, 2]], [[1, 2, 2]]]}
RESNET: {DEPTH: 50, INPLACE_RELU: true, NUM_BLOCK_TEMP_KERNEL: [[3], [4], [6], [3]], NUM_GROUPS: 1,
  SPATIAL_DILATIONS: [[1], [1], [1], [1]], SPATIAL_STRIDES: [[1], [2], [2], [2]], STRIDE_1X1: false,
  TRANS_FUNC: bottleneck_transform, WIDTH_PER_GROUP: 64, ZERO_INIT_FINAL_BN: true, ZERO_INIT_FINAL_CONV: false}
"""
    converted = convert({**weights_of(I3D), "cfg": text})
    assert converted.undecided == {} and converted.notes == []


def test_settings_that_are_unknown_but_off_change_nothing(weights_of):
    text = recipe(RESNET={"NEW_POOL": False}, MODEL={"NEW": ""}, DATA={"PATH_TO_DATA_DIR": "/data"})
    assert convert({**weights_of(I3D), "cfg": text}).undecided == {}
