"""PySlowFast's C2D, I3D and Slow: the converted network computes what a plain re-statement of theirs computes."""

import pytest
import torch
import torch.nn.functional as F

from nlvideo.checkpoint.convert import convert, recognise
from nlvideo.checkpoint.convert.read import flatten

# Frames of the first convolution, then of "a" in the blocks of s2 to s5 (repeated over them); the pool behind s2.
KERNELS = {
    "c2d": (1, [1], [1], [1], [1]),
    "i3d": (5, [3], [3, 1], [3, 1], [1, 3]),
    "slow": (1, [1], [1], [3], [3]),
}
PLACES = {3: (1, 3), 4: (1, 3, 5)}


def shapes_of(peers, arch, places=(), depth=50, base=8, classes=None):
    """Their names and shapes."""
    stem, *stages = KERNELS[arch]
    shapes = {"s1.pathway0_stem.conv.weight": (base, 3, stem, 7, 7)} | peers.norm_shapes("s1.pathway0_stem.bn", base)
    before = base
    for stage, (kernels, count) in enumerate(zip(stages, peers.blocks[depth]), 2):
        inner = base * 2 ** (stage - 2)
        for block in range(count):
            name = f"s{stage}.pathway0_res{block}"
            if block == 0:
                shapes[f"{name}.branch1.weight"] = (4 * inner, before, 1, 1, 1)
                shapes |= peers.norm_shapes(f"{name}.branch1_bn", 4 * inner)
            time = kernels[block % len(kernels)]
            shapes[f"{name}.branch2.a.weight"] = (inner, before, time, 1, 1)
            shapes[f"{name}.branch2.b.weight"] = (inner, inner, 1, 3, 3)
            shapes[f"{name}.branch2.c.weight"] = (4 * inner, inner, 1, 1, 1)
            for letter, channels in (("a", inner), ("b", inner), ("c", 4 * inner)):
                shapes |= peers.norm_shapes(f"{name}.branch2.{letter}_bn", channels)
            before = 4 * inner
            if block in dict(places).get(stage, ()):
                name = f"s{stage}.pathway0_nonlocal{block}"
                for conv in ("theta", "phi", "g"):
                    shapes[f"{name}.conv_{conv}.weight"] = (before // 2, before, 1, 1, 1)
                    shapes[f"{name}.conv_{conv}.bias"] = (before // 2,)
                shapes[f"{name}.conv_out.weight"] = (before, before // 2, 1, 1, 1)
                shapes[f"{name}.conv_out.bias"] = (before,)
                shapes |= peers.norm_shapes(f"{name}.norm", before)
    classes = classes or peers.classes
    return shapes | {"head.projection.weight": (classes, before), "head.projection.bias": (classes,)}


def bn(state, name, x):
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)


def conv(state, name, x, stride=1):
    weight = state[f"{name}.weight"]
    padding = [size // 2 for size in weight.shape[2:]]
    return F.conv3d(x, weight, state.get(f"{name}.bias"), (1, stride, stride), padding)


def nonlocal_block(state, name, x, form, group, pool):
    n, c, t, h, w = x.shape
    whole = x
    if group > 1:  # consecutive frames attend to each other
        x = x.reshape(n, c, group, t // group, h, w).transpose(1, 2).reshape(n * group, c, t // group, h, w)
    keys = F.max_pool3d(x, (1, 2, 2)) if pool else x
    theta = conv(state, f"{name}.conv_theta", x).flatten(2)
    phi = conv(state, f"{name}.conv_phi", keys).flatten(2)
    g = conv(state, f"{name}.conv_g", keys).flatten(2)
    affinity = theta.transpose(1, 2) @ phi
    if form == "softmax":
        affinity = (affinity / theta.shape[1] ** 0.5).softmax(-1)
    else:
        affinity = affinity / affinity.shape[-1]
    y = (affinity @ g.transpose(1, 2)).transpose(1, 2).reshape(-1, c // 2, *x.shape[2:])
    out = bn(state, f"{name}.norm", conv(state, f"{name}.conv_out", y))
    if group > 1:
        out = out.reshape(n, group, c, t // group, h, w).transpose(1, 2).reshape(n, c, t, h, w)
    return whole + out


def forward(state, clip, *, pool_time, form="softmax", group=1, pool=True, stride_1x1=False):
    """The logits of a single-pathway network; clip: uint8 (N, 3, T, H, W)."""
    x = (clip.float() / 255 - 0.45) / 0.225
    x = F.relu(bn(state, "s1.pathway0_stem.bn", conv(state, "s1.pathway0_stem.conv", x, 2)))
    x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for stage in (2, 3, 4, 5):
        block = 0
        while f"s{stage}.pathway0_res{block}.branch2.a.weight" in state:
            name, stride = f"s{stage}.pathway0_res{block}", 2 if stage > 2 and block == 0 else 1
            first, second = (stride, 1) if stride_1x1 else (1, stride)
            y = F.relu(bn(state, f"{name}.branch2.a_bn", conv(state, f"{name}.branch2.a", x, first)))
            y = F.relu(bn(state, f"{name}.branch2.b_bn", conv(state, f"{name}.branch2.b", y, second)))
            y = bn(state, f"{name}.branch2.c_bn", conv(state, f"{name}.branch2.c", y))
            if block == 0:
                x = bn(state, f"{name}.branch1_bn", conv(state, f"{name}.branch1", x, stride))
            x = F.relu(x + y)
            name = f"s{stage}.pathway0_nonlocal{block}"
            if f"{name}.conv_g.weight" in state:
                x = nonlocal_block(state, name, x, form, group if stage == 3 else 1, pool)
            block += 1
        if stage == 2 and pool_time:
            x = F.max_pool3d(x, (2, 1, 1))
    return F.linear(x.mean((2, 3, 4)), state["head.projection.weight"], state["head.projection.bias"])


def recipe(arch="i3d", **sections):
    """A file of theirs carries its config as YAML."""
    lines = [f"MODEL: {{ARCH: {arch}}}"]
    return "\n".join(lines + [f"{name}: {value}" for name, value in sections.items()])


def same(ours, theirs):
    assert theirs.std() > 0.1  # not all alike
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("arch", "pool_time"), [("c2d", True), ("i3d", True), ("slow", False)])
def test_networks_without_blocks(peers, clip, arch, pool_time):
    state = peers.fill(shapes_of(peers, arch))
    assert recognise(state) == "pyslowfast"
    same(peers.logits(convert(state), clip), forward(state, clip, pool_time=pool_time))


@pytest.mark.parametrize("arch", ["c2d", "i3d"])
def test_the_networks_without_a_temporal_pool_have_the_same_names(peers, clip, arch):
    state = peers.fill(shapes_of(peers, arch))
    converted = convert(state)
    assert converted.undecided == {"MODEL.BACKBONE.STEM": ["slowfast_8x8", "slow"]}
    ours = peers.logits(converted, clip, stem="slow")
    same(ours, forward(state, clip, pool_time=False))
    assert not torch.allclose(ours, forward(state, clip, pool_time=True), atol=1e-3)
    told = convert({**state, "cfg": recipe(f"{arch}_nopool")})
    assert told.undecided == {} and told.overrides["MODEL.BACKBONE.STEM"] == "slow"


@pytest.mark.parametrize(
    ("arch", "form", "ours"), [("i3d", "softmax", "embedded_gaussian"), ("i3d", "dot_product", "dot_product"),
                               ("slow", "dot_product", "dot_product"), ("c2d", "softmax", "embedded_gaussian")],
)  # fmt: skip
def test_nonlocal_networks(peers, clip, arch, form, ours):
    state = peers.fill(shapes_of(peers, arch, PLACES))
    expected = forward(state, clip, pool_time=arch != "slow", form=form)
    # Without their config two forms are possible, the one of their recipes first; with it there is no doubt.
    untold = convert(state)
    assert set(untold.undecided["MODEL.NONLOCAL.PAIRWISE"]) == {"embedded_gaussian", "dot_product"}
    same(peers.logits(untold, clip, pairwise=ours), expected)
    told = convert({**state, "cfg": recipe(arch, NONLOCAL=f"{{INSTANTIATION: {form}}}")})
    assert told.undecided == {} and told.overrides["MODEL.NONLOCAL.PAIRWISE"] == ours
    same(peers.logits(told, clip), expected)
    other = "softmax" if form == "dot_product" else "dot_product"
    assert not torch.allclose(expected, forward(state, clip, pool_time=arch != "slow", form=other), atol=1e-3)


def test_the_first_form_is_that_of_their_recipe(peers):
    def first(arch):
        state = peers.fill(shapes_of(peers, arch, PLACES))
        return convert(state).undecided["MODEL.NONLOCAL.PAIRWISE"][0]

    assert [first(arch) for arch in KERNELS] == ["embedded_gaussian", "embedded_gaussian", "dot_product"]


def test_groups_and_blocks_without_a_pool(peers, clip):
    state = peers.fill(shapes_of(peers, "i3d", PLACES))
    sections = "{INSTANTIATION: softmax, GROUP: [[1], [2], [1], [1]], POOL: " + str([[[1, 1, 1]]] * 4) + "}"
    converted = convert({**state, "cfg": recipe(NONLOCAL=sections)})
    assert converted.overrides["MODEL.NONLOCAL.TEMPORAL_GROUP_STAGES"] == ["res3"]
    expected = forward(state, clip, pool_time=True, group=2, pool=False)
    same(peers.logits(converted, clip), expected)
    assert not torch.allclose(expected, forward(state, clip, pool_time=True, pool=False), atol=1e-3)


def test_stride_in_the_first_convolution(peers, clip):
    state = peers.fill(shapes_of(peers, "c2d"))
    converted = convert({**state, "cfg": recipe("c2d", RESNET="{STRIDE_1X1: true}")})
    same(peers.logits(converted, clip), forward(state, clip, pool_time=True, stride_1x1=True))


def test_what_their_config_says_of_clips_and_scores(peers):
    text = recipe("slow", DATA="{NUM_FRAMES: 4, SAMPLING_RATE: 16, MEAN: [0.4, 0.5, 0.6], STD: [0.2, 0.2, 0.25]}")
    text = text.replace("ARCH: slow", "ARCH: slow, HEAD_ACT: sigmoid")
    overrides = convert({**peers.fill(shapes_of(peers, "slow")), "cfg": text}).overrides
    assert (overrides["INPUT.NUM_FRAMES"], overrides["INPUT.FRAME_STRIDE"]) == (4, 16)
    assert overrides["MODEL.PIXEL_MEAN"] == [102.0, 127.5, 153.0]
    assert overrides["MODEL.PIXEL_STD"] == [51.0, 51.0, 63.75]
    assert overrides["MODEL.HEAD.LOSS"] == "sigmoid"


@pytest.mark.parametrize(("depth", "millions"), [(50, 35.40), (101, 59.11)])
def test_every_tensor_of_the_full_network_has_a_place(peers, depth, millions):
    shapes = shapes_of(peers, "i3d", PLACES, depth, base=64, classes=400)
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    converted = convert(state)
    assert len(converted.mapped) == len(state) and not converted.dropped
    network = peers.on_meta(peers.config(converted))
    ours = {name: tuple(tensor.shape) for name, tensor in network.items()}
    assert {name: tuple(tensor.shape) for name, tensor in converted.weights.items()} == ours
    parameters = sum(tensor.numel() for name, tensor in network.items() if "running" not in name and tensor.dim())
    assert round(parameters / 1e6, 2) == pytest.approx(millions, abs=0.011)


def test_a_training_checkpoint(peers):
    state = peers.fill(shapes_of(peers, "i3d"))
    content = {"epoch": 3, "model_state": state, "optimizer_state": {}, "cfg": recipe("i3d")}
    flat = flatten(content, "x.pyth")
    assert recognise(flat) == "pyslowfast"
    converted = convert(flat)
    assert converted.undecided == {} and converted.dropped == [("cfg", "not a tensor")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s1.pathway1_stem.conv.weight": (8, 3, 5, 7, 7)}, "two pathways"),
        ({"s3.pathway0_res0.branch2.b.weight": (16, 4, 1, 3, 3)}, "grouped convolutions (ResNeXt) in res3"),
        ({"s3.pathway0_res1.branch2.a.weight": (16, 64, 3, 1, 1)}, "none of our styles"),
        ({"s3.pathway0_nonlocal1.conv_g.weight": (32, 64, 1, 1, 1)}, "only in the model: backbone.res3.nl1.theta"),
        ({"s5.pathway0_res3.branch2.a.weight": (64, 256, 1, 1, 1)}, "a ResNet of [3, 4, 6, 4] bottlenecks"),
        ({"s1.something.weight": (3,)}, "cannot express s1.something.weight (3,)"),
        ({"s1.pathway0_stem.conv.weight": (12, 3, 1, 7, 7)}, "allowed: 16 and 48 behind a stem of 12"),
        ({"head.projection.bias": None}, "only in the model: head.classifier.bias"),
        ({"head.projection.weight": None}, "only in the model: head.classifier.weight"),
    ],
)
def test_networks_that_ours_cannot_express_are_refused(peers, change, message):
    assert message in peers.refusal(shapes_of(peers, "c2d") | change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (recipe("x3d"), "MODEL.ARCH: got 'x3d', allowed: '2d', 'c2d'"),
        (recipe("i3d"), "MODEL.ARCH is 'i3d', but the kernels are those of 'c2d'"),
        (recipe("c2d", RESNET="{SPATIAL_DILATIONS: [[1], [1], [1], [2]]}"), "SPATIAL_DILATIONS: got [[1]"),
        (recipe("c2d", RESNET="{SPATIAL_STRIDES: [[1], [2], [2], [1]]}"), "RESNET.SPATIAL_STRIDES"),
        (recipe("c2d", DETECTION="{ENABLE: true}"), "DETECTION.ENABLE: got True"),
        (recipe("c2d", DATA="{REVERSE_INPUT_CHANNEL: true}"), "DATA.REVERSE_INPUT_CHANNEL"),
        (recipe("c2d", NONLOCAL="{INSTANTIATION: gaussian}"), "NONLOCAL.INSTANTIATION: got 'gaussian'"),
        (recipe("c2d", NONLOCAL="{POOL: " + str([[[2, 2, 2]]] * 4) + "}"), "NONLOCAL.POOL"),
        (recipe("c2d", NONLOCAL="{GROUP: [[1], [2], [4], [1]]}"), "NONLOCAL.GROUP"),
        ("[", "is not YAML"),
        ("just text", "is not YAML"),
    ],
)
def test_configs_that_ours_cannot_express_are_refused(peers, text, message):
    state = peers.fill(shapes_of(peers, "c2d", PLACES))
    with pytest.raises(ValueError) as error:
        convert({**state, "cfg": text})
    assert message in str(error.value) and "\n" not in str(error.value)
