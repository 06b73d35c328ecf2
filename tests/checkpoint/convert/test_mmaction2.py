"""mmaction2's I3D, SlowOnly, C2D and TSM: the converted network computes what theirs computes, on their own names."""

import re

import pytest
import torch

from nlvideo.checkpoint.convert import convert, recognise
from nlvideo.checkpoint.convert.release import settle
from nlvideo.checkpoint.weights import flatten

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# Stems: strides over time, and whether there is a pool after layer1; for each of our stems.
STEMS = {
    "mmaction2_32x2": {"conv1": 2, "pool1": 2, "pool2": True},
    "slowfast_8x8": {"pool2": True},
    "slow": {},
    "authors_8x8": {"padding": 0, "pool2": True},
}
NONLOCAL = "mmaction2_i3d_nl_embedded_gaussian"
I3D_KEYS = "type='ResNet3d', conv1_stride_t=2, pool1_stride_t=2"
# Table of names -> backbone of its config, our stem, and the form and scale of its blocks.
NETWORKS = {
    "mmaction2_c2d_r50_8x8": ("type='C2D', depth=50, norm_eval=False", "authors_8x8", {}),
    "mmaction2_c2d_r50_nopool": ("type='ResNet', pretrained='torchvision://resnet50', depth=50", "slow", {}),
    "mmaction2_slowonly_r50_8x8": ("type='ResNet3dSlowOnly', lateral=False, inflate=(0, 0, 1, 1)", "slow", {}),
    "mmaction2_slowonly_nl_eg_8x8": ("type='ResNet3dSlowOnly'", "slow", {"form": "embedded_gaussian", "scale": True}),
    NONLOCAL: (I3D_KEYS, "mmaction2_32x2", {"form": "embedded_gaussian", "scale": False}),
    "mmaction2_i3d_nl_gaussian": (I3D_KEYS, "mmaction2_32x2", {"form": "gaussian", "scale": False}),
    "mmaction2_i3d_nl_concatenation": (I3D_KEYS, "mmaction2_32x2", {"form": "concatenation", "scale": False}),
    "mmaction2_tsm_r50_8": ("type='ResNetTSM', depth=50, norm_eval=False, shift_div=8", "slow", {}),
    "mmaction2_tsm_nl_dot_product": (
        "type='ResNetTSM', non_local=((0, 0, 0), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 0, 0)), is_shift=True", "slow",
        {"form": "dot_product", "scale": False}),
}  # fmt: skip


@pytest.fixture
def weights_of(peers):
    """``weights_of(table, blocks, change)``: random weights of a narrow network, of shapes that ``change`` returns."""

    def build(name, blocks=True, change=lambda shapes: shapes):
        shapes = peers.narrow(peers.table(name))
        return peers.fill(change({key: shape for key, shape in shapes.items() if blocks or "non_local" not in key}))

    return build


@pytest.fixture
def forward(peers):
    """``forward(state, clip, stem, **settings)``: the logits of their network with one of our stems."""

    def compute(state, clip, stem="mmaction2_32x2", **settings):
        block = {"pool": "after", **STEMS[stem], "mean": MEAN, "std": STD, "form": None, **settings}
        return peers.forward("mmaction2", state, clip, **block)

    return compute


def recipe(backbone=I3D_KEYS, model="", rest="", head="type='I3DHead'"):
    """A file of theirs carries its config as Python text."""
    return f"model = dict(\n    backbone=dict({backbone}),\n    cls_head=dict({head}),{model})\n{rest}\n"


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_the_tables_gives_the_same_logits(peers, weights_of, forward, clip, name):
    backbone, stem, block = NETWORKS[name]
    state = weights_of(name)
    assert recognise(state) == "mmaction2"
    expected = forward(state, clip, stem, **block)
    # Without a config some settings are open, and those of their recipes are the first.
    untold = convert(state)
    peers.same(peers.logits(untold, clip, stem=stem, pairwise=block.get("form")), expected)
    told_by_names = "gaussian" if "nl_gaussian" in name else "concatenation"
    is_open = {"PAIRWISE", "SCALE"} if block and block["form"] != told_by_names else set()
    is_open |= set() if "slowonly" in name or "tsm" in name else {"STEM"}
    assert {key.rsplit(".", 1)[1] for key in untold.undecided} == is_open
    if block:
        backbone += f", non_local_cfg=dict(sub_sample=True, use_scale={block['scale']}, mode='{block['form']}')"
    told = convert({**state, "cfg": recipe(backbone)})
    assert told.undecided == {} and told.overrides["MODEL.BACKBONE.STEM"] == stem
    peers.same(peers.logits(told, clip), expected)
    if block:
        assert told.overrides["MODEL.NONLOCAL.POOL_FIRST"] is False and told.overrides["MODEL.NONLOCAL.SUBSAMPLE"]


def frames(shapes, number, count):
    """The shapes with as many frames in the kernels ``conv<number>`` as ``count(conv1's)`` says."""
    firsts = {key: shape[2] for key, shape in shapes.items() if key.endswith("conv1.conv.weight") and "layer" in key}
    names = {key.replace("conv1.conv", f"conv{number}.conv"): count(value) for key, value in firsts.items()}
    return {key: (*shape[:2], names[key], *shape[3:]) if key in names else shape for key, shape in shapes.items()}


def test_other_styles_of_kernels(peers, weights_of, forward, clip):
    def style_3x3x3(shapes):
        return frames(frames(shapes, 2, lambda frames: frames), 1, lambda frames: 1)

    state = weights_of(NONLOCAL, blocks=False, change=style_3x3x3)
    converted = convert({**state, "cfg": recipe()})
    assert converted.overrides["MODEL.BACKBONE.TEMPORAL"] == "i3d_3x3x3"
    peers.same(peers.logits(converted, clip), forward(state, clip))
    # Every block is inflated in their "heavy" I3D, whose clips are 32 x 2 in spite of its stem.
    state = weights_of(NONLOCAL, blocks=False, change=lambda shapes: frames(shapes, 1, lambda frames: 3))
    converted = convert(state)
    assert converted.undecided == {} and converted.overrides["INPUT.NUM_FRAMES"] == 32
    peers.same(peers.logits(converted, clip), forward(state, clip, "slowfast_8x8"))


def test_strides_that_only_the_config_tells(peers, weights_of, forward, clip):
    state = weights_of(NONLOCAL, blocks=False)
    stems = {"MODEL.BACKBONE.STEM": ["mmaction2_32x2", "slowfast_8x8"]}
    assert convert(state).undecided == stems
    # Where a config does not name them they were 2 in version 0 and are 1 in version 1.
    assert convert({**state, "cfg": recipe("type='ResNet3d', depth=50")}).undecided == stems
    backbone = "type='ResNet3d', conv1_stride_t=1, pool1_stride_t=1, style='caffe', conv1_kernel=(5, 7, 7)"
    converted = convert({**state, "cfg": recipe(backbone)})
    assert converted.undecided == {}
    expected = forward(state, clip, "slowfast_8x8", stride_1x1=True)
    peers.same(peers.logits(converted, clip), expected)
    assert not torch.allclose(expected, forward(state, clip, "slowfast_8x8"), atol=1e-3)


@pytest.mark.parametrize(
    ("mode", "scale", "pooled", "norm"),
    [("embedded_gaussian", True, False, True), ("dot_product", False, True, True), ("dot_product", True, True, False)],
)
def test_other_blocks(peers, weights_of, forward, clip, mode, scale, pooled, norm):
    def change(shapes):
        """mmcv's phi and g are no sequences without a pool; its convolution has a bias where it has no norm."""
        shapes = {key: shape for key, shape in shapes.items() if "local" not in key or "layer2" in key}
        if not pooled:
            shapes = {key.replace(".g.0.", ".g.").replace(".phi.0.", ".phi."): shape for key, shape in shapes.items()}
        if not norm:
            outs = {key.replace("weight", "bias"): shape[:1] for key, shape in shapes.items() if "conv_out.conv" in key}
            shapes = {key: shape for key, shape in shapes.items() if "conv_out.bn" not in key} | outs
        return shapes

    state = weights_of(NONLOCAL, change=change)
    block = f"non_local_cfg=dict(sub_sample={pooled}, use_scale={scale}, mode='{mode}')"
    told = convert({**state, "cfg": recipe(f"{I3D_KEYS}, {block}")})
    assert told.undecided == {} and told.overrides["MODEL.NONLOCAL.SUBSAMPLE"] is pooled
    expected = forward(state, clip, form=mode, scale=scale, pool="after" if pooled else None)
    peers.same(peers.logits(told, clip), expected)


def test_the_scale_of_their_recipes_comes_first(peers):
    def first(name):
        return convert(peers.zeros(peers.table(name))).undecided["MODEL.NONLOCAL.SCALE"][0]

    assert (first(NONLOCAL), first("mmaction2_slowonly_nl_eg_8x8")) == (False, True)


@pytest.mark.parametrize("mode", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("pooled", [True, False])
def test_the_restated_block_is_that_of_mmcv(peers, mode, pooled):
    """Of the library that mmaction2 takes its block from, where that is installed."""
    mmcv = pytest.importorskip("mmcv.cnn", reason="mmcv-lite is not installed")
    block = mmcv.NonLocal3d(16, sub_sample=pooled, mode=mode, use_scale=True, norm_cfg={"type": "BN3d"}).eval()
    state = peers.fill({f"b.{name}": tuple(tensor.shape) for name, tensor in block.state_dict().items()})
    block.load_state_dict({name.removeprefix("b."): tensor for name, tensor in state.items()})
    inner = peers.names["mmaction2"]["inner"]
    inner = inner if pooled else {key: name.replace(".0.", ".") for key, name in inner.items()}
    x = torch.randn(2, 16, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = block(x)
        pool = "after" if pooled else None
        ours = peers.nonlocal_block(state, "b", inner, x, mode, scale=mode != "gaussian", pool=pool)
        torch.testing.assert_close(ours, expected)


def test_pixels_and_clips_of_their_config(peers, weights_of, forward, clip):
    state = weights_of(NONLOCAL, blocks=False)
    rest = "clip_len = 4\ntrain_pipeline = [dict(type='DecordInit', **args), dict(type='SampleFrames', clip_len=16,"
    rest += " frame_interval=4), dict(type='Resize', scale=(-1, 256))]"
    model = " data_preprocessor=dict(type='ActionDataPreprocessor', mean=[100, 110.5, 120], std=[50, 55, 60])"
    converted = convert({**state, "cfg": recipe(model=model, rest=rest)})
    assert (converted.overrides["INPUT.NUM_FRAMES"], converted.overrides["INPUT.FRAME_STRIDE"]) == (16, 4)
    expected = forward(state, clip, mean=(100.0, 110.5, 120.0), std=(50.0, 55.0, 60.0))
    peers.same(peers.logits(converted, clip), expected)


def test_a_network_of_segments_reads_one_frame_of_each(weights_of):
    """TSN: an image network whose scores of eight frames are averaged."""
    rest = "train_pipeline = [dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=8)]"
    head = "type='TSNHead', spatial_type='avg', consensus=dict(type='AvgConsensus', dim=1)"
    text = recipe("type='ResNet', depth=50", " type='Recognizer2D', test_cfg=dict(average_clips=None)", rest, head)
    overrides = convert({**weights_of("mmaction2_c2d_r50_nopool"), "cfg": text}).overrides
    assert (overrides["INPUT.NUM_FRAMES"], overrides["INPUT.CLIP_SAMPLER"]) == (8, "SegmentClip")
    assert (overrides["MODEL.BACKBONE.STEM"], overrides["TEST.CLIP_SAMPLER"]) == ("slow", "SegmentClip")


def test_a_file_without_a_config_gets_the_usual_clip(weights_of):
    for stem, clip in (("mmaction2_32x2", (32, 2)), ("slowfast_8x8", (8, 8))):
        converted = convert(weights_of(NONLOCAL, blocks=False))
        settle(converted, {"MODEL.BACKBONE.STEM": stem})
        assert (converted.overrides["INPUT.NUM_FRAMES"], converted.overrides["INPUT.FRAME_STRIDE"]) == clip


@pytest.mark.parametrize("meta", [{"cfg": recipe()}, {"config": recipe(), "mmcv_version": "1.4.0"}])
def test_files_of_both_versions_carry_their_config(weights_of, meta):
    flat = flatten({"meta": meta, "state_dict": weights_of(NONLOCAL, blocks=False)}, "x.pth")
    assert recognise(flat) == "mmaction2" and convert(flat).undecided == {}


def in_place(state):
    """The names of the form that shifts whole residual blocks."""
    plain = {name.replace("conv1.conv.net.", "conv1.conv."): tensor for name, tensor in state.items()}
    return {re.sub(r"(layer\d\.\d+\.)", r"\1net.", name): tensor for name, tensor in plain.items()}


def test_shifts_in_place_and_of_other_channels(peers, weights_of, forward, clip):
    state = in_place(weights_of("mmaction2_tsm_r50_8"))
    rest = "train_pipeline = [dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=16)]"
    text = recipe("type='ResNetTSM', shift_div=4, shift_place='block', num_segments=16", "", rest, "type='TSMHead'")
    converted = convert({**state, "cfg": text})
    assert converted.overrides["MODEL.BACKBONE.ARGS"] == [["in_place", True], ["shift_div", 4]]
    assert (converted.overrides["INPUT.NUM_FRAMES"], converted.overrides["INPUT.CLIP_SAMPLER"]) == (16, "SegmentClip")
    expected = forward(state, clip, "slow", count=4)
    peers.same(peers.logits(converted, clip), expected)
    assert not torch.allclose(expected, forward(state, clip, "slow"), atol=1e-2)


@pytest.mark.parametrize("name", ["mmaction2_tsm_r50_8", "mmaction2_tsm_nl_dot_product"])
def test_a_network_that_shifts_is_of_eight_segments(weights_of, name):
    converted = convert(weights_of(name))
    wanted = {"MODEL.BACKBONE.NAME": "TSM", "MODEL.BACKBONE.ARGS": [], "MODEL.BACKBONE.STEM": "slow",
              "INPUT.NUM_FRAMES": 8, "INPUT.CLIP_SAMPLER": "SegmentClip",
              "TEST.CLIP_SAMPLER": "SegmentClip"}  # fmt: skip
    assert wanted.items() <= converted.overrides.items()
    assert any("8 segments and, with shifts, for the usual 1/8 of the channels" in note for note in converted.notes)
    # The log shows the names of the file.
    assert ("backbone.layer1.0.conv1.conv.net.weight", "backbone.res2.0.conv1.weight") in converted.mapped


def test_a_network_of_dense_frames(weights_of):
    rest = "train_pipeline = [dict(type='DenseSampleFrames', clip_len=1, frame_interval=1, num_clips=8)]"
    overrides = convert({**weights_of("mmaction2_tsm_r50_8"), "cfg": recipe("type='ResNetTSM'", rest=rest)}).overrides
    assert [overrides[f"INPUT.{key}"] for key in ("NUM_FRAMES", "FRAME_STRIDE", "CLIP_SAMPLER")] == [8, 8, "RandomClip"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (r"(layer2\.)", r"\1net.", "cannot express backbone.layer2.net.0.conv1.conv.net.weight (16, 32, 1, 1): a TSM"),
        (r"(layer3\.2\.conv1\.conv)\.net", r"\1", "that shift are not those of a TSM network: see layer3.2.conv1"),
    ],
)
def test_other_networks_that_shift_are_refused(weights_of, old, new, message):
    state = {re.sub(old, new, name): tensor for name, tensor in weights_of("mmaction2_tsm_r50_8").items()}
    with pytest.raises(ValueError) as error:
        convert(state)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_pixel_statistics_among_the_weights_are_left_out(peers):
    shapes = peers.table("mmaction2_slowonly_r50_8x8")
    statistics = {f"data_preprocessor.{name}": (1, 3, 1, 1, 1) for name in ("mean", "std")}
    converted = convert({name: torch.zeros(shape) for name, shape in (shapes | statistics).items()})
    assert {theirs for theirs, _ in converted.mapped} == set(shapes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone.slow_path.conv1.conv.weight": (8, 3, 1, 7, 7)}, "its lateral connections have no norm"),
        ({"backbone.conv1.conv.conv_s.weight": (8, 3, 1, 7, 7)}, "an R(2+1)D network splits its kernels"),
        ({"backbone.layer1.0.conv2.conv.weight": (8, 1, 1, 3, 3)}, "grouped convolutions (ResNeXt) in res2"),
        ({"backbone.layer1.1.conv1.conv.weight": (8, 32, 3, 1, 1)}, "none of our styles: c2d, i3d_3x1x1"),
        ({"backbone.layer1.1.conv3.conv.weight": None}, "only in the model: backbone.res2.1.conv3.weight"),
        ({"backbone.conv1.conv.weight": (8, 10, 1, 7, 7)}, "reads 10 channels, such as optical flow; ours reads RGB"),
        ({"neck.conv.weight": (8, 8, 1, 1, 1)}, "cannot express neck.conv.weight"),
    ],
)
def test_networks_that_ours_cannot_express_are_refused(peers, change, message):
    assert message in peers.refusal(peers.narrow(peers.table("mmaction2_slowonly_r50_8x8")) | change)


FILE = "in the config of the file"
REFUSED = [
    (recipe("type='ResNet3dCSN'"), "type of the backbone: got 'ResNet3dCSN'"),
    (recipe("type='ResNet3d', conv1_stride_t=2, pool1_stride_t=1"), "with_pool2: got (2, 1, True)"),
    *((recipe(f"{I3D_KEYS}, {setting}"), f"backbone.{setting.split('=')[0]} {FILE}: got ") for setting in (
        "temporal_strides=(1, 1, 1, 2)", "spatial_strides=(1, 2, 2, 1)", "dilations=(1, 1, 1, 2)", "num_stages=3",
        "out_indices=(2, 3)", "conv1_stride_s=1", "pool1_stride_s=1", "with_pool1=False")),
    (recipe(f"{I3D_KEYS}, norm_cfg=dict(type='BN3d', eps=1e-3)"), f"norm_cfg.eps {FILE}: got 0.001, allowed: 1e-05"),
    (recipe(f"{I3D_KEYS}, norm_cfg=dict(type='GN')"), f"norm_cfg.type {FILE}: got 'GN'"),
    (recipe(f"{I3D_KEYS}, act_cfg=dict(type='LeakyReLU')"), f"act_cfg.type {FILE}: got 'LeakyReLU', allowed: 'ReLU'"),
    (recipe(f"{I3D_KEYS}, act_cfg=None"), "backbone.act_cfg: got None, expected a section"),
    (recipe(f"{I3D_KEYS}, non_local_cfg=dict(norm_cfg=dict(eps=1e-4))"), f"non_local_cfg.norm_cfg.eps {FILE}: got"),
    (recipe(f"{I3D_KEYS}, non_local_cfg=dict(mode='local')"), f"non_local_cfg.mode {FILE}: got 'local', allowed: 'gau"),
    (recipe(f"{I3D_KEYS}, new_layer=dict(type='SE')"), "backbone.new_layer: {'type': 'SE'} in the config of the file"),
    (recipe(f"{I3D_KEYS}, new_layer=build()"), "backbone.new_layer: 'build()' in the config of the file is not under"),
    (recipe(f"{I3D_KEYS}, **more"), "backbone.None: 'more' in the config of the file is not understood"),
    (recipe("type='ResNetTSM', temporal_pool=True"), f"backbone.temporal_pool {FILE}: got True, allowed: False"),
    (recipe("type='ResNetTSM', is_shift=False"), f"backbone.is_shift {FILE}: got False, allowed: True"),
    (recipe("type='C2D', strides=(1, 2, 2, 1)"), f"backbone.strides {FILE}: got [1, 2, 2, 1]"),
    (recipe(model=" neck=dict(type='TPN')"), "model.neck: {'type': 'TPN'} in the config of the file is not understood"),
    (recipe(head="type='TRNHead'"), f"model.cls_head.type {FILE}: got 'TRNHead', allowed: 'I3DHead', 'TSNHead', "),
    (recipe(head="type='I3DHead', spatial_type='max'"), f"model.cls_head.spatial_type {FILE}: got 'max'"),
    (recipe(model=" data_preprocessor=dict(to_rgb=True)"), f"pixels.to_rgb {FILE}: got True, allowed: False"),
    (recipe(rest="img_norm_cfg = dict(mean=[1, 2, 3], to_bgr=True)"), f"pixels.to_bgr {FILE}: got True"),
    (recipe(model=" data_preprocessor=dict(mean=3)"), "of another kind than expected (TypeError: 'int' object"),
    (recipe(model=" data_preprocessor=dict(mean='abc')"), "of another kind than expected (TypeError: can't multi"),
    ("model = dict(", "is not Python, line 1"),
    ("a = 1", "no model with a backbone"),
    ("model = build()", "no model with a backbone"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_configs_that_ours_cannot_express_are_refused(weights_of, text, message):
    with pytest.raises(ValueError) as error:
        convert({**weights_of(NONLOCAL), "cfg": text})
    assert message in str(error.value) and "\n" not in str(error.value)


def test_settings_at_their_defaults_and_those_of_training_are_accepted(weights_of):
    backbone = I3D_KEYS + (
        ", pretrained2d=True, pretrained='torchvision://resnet50', depth=50, conv1_kernel=(5, 7, 7), in_channels=3,"
        " conv_cfg=dict(type='Conv3d'), norm_cfg=dict(type='BN3d', requires_grad=True, eps=1e-5), norm_eval=False,"
        " act_cfg=dict(type='ReLU', inplace=True), inflate=((1, 1, 1), (1, 0, 1, 0)), zero_init_residual=False,"
        " conv1_stride_s=2, pool1_stride_s=2, with_pool1=True, spatial_strides=(1, 2, 2, 2), new_layer=None"
    )
    head = "type='I3DHead', num_classes=400, in_channels=2048, spatial_type='avg', dropout_ratio=0.5, init_std=0.01"
    model = " train_cfg=None, test_cfg=dict(average_clips='prob'), neck=None, type='Recognizer3D', _scope_='mmaction'"
    assert convert({**weights_of(NONLOCAL, blocks=False), "cfg": recipe(backbone, model, "", head)}).undecided == {}


def test_a_config_is_read_and_not_run(weights_of, tmp_path):
    trap = tmp_path / "ran"
    text = recipe(rest=f"x = open({str(trap)!r}, 'w')")
    assert convert({**weights_of(NONLOCAL, blocks=False), "cfg": text}).undecided == {}
    assert not trap.exists()
