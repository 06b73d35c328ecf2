"""mmaction2's I3D, SlowOnly and C2D: the converted network computes what a plain re-statement of theirs computes."""

import pytest
import torch
import torch.nn.functional as F

from nlvideo.checkpoint.convert import convert, recognise
from nlvideo.checkpoint.convert.read import flatten

# Blocks that are inflated: as in their recipes.
I3D = ((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0))
SLOW = ((0, 0, 0), (0, 0, 0, 0), (1, 1, 1, 1, 1, 1), (1, 1, 1))
HEAVY = ((1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1, 1, 1), (1, 1, 1))
PLACES = {2: (1, 3), 3: (1, 3, 5)}
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def block_shapes(peers, name, channels, mode, pooled, norm=True):
    """A non-local block; max pools have no weights, but make sequences of phi and g."""
    inner, zero = channels // 2, ".0" if pooled else ""
    convs = [f"g{zero}"] if mode == "gaussian" else ["theta", f"phi{zero}", f"g{zero}"]
    shapes = {f"{name}.{conv}.conv.weight": (inner, channels, 1, 1, 1) for conv in convs}
    shapes |= {f"{name}.{conv}.conv.bias": (inner,) for conv in convs}
    shapes[f"{name}.conv_out.conv.weight"] = (channels, inner, 1, 1, 1)
    bias = {f"{name}.conv_out.conv.bias": (channels,)}
    shapes |= peers.norm_shapes(f"{name}.conv_out.bn", channels) if norm else bias
    if mode == "concatenation":
        shapes[f"{name}.concat_project.conv.weight"] = (1, 2 * inner, 1, 1)
    return shapes


def shapes_of(peers, inflate=I3D, style="3x1x1", stem=5, places=(), base=8, classes=None, **block):
    """Their names and shapes."""
    shapes = {"backbone.conv1.conv.weight": (base, 3, stem, 7, 7)} | peers.norm_shapes("backbone.conv1.bn", base)
    before = base
    for layer, flags in enumerate(inflate, 1):
        inner = base * 2 ** (layer - 1)
        for index, flag in enumerate(flags):
            name, time = f"backbone.layer{layer}.{index}", 3 if flag else 1
            shapes[f"{name}.conv1.conv.weight"] = (inner, before, time if style == "3x1x1" else 1, 1, 1)
            shapes[f"{name}.conv2.conv.weight"] = (inner, inner, time if style == "3x3x3" else 1, 3, 3)
            shapes[f"{name}.conv3.conv.weight"] = (4 * inner, inner, 1, 1, 1)
            for conv, channels in (("conv1", inner), ("conv2", inner), ("conv3", 4 * inner)):
                shapes |= peers.norm_shapes(f"{name}.{conv}.bn", channels)
            if index == 0:
                shapes[f"{name}.downsample.conv.weight"] = (4 * inner, before, 1, 1, 1)
                shapes |= peers.norm_shapes(f"{name}.downsample.bn", 4 * inner)
            before = 4 * inner
            if index in dict(places).get(layer, ()):
                shapes |= block_shapes(peers, f"{name}.non_local_block", before, **block)
    classes = classes or peers.classes
    return shapes | {"cls_head.fc_cls.weight": (classes, before), "cls_head.fc_cls.bias": (classes,)}


def bn(state, name, x):
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)


def conv_bn(state, name, x, stride=(1, 1, 1)):
    weight = state[f"{name}.conv.weight"]
    padding = [size // 2 for size in weight.shape[2:]]
    return bn(state, f"{name}.bn", F.conv3d(x, weight, None, stride, padding))


def point(state, name, x):
    return F.conv3d(x, state[f"{name}.conv.weight"], state.get(f"{name}.conv.bias"))


def nonlocal_block(state, name, x, mode, scale=False):
    """(N, C, T, H, W): phi and g are pooled behind their convolutions."""
    pooled = f"{name}.g.0.conv.weight" in state
    zero, shrink = (".0", lambda u: F.max_pool3d(u, (1, 2, 2))) if pooled else ("", lambda u: u)
    g = shrink(point(state, f"{name}.g{zero}", x)).flatten(2)
    if mode == "gaussian":
        theta, phi = x.flatten(2), shrink(x).flatten(2)
    else:
        theta = point(state, f"{name}.theta", x).flatten(2)
        phi = shrink(point(state, f"{name}.phi{zero}", x)).flatten(2)
    if mode == "concatenation":
        queries, keys = theta.shape[2], phi.shape[2]
        pairs = [theta[..., None].expand(-1, -1, -1, keys), phi[:, :, None].expand(-1, -1, queries, -1)]
        weights = F.relu(F.conv2d(torch.cat(pairs, 1), state[f"{name}.concat_project.conv.weight"]))[:, 0]
    else:
        weights = theta.transpose(1, 2) @ phi
    if mode in ("gaussian", "embedded_gaussian"):
        divisor = theta.shape[1] ** 0.5 if scale and mode == "embedded_gaussian" else 1
        weights = (weights / divisor).softmax(-1)
    else:
        weights = weights / weights.shape[-1]
    y = (weights @ g.transpose(1, 2)).transpose(1, 2).reshape(len(x), -1, *x.shape[2:])
    out = point(state, f"{name}.conv_out", y)
    return x + (bn(state, f"{name}.conv_out.bn", out) if f"{name}.conv_out.bn.weight" in state else out)


def forward(state, clip, *, conv1=2, pool1=2, pool2=True, padding=1, mean=MEAN, std=STD, caffe=False, **block):
    """The logits; clip: uint8 (N, 3, T, H, W). `conv1` and `pool1`: their strides over time."""
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (mean, std))
    x = F.relu(conv_bn(state, "backbone.conv1", (clip.float() - mean) / std, (conv1, 2, 2)))
    x = F.max_pool3d(x, (1, 3, 3), (pool1, 2, 2), (0, padding, padding))
    for layer in (1, 2, 3, 4):
        index = 0
        while f"backbone.layer{layer}.{index}.conv1.conv.weight" in state:
            name, stride = f"backbone.layer{layer}.{index}", (1, 2, 2) if layer > 1 and index == 0 else (1, 1, 1)
            y = F.relu(conv_bn(state, f"{name}.conv1", x, stride if caffe else (1, 1, 1)))
            y = F.relu(conv_bn(state, f"{name}.conv2", y, (1, 1, 1) if caffe else stride))
            y = conv_bn(state, f"{name}.conv3", y)
            x = F.relu(y + (conv_bn(state, f"{name}.downsample", x, stride) if index == 0 else x))
            if any(key.startswith(f"{name}.non_local_block.") for key in state):
                x = nonlocal_block(state, f"{name}.non_local_block", x, **block)
            index += 1
        if layer == 1 and pool2:
            x = F.max_pool3d(x, (2, 1, 1))
    return F.linear(x.mean((2, 3, 4)), state["cls_head.fc_cls.weight"], state["cls_head.fc_cls.bias"])


def recipe(backbone="type='ResNet3d'", model="", rest=""):
    """A file of theirs carries its config as Python text."""
    return f"model = dict(\n    backbone=dict({backbone}),\n    cls_head=dict(type='I3DHead'),{model})\n{rest}\n"


def same(ours, theirs):
    assert theirs.std() > 0.1  # not all alike
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("weights", "strides"),
    [
        ({}, {}),
        ({"style": "3x3x3"}, {}),
        ({"inflate": HEAVY}, {"conv1": 1, "pool1": 1}),
        ({"inflate": SLOW, "stem": 1}, {"conv1": 1, "pool1": 1, "pool2": False}),
    ],
    ids=["i3d", "i3d_3x3x3", "heavy", "slowonly"],
)
def test_networks_without_blocks(peers, clip, weights, strides):
    state = peers.fill(shapes_of(peers, **weights))
    assert recognise(state) == "mmaction2"
    same(peers.logits(convert(state), clip), forward(state, clip, **strides))


def test_strides_that_only_the_config_tells(peers, clip):
    state = peers.fill(shapes_of(peers))
    assert convert(state).undecided == {"MODEL.BACKBONE.STEM": ["mmaction2_32x2", "slowfast_8x8"]}
    backbone = "type='ResNet3d', conv1_stride_t=1, pool1_stride_t=1, style='caffe', conv1_kernel=(5, 7, 7)"
    converted = convert({**state, "cfg": recipe(backbone)})
    assert converted.undecided == {}
    expected = forward(state, clip, conv1=1, pool1=1, caffe=True)
    same(peers.logits(converted, clip), expected)
    assert not torch.allclose(expected, forward(state, clip, conv1=1, pool1=1), atol=1e-3)


# Three stages of blocks would repeat what one shows: the block of layer2 alone.
@pytest.mark.parametrize(
    ("mode", "scale", "pooled", "norm"),
    [
        ("embedded_gaussian", False, True, True),
        ("embedded_gaussian", True, False, True),
        ("dot_product", False, True, True),
        ("gaussian", False, True, True),
        ("concatenation", False, True, False),
    ],
)
def test_nonlocal_networks(peers, clip, mode, scale, pooled, norm):
    state = peers.fill(shapes_of(peers, places={2: (1, 3)}, mode=mode, pooled=pooled, norm=norm))
    block = f"non_local_cfg=dict(sub_sample={pooled}, use_scale={scale}, mode='{mode}')"
    expected = forward(state, clip, mode=mode, scale=scale)
    told = convert({**state, "cfg": recipe(f"type='ResNet3d', {block}")})
    assert told.undecided == {} and told.overrides["MODEL.NONLOCAL.POOL_FIRST"] is False
    assert told.overrides["MODEL.NONLOCAL.SUBSAMPLE"] is pooled
    same(peers.logits(told, clip), expected)
    # Names show the Gaussian and the concatenation form, but not which of the other two it is.
    is_open = mode in ("embedded_gaussian", "dot_product")
    open_keys = {"MODEL.NONLOCAL.PAIRWISE", "MODEL.NONLOCAL.SCALE"} if is_open else ()
    assert set(convert(state).undecided) == {"MODEL.BACKBONE.STEM", *open_keys}


def test_slowonly_with_blocks_in_two_stages(peers, clip):
    block = {"places": PLACES, "mode": "embedded_gaussian", "pooled": True}
    state = peers.fill(shapes_of(peers, inflate=SLOW, stem=1, **block))
    ours = peers.logits(convert(state), clip, scale=False, pairwise="embedded_gaussian")
    same(ours, forward(state, clip, conv1=1, pool1=1, pool2=False, mode="embedded_gaussian"))


@pytest.mark.parametrize("mode", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("pooled", [True, False])
def test_the_restated_block_is_that_of_mmcv(peers, mode, pooled):
    """Of the library that mmaction2 takes its block from, where that is installed."""
    mmcv = pytest.importorskip("mmcv.cnn", reason="mmcv-lite is not installed")
    block = mmcv.NonLocal3d(16, sub_sample=pooled, mode=mode, use_scale=True, norm_cfg={"type": "BN3d"}).eval()
    state = peers.fill(block_shapes(peers, "b", 16, mode, pooled))
    block.load_state_dict({name.removeprefix("b."): tensor for name, tensor in state.items()})
    x = torch.randn(2, 16, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(nonlocal_block(state, "b", x, mode, scale=True), block(x))


def test_c2d_is_an_image_network_with_pools_over_time(peers, clip):
    flat = ((0,) * 3, (0,) * 4, (0,) * 6, (0,) * 3)
    state = peers.fill(shapes_of(peers, inflate=flat, stem=1))
    image = {name: value.squeeze(2) if value.dim() == 5 else value for name, value in state.items()}
    with pytest.raises(ValueError, match="TSN and others have the same names"):
        convert(image)
    with pytest.raises(ValueError, match="type of the backbone: got 'ResNet', allowed: 'C2D', 'ResNet3d'"):
        convert({**image, "cfg": recipe("type='ResNet', depth=50")})
    converted = convert({**image, "cfg": recipe("type='C2D', depth=50")})
    assert converted.undecided == {}
    same(peers.logits(converted, clip), forward(state, clip, conv1=1, pool1=1, padding=0))


def test_pixels_and_clips_of_their_config(peers, clip):
    state = peers.fill(shapes_of(peers))
    rest = "clip_len = 4\ntrain_pipeline = [dict(type='DecordInit', **args), dict(type='SampleFrames', clip_len=16,"
    rest += " frame_interval=4), dict(type='Resize', scale=(-1, 256))]"
    model = " data_preprocessor=dict(type='ActionDataPreprocessor', mean=[100, 110.5, 120], std=[50, 55, 60])"
    converted = convert({**state, "cfg": recipe(model=model, rest=rest)})
    assert (converted.overrides["INPUT.NUM_FRAMES"], converted.overrides["INPUT.FRAME_STRIDE"]) == (16, 4)
    same(peers.logits(converted, clip), forward(state, clip, mean=(100.0, 110.5, 120.0), std=(50.0, 55.0, 60.0)))


def test_every_tensor_of_the_full_network_has_a_place(peers):
    block = {"places": PLACES, "mode": "embedded_gaussian", "pooled": True}
    shapes = shapes_of(peers, base=64, classes=400, **block)
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    converted = convert(state)
    assert {theirs for theirs, _ in converted.mapped} == set(state) and not converted.dropped
    network = peers.on_meta(peers.config(converted))
    ours = {name: tuple(tensor.shape) for name, tensor in network.items()}
    assert {name: tuple(tensor.shape) for name, tensor in converted.weights.items()} == ours
    parameters = sum(tensor.numel() for name, tensor in network.items() if "running" not in name and tensor.dim())
    # Theirs has 35.4 million parameters; ours as well, and the five biases that their norms make superfluous.
    theirs = sum(torch.Size(shape).numel() for name, shape in shapes.items() if "running" not in name and shape)
    assert parameters - theirs == 2 * 512 + 3 * 1024
    assert round(theirs / 1e6, 1) == 35.4


@pytest.mark.parametrize("meta", [{"cfg": recipe()}, {"config": recipe(), "mmcv_version": "1.4.0"}])
def test_files_of_both_versions_carry_their_config(peers, meta):
    flat = flatten({"meta": meta, "state_dict": peers.fill(shapes_of(peers))}, "x.pth")
    assert recognise(flat) == "mmaction2" and convert(flat).undecided == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone.slow_path.conv1.conv.weight": (8, 3, 1, 7, 7)}, "two pathways"),
        ({"backbone.layer1.0.conv1.conv.net.weight": (8, 8, 1, 1)}, "a TSM network shifts channels"),
        ({"backbone.conv1.conv.conv_s.weight": (8, 3, 1, 7, 7)}, "an R(2+1)D network splits its kernels"),
        ({"backbone.layer1.0.conv2.conv.weight": (8, 1, 1, 3, 3)}, "grouped convolutions (ResNeXt) in res2"),
        ({"backbone.layer1.1.conv1.conv.weight": (8, 32, 1, 1, 1)}, "none of our styles: c2d, i3d_3x1x1"),
        ({"backbone.layer1.1.conv3.conv.weight": None}, "only in the model: backbone.res2.1.conv3.weight"),
        ({"neck.conv.weight": (8, 8, 1, 1, 1)}, "cannot express neck.conv.weight"),
    ],
)
def test_networks_that_ours_cannot_express_are_refused(peers, change, message):
    assert message in peers.refusal(shapes_of(peers) | change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (recipe("type='ResNet3dCSN'"), "type of the backbone: got 'ResNet3dCSN'"),
        (recipe("type='ResNet3d', temporal_strides=(1, 1, 1, 2)"), "temporal_strides: got [1, 1, 1, 2]"),
        (recipe("type='ResNet3d', spatial_strides=(1, 2, 2, 1)"), "spatial_strides: got"),
        (recipe("type='ResNet3d', dilations=(1, 1, 1, 2)"), "dilations: got"),
        (recipe("type='ResNet3d', conv1_stride_t=2, pool1_stride_t=1"), "with_pool2: got (2, 1, True)"),
        (recipe(model=" data_preprocessor=dict(to_rgb=True)"), "our network can only express RGB"),
        (recipe(rest="img_norm_cfg = dict(mean=[1, 2, 3], to_bgr=True)"), "our network can only express RGB"),
        ("model = dict(", "is not Python, line 1"),
        ("a = 1", "no model with a backbone"),
        ("model = build()", "no model with a backbone"),
    ],
)
def test_configs_that_ours_cannot_express_are_refused(peers, text, message):
    with pytest.raises(ValueError) as error:
        convert({**peers.fill(shapes_of(peers)), "cfg": text})
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_config_is_read_and_not_run(peers, tmp_path):
    trap = tmp_path / "ran"
    text = recipe(rest=f"x = open({str(trap)!r}, 'w')")
    assert convert({**peers.fill(shapes_of(peers)), "cfg": text}).undecided == {}
    assert not trap.exists()
