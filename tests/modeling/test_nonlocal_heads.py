"""Heads and relative positions of the non-local block, against loops."""

import itertools

import pytest
import torch
from torch import nn

from nlvideo.export.export_files import ClipScorer
from nlvideo.model_zoo import get_config
from nlvideo.modeling import NonLocalBlock, build_model

FORMS = ("embedded_gaussian", "dot_product")


def make_block(**options):
    """A block in float64, all of whose numbers are random."""
    torch.manual_seed(0)
    block = NonLocalBlock(8, inner_channels=6, norm="none", **options).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    return block


def make_map(*size):
    """A random map of two clips, in float64."""
    return torch.randn(2, 8, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def conv1x1(conv, u):
    """A 1x1x1 convolution as a matrix on the channels."""
    return torch.einsum("dc,nc...->nd...", conv.weight.flatten(1), u) + conv.bias.view(-1, *[1] * (u.dim() - 2))


def naive(block, x):
    """z and the weights averaged over the heads, a query, a head and a key at a time."""
    keys_map = block.pool(x)
    theta, phi, g = conv1x1(block.theta, x), conv1x1(block.phi, keys_map), conv1x1(block.g, keys_map)
    queries, keys = (list(itertools.product(*(range(n) for n in u.shape[2:]))) for u in (x, keys_map))
    strides = [n // m for n, m in zip(x.shape[2:], keys_map.shape[2:])]
    D, T = 6 // block.num_heads, x.shape[2]
    y, mean = torch.zeros_like(theta), x.new_zeros(2, len(queries), len(keys))
    for (q, i), head in itertools.product(enumerate(queries), range(block.num_heads)):
        channels = slice(head * D, head * D + D)
        logits = {}
        for k, j in enumerate(keys):
            run = T // block.temporal_groups
            apart = i[0] // run != j[0] // run if block.attend != "space" else i[0] != j[0]
            if len(i) == 3 and (apart or (block.attend == "time" and i[1:] != j[1:])):
                continue
            key = phi[(slice(None), channels, *j)]
            if block.relative is not None:
                largest = block.relative.shape[1] // 2
                for axis, (a, b, stride) in enumerate(zip(i, j, strides)):
                    offset = max(-largest, min(largest, b * stride - a))
                    key = key + block.relative[axis, offset + largest, channels]
            logits[k] = (theta[(slice(None), channels, *i)] * key).sum(1)
        if block.pairwise == "dot_product":
            weights = {k: logit / len(logits) for k, logit in logits.items()}
        else:
            f = {k: (logit * block.scale).exp() for k, logit in logits.items()}
            weights = {k: value / sum(f.values()) for k, value in f.items()}
        for k, weight in weights.items():
            y[(slice(None), channels, *i)] += weight[:, None] * g[(slice(None), channels, *keys[k])]
            mean[:, q, k] += weight / block.num_heads
    return x + conv1x1(block.out, y), mean


OPTIONS = [
    {"num_heads": 2},
    {"relative_position": 4},
    {"num_heads": 3, "relative_position": 2, "pool_first": True},
    {"num_heads": 2, "relative_position": 1, "subsample": False},
    {"num_heads": 2, "relative_position": 3, "attend": "space"},
    {"num_heads": 2, "relative_position": 3, "attend": "time"},
    {"num_heads": 2, "relative_position": 3, "temporal_groups": 2},
]


@pytest.mark.parametrize("size", [(2, 3, 5), (2, 1, 1), (5, 3), (7,)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("pairwise", FORMS)
def test_equals_the_loops(pairwise, options, size):
    """Values, gradients and what is drawn, by every algorithm, on odd sizes; offsets that the tables do not reach."""
    if len(size) < 3 and {"attend", "temporal_groups"} & set(options):
        pytest.skip("only for video")
    block, x = make_block(dim=len(size), pairwise=pairwise, **options), make_map(*size).requires_grad_()
    expected, weights = naive(block, x)
    inputs, factor = [x, *block.parameters()], torch.randn_like(x)
    wanted = torch.autograd.grad((expected * factor).sum(), inputs)
    for algorithm in ("auto", "dense", "fused", *(["reordered"] if pairwise == "dot_product" else [])):
        block.algorithm = algorithm
        z = block(x)
        torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)
        for a, b in zip(torch.autograd.grad((z * factor).sum(), inputs), wanted):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    shown = block.attention(x, range(weights.shape[1])).flatten(2)
    torch.testing.assert_close(shown, weights, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pairwise", FORMS)
def test_autocast_and_channels_last(pairwise):
    """Close to float32; the layout does not matter."""
    block, x = make_block(pairwise=pairwise, num_heads=2, relative_position=3).float(), make_map(2, 3, 5).float()
    expected = block(x)
    with torch.amp.autocast("cpu", dtype=torch.bfloat16):
        z = block(x)
    torch.testing.assert_close(z, expected, rtol=0.1, atol=0.1)
    z.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())
    torch.testing.assert_close(block(x.to(memory_format=torch.channels_last_3d)), expected)
    assert block.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_the_defaults_are_one_head_without_positions():
    """No parameter more, and the scale of all channels; the tables start at zero, where they change nothing."""
    block = NonLocalBlock(8)
    assert block.scale == 4**-0.5 and "relative" not in block.state_dict()
    assert NonLocalBlock(8, num_heads=4).scale == 1
    assert NonLocalBlock(8, dim=2, relative_position=3).relative.shape == (2, 7, 4)
    block, x = make_block(relative_position=3), make_map(2, 3, 5)
    nn.init.zeros_(block.relative)
    plain = make_block()
    plain.load_state_dict({name: value for name, value in block.state_dict().items() if name != "relative"})
    torch.testing.assert_close(block(x), plain(x))


@pytest.mark.parametrize("pairwise", FORMS)
def test_no_tensor_of_pairs_is_kept(pairwise):
    block = make_block(pairwise=pairwise, num_heads=2, relative_position=3, subsample=False, algorithm="auto").float()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.numel()), t)[1], lambda t: t):
        block(make_map(4, 12, 12).float())
    assert max(saved) < 2 * 2 * 576 * 576 / 4


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_heads": 4}, "num_heads with pairwise='embedded_gaussian' and 6 inner channels: got 4, allowed: 1, 2, 3"),
        ({"num_heads": 0}, "num_heads with pairwise='embedded_gaussian' and 6 inner channels: got 0, allowed: 1, 2, 3"),
        ({"num_heads": 2, "pairwise": "gaussian"}, "num_heads with pairwise='gaussian' and 6 inner channels: got 2"),
        ({"relative_position": -1}, "relative_position with pairwise='embedded_gaussian': got -1, allowed: 0 or more"),
        ({"relative_position": 2, "pairwise": "gaussian"}, "relative_position with pairwise='gaussian': got 2"),
        ({"num_heads": 2, "pairwise": "dot_product", "algorithm": "folded"}, "algorithm with pairwise='dot_product'"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError) as error:
        make_block(**options)
    assert str(error.value).startswith(message)


def test_an_algorithm_that_knows_no_heads_is_refused_later_too():
    block = make_block(pairwise="dot_product", num_heads=2)
    block.algorithm = "folded"
    with pytest.raises(ValueError, match="'folded': allowed with one head and no relative position"):
        block(make_map(2, 3, 5))


def test_compiled_and_exported():
    """One graph, also for batches of another size; the exported network has an algorithm that fits."""
    torch._dynamo.reset()
    block, x = make_block(num_heads=2, relative_position=3), make_map(2, 6, 6)
    torch.testing.assert_close(torch.compile(block, backend="aot_eager", fullgraph=True)(x), block(x))
    opts = ["INPUT.NUM_FRAMES", "8", "INPUT.CROP_SIZE", "64", "MODEL.BACKBONE.WIDTH", "0.25", "MODEL.WEIGHTS", "",
            "MODEL.NONLOCAL.ARGS", "[[num_heads, 2], [relative_position, 7]]"]  # fmt: skip
    model = build_model(get_config("kinetics/c2d_r50_32x2_nl5", opts))
    scorer = ClipScorer(model)
    clips = torch.zeros(2, 3, 8, 64, 64, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(scorer, (clips,), dynamic_shapes={"clips": {0: batch}})
        torch.testing.assert_close(program.module()(clips[:1]), scorer(clips[:1]))
