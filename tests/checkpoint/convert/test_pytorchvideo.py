"""PyTorchVideo's hub ResNets: the converted network computes what a plain re-statement of theirs computes."""

import pytest
import torch
import torch.nn.functional as F

from nlvideo.checkpoint.convert import convert, recognise
from nlvideo.checkpoint.convert.read import flatten

# c2d_r50, i3d_r50 and slow_r50: frames of the first convolution, of conv_a in the stages (repeated over their blocks).
KERNELS = {
    "c2d": (1, [1], [1], [1], [1]),
    "i3d": (5, [3], [3, 1], [3, 1], [1, 3]),
    "slow": (1, [1], [1], [3], [3]),
}


def numbers_of(arch):
    """Numbers of the stages and of the head in ``blocks``: the pool behind the first stage takes one."""
    return ((1, 2, 3, 4), 5) if arch == "slow" else ((1, 3, 4, 5), 6)


def shapes_of(peers, arch, base=8):
    """Their names and shapes."""
    stem, *kernels = KERNELS[arch]
    stages, head = numbers_of(arch)
    shapes = {"blocks.0.conv.weight": (base, 3, stem, 7, 7)} | peers.norm_shapes("blocks.0.norm", base)
    before = base
    for order, (number, times, count) in enumerate(zip(stages, kernels, peers.blocks[50])):
        inner = base * 2**order
        for block in range(count):
            name = f"blocks.{number}.res_blocks.{block}"
            if block == 0:
                shapes[f"{name}.branch1_conv.weight"] = (4 * inner, before, 1, 1, 1)
                shapes |= peers.norm_shapes(f"{name}.branch1_norm", 4 * inner)
            shapes[f"{name}.branch2.conv_a.weight"] = (inner, before, times[block % len(times)], 1, 1)
            shapes[f"{name}.branch2.conv_b.weight"] = (inner, inner, 1, 3, 3)
            shapes[f"{name}.branch2.conv_c.weight"] = (4 * inner, inner, 1, 1, 1)
            for letter, channels in (("a", inner), ("b", inner), ("c", 4 * inner)):
                shapes |= peers.norm_shapes(f"{name}.branch2.norm_{letter}", channels)
            before = 4 * inner
    classes = peers.classes
    return shapes | {f"blocks.{head}.proj.weight": (classes, before), f"blocks.{head}.proj.bias": (classes,)}


def conv_norm(state, conv, norm, x, stride=1):
    weight = state[f"{conv}.weight"]
    x = F.conv3d(x, weight, None, (1, stride, stride), [size // 2 for size in weight.shape[2:]])
    mean, var = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{norm}.weight"], state[f"{norm}.bias"], eps=1e-5)


def forward(state, clip, arch):
    """The logits; clip: uint8 (N, 3, T, H, W)."""
    stages, head = numbers_of(arch)
    x = (clip.float() / 255 - 0.45) / 0.225
    x = F.relu(conv_norm(state, "blocks.0.conv", "blocks.0.norm", x, 2))
    x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for order, (number, count) in enumerate(zip(stages, (3, 4, 6, 3))):
        for block in range(count):
            name, stride = f"blocks.{number}.res_blocks.{block}", 2 if order and block == 0 else 1
            y = F.relu(conv_norm(state, f"{name}.branch2.conv_a", f"{name}.branch2.norm_a", x))
            y = F.relu(conv_norm(state, f"{name}.branch2.conv_b", f"{name}.branch2.norm_b", y, stride))
            y = conv_norm(state, f"{name}.branch2.conv_c", f"{name}.branch2.norm_c", y)
            if block == 0:
                x = conv_norm(state, f"{name}.branch1_conv", f"{name}.branch1_norm", x, stride)
            x = F.relu(x + y)
        if order == 0 and arch != "slow":
            x = F.max_pool3d(x, (2, 1, 1))
    return F.linear(x.mean((2, 3, 4)), state[f"blocks.{head}.proj.weight"], state[f"blocks.{head}.proj.bias"])


@pytest.mark.parametrize("arch", KERNELS)
def test_hub_networks(peers, clip, arch):
    state = peers.fill(shapes_of(peers, arch))
    assert recognise(state) == "pytorchvideo"
    converted = convert(state)
    # The numbers of the blocks show the pool: nothing is left open.
    assert converted.undecided == {} and len(converted.mapped) == len(state)
    expected = forward(state, clip, arch)
    assert expected.std() > 0.1
    torch.testing.assert_close(peers.logits(converted, clip), expected, atol=1e-4, rtol=1e-4)


def test_a_network_that_pyslowfast_trained_has_a_prefix(peers):
    state = peers.fill(shapes_of(peers, "slow"))
    content = {"model_state": {f"model.{name}": value for name, value in state.items()}, "cfg": "MODEL: {}"}
    flat = flatten(content, "x.pyth")
    assert recognise(flat) == "pytorchvideo"
    prefixed, plain = convert(flat), convert(state)
    assert prefixed.overrides == plain.overrides and prefixed.dropped == [("cfg", "not a tensor")]
    assert all(torch.equal(prefixed.weights[name], tensor) for name, tensor in plain.weights.items())
    assert ("model.blocks.0.conv.weight", "backbone.stem.conv.weight") in prefixed.mapped


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.0.multipathway_blocks.0.conv.weight": (8, 3, 1, 7, 7)}, "two pathways"),
        ({"blocks.0.conv.conv_t.weight": (8, 3, 1, 3, 3)}, "X3D"),
        ({"blocks.0.attn.qkv.weight": (8, 8)}, "a vision transformer"),
        ({"blocks.1.res_blocks.0.branch2.norm_b.1.fc1.weight": (8, 8, 1, 1, 1)}, "X3D"),
        ({"blocks.1.res_blocks.0.branch2.conv_b.weight": (8, 1, 1, 3, 3)}, "grouped convolutions (ResNeXt) in res2"),
        ({"blocks.1.res_blocks.3.branch2.conv_a.weight": (8, 32, 1, 1, 1)}, "a ResNet of [4, 4, 6, 3] bottlenecks"),
        ({"blocks.1.res_blocks.0.branch2.conv_a.weight": (8, 8, 3, 1, 1)}, "none of our styles"),
        ({"blocks.0.conv.weight": (8, 1, 1, 7, 7)}, "stem.conv.weight (file (8, 1, 1, 7, 7), model (8, 3, 1, 7, 7))"),
    ],
)
def test_networks_that_ours_cannot_express_are_refused(peers, change, message):
    assert message in peers.refusal(shapes_of(peers, "slow") | change, "pytorchvideo")
