"""The non-local block against its equations written as loops, and each of its options."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nlvideo.config import get_cfg
from nlvideo.modeling.nonlocal_block import NONLOCAL, NonLocalBlock, build_nonlocal_block
from nlvideo.modeling.nonlocal_block.block import BLOCK_ALGORITHMS, PAIRWISE

ALGORITHMS = {"gaussian": "fused", "embedded_gaussian": "fused", "dot_product": "reordered", "concatenation": "sorted"}
SIZES = {1: (9,), 2: (5, 4), 3: (4, 5, 3)}


def make_block(seed=0, **kwargs):
    """A block in float64 that is not the identity, with biases that are not zero."""
    torch.manual_seed(seed)
    arguments = {"in_channels": 6, "zero_init": False, "init_std": 0.4, "norm": "none", **kwargs}
    block = NonLocalBlock(**arguments).double()
    for name, parameter in block.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return block


def make_map(dim=3, batch=2, channels=6, size=None, seed=1):
    """A random feature map."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *(size or SIZES[dim]), generator=generator, dtype=torch.float64)


def pooled(u):
    """1x2x2 max-pooling, by hand, for sizes that may be odd or 1."""
    for axis in range(2 if u.dim() < 5 else 3, u.dim()):
        if u.shape[axis] > 1:
            even = u.narrow(axis, 0, u.shape[axis] // 2 * 2)
            u = even.unflatten(axis, (-1, 2)).amax(axis + 1)
    return u


def conv1x1(conv, u):
    """A 1x1x1 convolution as a matrix on the channels."""
    return torch.einsum("dc,nc...->nd...", conv.weight.flatten(1), u) + conv.bias.view(-1, *[1] * (u.dim() - 2))


def attends(block, query, key, num_frames):
    """Whether a query position (t, h, w) looks at a key position."""
    group = num_frames // block.temporal_groups
    if block.attend == "space":
        return query[0] == key[0]
    together = query[0] // group == key[0] // group
    return together and (block.attend != "time" or query[1:] == key[1:])


def naive_attention(block, x):
    """f(x_i, x_j) / C(x), {(i, j): (N,)}, and g by position j, straight from Eqs. 1 to 5; only for dim 3."""
    pool = pooled if block.subsample and block.attend != "time" else (lambda u: u)
    embed = block.pairwise != "gaussian"
    theta = conv1x1(block.theta, x) if embed else x
    phi = (conv1x1(block.phi, pool(x)) if block.pool_first else pool(conv1x1(block.phi, x))) if embed else pool(x)
    g = conv1x1(block.g, pool(x)) if block.pool_first else pool(conv1x1(block.g, x))
    queries, keys = (list(itertools.product(*(range(n) for n in u.shape[2:]))) for u in (theta, phi))
    weights = {}
    for i in queries:
        f = {}
        for j in (j for j in keys if attends(block, i, j, x.shape[2])):
            a, b = theta[:, :, i[0], i[1], i[2]], phi[:, :, j[0], j[1], j[2]]
            if block.pairwise == "concatenation":
                f[j] = torch.relu(torch.cat([a, b], 1) @ block.concat.weight.flatten())
            elif block.pairwise == "dot_product":
                f[j] = (a * b).sum(1)
            else:
                f[j] = ((a * b).sum(1) * block.scale).exp()
        total = sum(f.values()) if PAIRWISE[block.pairwise] == "softmax" else len(f)
        weights.update({(i, j): value / total for j, value in f.items()})
    return weights, g, queries, keys


def naive_block(block, x):
    """z of Eq. 6."""
    weights, g, _, _ = naive_attention(block, x)
    y = x.new_zeros(x.shape[0], g.shape[1], *x.shape[2:])
    for (i, j), weight in weights.items():
        y[:, :, i[0], i[1], i[2]] += weight[:, None] * g[:, :, j[0], j[1], j[2]]
    return x + conv1x1(block.out, y)


OPTIONS = [
    {},
    {"scale": False, "pool_first": False},
    {"subsample": False},
    {"attend": "space"},
    {"attend": "space", "pool_first": False},
    {"attend": "time"},
    {"attend": "time", "pool_first": False, "temporal_groups": 2},
    {"temporal_groups": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_equals_the_equations(pairwise, options):
    """Each form with each option, by both algorithms: values and the gradient of the input."""
    size = (2, 3, 2)
    block = make_block(pairwise=pairwise, **options)
    x = make_map(size=size).requires_grad_()
    expected = naive_block(block, x)
    parameters = [x, *block.parameters()]
    weight = make_map(size=size, seed=5)
    expected_grads = torch.autograd.grad((expected * weight).sum(), parameters)
    for algorithm in ("dense", ALGORITHMS[pairwise], "auto"):
        block.algorithm = algorithm
        z = block(x)
        assert z.shape == x.shape
        torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)
        grads = torch.autograd.grad((z * weight).sum(), parameters)
        for actual, wanted in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_attention_is_what_the_block_sums_with(pairwise, options):
    """Rows of f / C(x) for chosen positions, on the keys' grid, zero where there is no attention."""
    block = make_block(pairwise=pairwise, **options)
    x = make_map(size=(2, 3, 2))
    weights, g, queries, keys = naive_attention(block, x)
    chosen = [queries[0], 7, queries[-1]]
    maps = block.attention(x, chosen)
    assert maps.shape == (2, 3, *g.shape[2:])
    for k, i in enumerate([queries[0], queries[7], queries[-1]]):
        for j in keys:
            expected = weights.get((i, j), torch.zeros(2).double())
            torch.testing.assert_close(maps[:, k, j[0], j[1], j[2]], expected)
    if PAIRWISE[pairwise] == "softmax":
        torch.testing.assert_close(maps.flatten(2).sum(2), torch.ones(2, 3).double())


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_fewer_axes_are_a_video_of_one_frame(dim, pairwise):
    """A sequence is a video of one frame of one row; so is its attention."""
    video = make_block(pairwise=pairwise)
    block = make_block(pairwise=pairwise, dim=dim)
    shapes = {name: p.shape for name, p in block.state_dict().items()}
    block.load_state_dict({name: p.view(shapes[name]) for name, p in video.state_dict().items()})
    x = make_map(dim)
    as_video = x.view(2, 6, *(1,) * (3 - dim), *SIZES[dim])
    torch.testing.assert_close(block(x), video(as_video).view_as(x))
    position = tuple(n - 1 for n in SIZES[dim])
    maps = block.attention(x, [position, 0])
    assert maps.shape[2:] == tuple(n // 2 for n in SIZES[dim])
    expected = video.attention(as_video, [(*(0,) * (3 - dim), *position), 0])
    torch.testing.assert_close(maps, expected.view_as(maps))


@pytest.mark.parametrize("size, keys", [((2, 7, 5), (2, 3, 2)), ((2, 1, 4), (2, 1, 2)), ((3, 1, 1), (3, 1, 1))])
def test_pooling_rounds_down_and_leaves_axes_of_one(size, keys):
    """Odd sizes lose their last row; an axis of length 1 cannot be halved."""
    block, x = make_block(), make_map(size=size)
    assert block(x).shape == x.shape
    assert block.attention(x, [0]).shape[2:] == keys
    assert block.attention_size(size) == (1, torch.Size(size).numel(), torch.Size(keys).numel())


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, (1, 784, 196)),
        ({"subsample": False}, (1, 784, 784)),
        ({"attend": "space"}, (4, 196, 49)),
        ({"attend": "time"}, (196, 4, 4)),
        ({"temporal_groups": 2}, (2, 392, 98)),
    ],
)
def test_attention_size(options, expected):
    """The sizes of res4 at 224 pixels."""
    assert make_block(**options).attention_size((4, 14, 14)) == expected


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["BN", "SyncBN", "FrozenBN", "none"])
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_starts_as_the_identity_to_the_bit(pairwise, norm, training):
    """And can leave it: some weight of the block has a gradient."""
    block = NonLocalBlock(6, pairwise=pairwise, norm=norm).train(training)
    x = make_map().float().requires_grad_()
    z = block(x)
    assert torch.equal(z, x)
    (z * torch.arange(z.numel()).view_as(z)).sum().backward()
    grads = [p.grad.abs().max() for p in block.parameters() if p.grad is not None]
    assert max(grads) > 0 and all(torch.isfinite(g) for g in grads)
    assert not torch.equal(make_block(norm=norm, pairwise=pairwise).train(training)(make_map()), make_map())


def test_initialisation():
    """Normal with the authors' deviation, or He et al.; biases zero."""
    torch.manual_seed(0)
    authors = NonLocalBlock(512, pairwise="concatenation")
    he = NonLocalBlock(512, pairwise="concatenation", init_std=None)
    for name in ("theta", "phi", "g", "out"):
        conv = getattr(authors, name)
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not conv.bias.any()
        conv = getattr(he, name)
        assert conv.weight.std().item() == pytest.approx((2 / conv.in_channels) ** 0.5, rel=0.05)
        assert not conv.bias.any()
    assert authors.concat.bias is None
    assert not NonLocalBlock(8).bn.weight.any()
    assert NonLocalBlock(8, zero_init=False).bn.weight.all()
    assert not NonLocalBlock(8, norm="none").out.weight.any()
    frozen = NonLocalBlock(8, norm="FrozenBN")  # a frozen zero would never train
    assert frozen.bn.weight.all() and not frozen.out.weight.any()


def test_parameter_names_are_frozen():
    """Converters of weights rely on them."""

    def names(pairwise, norm="none"):
        return sorted(name for name in NonLocalBlock(4, pairwise=pairwise, norm=norm).state_dict())

    convs = [f"{conv}.{kind}" for conv in ("g", "out", "phi", "theta") for kind in ("bias", "weight")]
    assert names("embedded_gaussian") == names("dot_product") == convs
    assert names("concatenation") == sorted([*convs, "concat.weight"])
    assert names("gaussian") == ["g.bias", "g.weight", "out.bias", "out.weight"]
    bn = ["bn.bias", "bn.num_batches_tracked", "bn.running_mean", "bn.running_var", "bn.weight"]
    assert names("gaussian", "BN") == sorted([*names("gaussian"), *bn])


@pytest.mark.parametrize(
    "pairwise, millions", [("embedded_gaussian", 7.358), ("dot_product", 7.358), ("gaussian", 3.684)]
)
def test_parameters_of_the_five_blocks(pairwise, millions):
    """Two blocks in res3 and three in res4 (Sec. 4.1)."""
    count = {c: sum(p.numel() for p in NonLocalBlock(c, pairwise=pairwise).parameters()) for c in (512, 1024)}
    assert (2 * count[512] + 3 * count[1024]) / 1e6 == pytest.approx(millions, abs=5e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_autocast_and_half_precision(pairwise, dtype):
    """Close to float32, forward and backward."""
    block = make_block(pairwise=pairwise).float()
    x = make_map().float()
    expected = block(x)
    with torch.amp.autocast("cpu", dtype=dtype):
        z = block(x)
    assert z.dtype == torch.float32  # the residual path is not rounded
    torch.testing.assert_close(z, expected, rtol=0.05, atol=0.05)
    z.sum().backward()
    assert all(p.grad.isfinite().all() for p in block.parameters())
    half = block.to(dtype)(x.to(dtype))
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("pairwise", ["concatenation", "gaussian"])
def test_logits_stay_in_float32_under_autocast(pairwise):
    """Where no convolution lies between x and the logits (or is folded away), bfloat16 has no place in them."""
    block = make_block(pairwise=pairwise).float()
    x = make_map().float()
    with torch.amp.autocast("cpu", dtype=torch.bfloat16):
        lowered = block.attention(x, [0, 5])
    torch.testing.assert_close(lowered, block.attention(x, [0, 5]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_no_tensor_of_the_size_of_the_matrix_is_saved(pairwise):
    """The whole block, values as wide as keys and (Gaussian) narrower."""
    size = (4, 12, 12)
    block = NonLocalBlock(8, inner_channels=4, pairwise=pairwise, algorithm=ALGORITHMS[pairwise])
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.numel()), t)[1], lambda t: t):
        block(make_map(channels=8, batch=1, size=size).float())
    _, P, Q = block.attention_size(size)
    assert max(saved) < P * Q / 4


class _Adapted(nn.Module):
    """A convolution with a branch of its own, as low-rank adapters have."""

    def __init__(self, conv):
        super().__init__()
        self.conv, self.weight, self.bias = conv, conv.weight, conv.bias

    def forward(self, x):
        return 2 * self.conv(x)


@pytest.mark.parametrize("pool_first", [True, False])
@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "dot_product", "concatenation"])
def test_a_convolution_that_is_hooked_or_replaced_is_called(pairwise, pool_first):
    size = (2, 8, 8)
    block = NonLocalBlock(8, pairwise=pairwise, pool_first=pool_first, zero_init=False, norm="none", init_std=0.3)
    x, names = make_map(channels=8, size=size).float(), ("theta", "phi", "g", "out")
    block.algorithm = "dense"
    expected = block(x)
    block.algorithm, called = "auto", []
    handles = [block.get_submodule(n).register_forward_hook(lambda *_, n=n: called.append(n)) for n in names]
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)
    assert sorted(called) == sorted(names)
    for handle in handles:
        handle.remove()
    for name in names:
        setattr(block, name, _Adapted(block.get_submodule(name)))
    actual, block.algorithm = block(x), "dense"
    for name in names:
        conv = block.get_submodule(name).conv
        with torch.no_grad():
            conv.weight *= 2
            conv.bias *= 2
        setattr(block, name, conv)
    torch.testing.assert_close(actual, block(x), rtol=1e-5, atol=1e-5)


def test_the_folded_form_refuses_what_it_cannot_fold():
    block = NonLocalBlock(8, pairwise="dot_product", algorithm="folded")
    block.g.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="algorithm 'folded': a convolution is hooked or was replaced, allowed: 'reor"):
        block(make_map(channels=8).float())


@pytest.mark.parametrize("algorithm", ["dense", "auto"])
@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_memory_format_does_not_matter(pairwise, algorithm):
    """channels_last_3d gives the same numbers."""
    block, x = make_block(pairwise=pairwise, algorithm=algorithm), make_map()
    torch.testing.assert_close(block(x.contiguous(memory_format=torch.channels_last_3d)), block(x))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"pairwise": "cosine"}, "pairwise: got 'cosine', allowed: 'gaussian', 'embedded_gaussian'"),
        ({"dim": 4}, "dim: got 4, allowed: 1, 2, 3"),
        ({"attend": "frame"}, "attend with dim=3: got 'frame', allowed: 'space', 'time', 'spacetime'"),
        ({"attend": "time", "dim": 2}, "attend with dim=2: got 'time', allowed: 'spacetime'"),
        ({"temporal_groups": 0}, "temporal_groups: got 0, allowed: 1 or more"),
        ({"temporal_groups": 2, "attend": "space"}, "temporal_groups: got 2, allowed: 1 with dim=3"),
        ({"algorithm": "sorted"}, "algorithm with pairwise='embedded_gaussian': got 'sorted', allowed: 'auto'"),
        ({"norm": "LN"}, "norm: got 'LN', allowed: 'BN'"),
    ],
)
def test_constructor_errors(kwargs, message):
    """The argument, the value, what is allowed."""
    with pytest.raises(ValueError, match=message):
        NonLocalBlock(8, **kwargs)


def test_forward_errors():
    """Shape, groups, positions."""
    with pytest.raises(ValueError, match=r"x: expected a map \(N, 6, T, H, W\), got \(2, 6, 5, 4\)"):
        make_block()(make_map(2))
    with pytest.raises(ValueError, match=r"x: expected a map \(N, 8, H, W\), got \(2, 6, 5, 4\)"):
        make_block(in_channels=8, dim=2)(make_map(2))
    with pytest.raises(ValueError, match="temporal_groups=3 does not divide the 4 frames"):
        make_block(temporal_groups=3)(make_map())
    for position in ((4, 0, 0), (0, -1, 0), 60, (0, 0)):
        with pytest.raises(ValueError, match="is not in a map of 4 x 5 x 3"):
            make_block().attention(make_map(), [position])


def test_from_config():
    """Every key reaches the block; groups only in the stages named."""
    cfg = get_cfg()
    block = build_nonlocal_block(cfg, 16)
    assert isinstance(block, NonLocalBlock) and "NonLocalBlock" in NONLOCAL
    assert (block.pairwise, block.attend, block.inner_channels) == ("embedded_gaussian", "spacetime", 8)
    assert isinstance(block.bn, nn.BatchNorm3d) and block.scale == 8**-0.5 and block.pool_first and block.subsample
    node = cfg.MODEL.NONLOCAL
    cfg.MODEL.NORM = "FrozenBN"
    node.PAIRWISE, node.ATTEND, node.ALGORITHM = "dot_product", "time", "reordered"
    node.SUBSAMPLE, node.POOL_FIRST, node.SCALE, node.ZERO_INIT = False, False, False, False
    node.TEMPORAL_GROUPS, node.TEMPORAL_GROUP_STAGES, node.INIT_STD = 4, ["res3"], 0.0
    block = build_nonlocal_block(cfg, 512, "res3")
    assert type(block.bn).__name__ == "FrozenBatchNorm" and block.scale == 1.0 and not block.pool_first
    assert (block.pairwise, block.attend, block.algorithm) == ("dot_product", "time", "reordered")
    assert block.out.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.05)
    assert block.temporal_groups == 4
    assert build_nonlocal_block(cfg, 16, "res4").temporal_groups == 1
    node.TEMPORAL_GROUP_STAGES, node.NORM = [], "none"
    block = build_nonlocal_block(cfg, 16, "res4")
    assert block.temporal_groups == 4 and isinstance(block.bn, nn.Identity)
    with pytest.raises(KeyError, match="unknown NONLOCAL 'NonlocalBlock'.*NonLocalBlock"):
        node.NAME = "NonlocalBlock"
        build_nonlocal_block(cfg, 16)


@pytest.mark.parametrize("mode", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("sub_sample", [True, False])
def test_equals_mmcv(mode, sub_sample):
    """The block of another project with the same weights; it pools after the convolutions."""
    bricks = pytest.importorskip("mmcv.cnn.bricks.non_local", reason="mmcv is not installed")
    use_scale = mode == "embedded_gaussian"
    torch.manual_seed(0)
    theirs = bricks.NonLocal3d(8, mode=mode, use_scale=use_scale, sub_sample=sub_sample, zeros_init=False)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = NonLocalBlock(8, pairwise=mode, scale=use_scale, subsample=sub_sample, pool_first=False, norm="none")
    state = {}
    for name, value in theirs.state_dict().items():
        name = name.replace("conv_out.", "out.").replace("concat_project.", "concat.").replace(".conv.", ".")
        name = name.replace("g.0.", "g.").replace("phi.0.", "phi.")
        state[name] = value[..., None] if name == "concat.weight" else value
    ours.load_state_dict(state)
    x = torch.randn(2, 8, 3, 5, 4)
    for algorithm in ("dense", ALGORITHMS[mode]):
        ours.algorithm = algorithm
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_pool_orders_differ():
    """Two different functions of the same weights: a converter must know which one its weights were trained with."""
    x = make_map()
    assert not torch.allclose(make_block(pool_first=True)(x), make_block(pool_first=False)(x))
    unpooled = [make_block(pool_first=order, subsample=False)(x) for order in (True, False)]
    assert torch.equal(*unpooled)


def test_pooling_by_hand_is_pooling():
    """The helper of this file against PyTorch's."""
    torch.testing.assert_close(pooled(make_map()), F.max_pool3d(make_map(), (1, 2, 2)))


FOLDABLE = [
    {},
    {"subsample": False},
    {"attend": "space"},
    {"temporal_groups": 2},
    {"subsample": False, "pool_first": False},
]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("options", FOLDABLE, ids=str)
def test_folded_is_the_dot_product(options, channels_last):
    block = make_block(pairwise="dot_product", norm="BN", **options)
    x = make_map()
    if channels_last:
        x = x.to(memory_format=torch.channels_last_3d)
    results = []
    for algorithm in ("dense", "folded"):
        block.algorithm = algorithm
        inputs = [x.clone().requires_grad_(), *block.parameters()]
        out = block(inputs[0])
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), inputs)])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_auto_folds_where_it_pays_and_where_it_may():
    block = NonLocalBlock(512, pairwise="dot_product", subsample=False)
    assert block.algorithm_for((4, 28, 28)) == "folded" and block.algorithm_for((1, 14, 14)) == "fused"
    assert block.algorithm_for((4, 28, 28), lowered=True) == "reordered"
    pooled_behind = NonLocalBlock(512, pairwise="dot_product", pool_first=False)
    assert pooled_behind.algorithm_for((4, 28, 28)) == "reordered"
    pooled_behind.algorithm = "folded"
    with pytest.raises(
        ValueError, match="'folded': keys are pooled after phi and g, allowed: pool_first or no subsample"
    ):
        pooled_behind(torch.randn(1, 512, 1, 4, 4))
    with pytest.raises(ValueError, match="algorithm with pairwise='concatenation'"):
        NonLocalBlock(4, pairwise="concatenation", algorithm="folded")


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_a_recomputed_block_is_the_same_and_keeps_its_input_and_its_norms(pairwise):
    results, kept = [], []
    for checkpoint in (False, True):
        block = make_block(pairwise=pairwise, norm="BN", checkpoint=checkpoint, subsample=False, in_channels=8)
        x = make_map(channels=8, size=(2, 6, 6)).requires_grad_()
        known = {t.untyped_storage().data_ptr() for t in (x, *block.parameters(), *block.buffers())}
        saved = {}

        def keep(tensor, known=known, saved=saved):
            """Note what is kept beside the input and the parameters."""
            if tensor.untyped_storage().data_ptr() not in known:
                saved[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = block(x)
        kept.append(sum(tensor.numel() for tensor in saved.values()))
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), [x, *block.parameters()])])
        assert block.bn.num_batches_tracked == 1  # the norm saw the batch once
        results[-1].append(block.bn.running_mean)
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    # The norm's input and its batch statistics.
    assert kept[1] <= x.numel() + 4 * 8 < kept[0]


@pytest.mark.parametrize("pairwise, algorithm", [(p, a) for p, names in BLOCK_ALGORITHMS.items() for a in names])
def test_a_batch_of_nothing_passes_and_every_parameter_gets_a_gradient(pairwise: str, algorithm: str) -> None:
    """The head of a detector gets no region of an image without objects."""
    block = NonLocalBlock(8, dim=2, pairwise=pairwise, algorithm=algorithm)
    x = torch.zeros(0, 8, 14, 14, requires_grad=True)
    out = block(x)
    out.sum().backward()
    assert out.shape == x.shape and all(parameter.grad is not None for parameter in block.parameters())
    assert block.eval()(x).shape == x.shape
