"""The descendants of the non-local block: one line of the table at the end of the first part runs all tests of one.

A line names the block, its arguments and its literal equation in plain float64 code, which is above the table.
"""

import copy
import itertools
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp, factorial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nlvideo.config import load_cfg
from nlvideo.modeling import NONLOCAL, build_nonlocal_block, insert_nonlocal
from nlvideo.modeling.nonlocal_block import NonLocalBase, nonlocal_table
from nlvideo.modeling.nonlocal_block.base import constructor_arguments

CHANNELS = 8
# With odd lengths, and with one position.
SIZES = {1: [(7,), (1,)], 2: [(5, 3), (1, 1)], 3: [(2, 3, 5), (3, 1, 2), (1, 1, 1)]}


# Equations. x is one clip, (C, ...). They return z and, where a query has weights over the keys, these: (L, Q).


def rows(u):
    """(C, ...) -> (L, C): a row for each position."""
    return u.flatten(1).T


def project(conv, u_LC):
    """A convolution of kernel size 1 without groups, of rows."""
    y = u_LC @ conv.weight.flatten(1).T
    return y if conv.bias is None else y + conv.bias


def normed(norm, u_LC):
    """A batch norm in eval mode, of rows."""
    return (u_LC - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def residual(x, y_LC):
    """x + y."""
    return x + y_LC.T.view_as(x)


def halved(x):
    """x max-pooled by 2 over space, as the keys of NonLocalBlock are."""
    dim = x.dim() - 1
    kernel = [2 if n > 1 and not (dim == 3 and axis == 0) else 1 for axis, n in enumerate(x.shape[1:])]
    return (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dim - 1](x[None], kernel)[0]


def softmax(logits):
    """Over the last axis, as it is written."""
    f = logits.exp()
    return f / f.sum(-1, keepdim=True)


def naive_simplified(block, x):
    """GCNet, Eq. 3."""
    a = softmax(project(block.mask, rows(x))[:, 0])
    context = sum(a_j * x_j for a_j, x_j in zip(a, rows(x)))
    y = project(block.out, context[None])
    return residual(x, y.expand(len(a), -1)), a.expand(len(a), -1)


def naive_global_context(block, x):
    """GCNet, Eq. 6, and its other fusion and pooling."""
    L = x[0].numel()
    a = (
        softmax(project(block.mask, rows(x))[:, 0])
        if block.pooling == "attention"
        else torch.full((L,), 1 / L, dtype=torch.float64)
    )
    context = (a[:, None] * rows(x)).sum(0)
    terms = {}
    for name, (reduce, norm, _, expand) in block.transforms.items():
        t = reduce.weight @ context + reduce.bias
        t = (t - t.mean()) / (t.var(unbiased=False) + 1e-5).sqrt() * norm.weight + norm.bias
        terms[name] = (expand.weight @ torch.relu(t) + expand.bias).view(-1, *[1] * (x.dim() - 1))
    z = x / (1 + (-terms["multiply"]).exp()) if "multiply" in terms else x
    return z + terms.get("add", 0), a.expand(L, -1)


def naive_compact_generalized(block, x):
    """All pairs of nodes of a group: N d / G squared kernels."""
    theta, phi, g = (project(conv, rows(x)).T for conv in (block.query, block.key, block.value))
    parts = []
    for t, p, v in zip(*(u.chunk(block.groups) for u in (theta, phi, g))):
        products = t.flatten()[:, None] * p.flatten()
        if len(block.factors) == 1:
            f = products
        else:
            f = sum(exp(-2e-4) * (2e-4 * products) ** n / factorial(n) for n in range(4))
        parts.append((f @ v.flatten() * v.numel() ** -0.5).view_as(t))
    y = torch.cat([w @ part for w, part in zip(block.out.weight.flatten(1).chunk(block.groups), parts)])
    groups = y.view(block.groups, -1)
    y = (groups - groups.mean(1, keepdim=True)) / (groups.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    y = y.view(CHANNELS, -1).T * block.bn.weight + block.bn.bias
    return residual(x, y), None


def naive_double_attention(block, x):
    """The affinity that the two attentions make together."""
    gather = softmax(project(block.theta, rows(x)).T)  # over the positions
    distribute = softmax(project(block.rho, rows(x)))  # over the descriptors
    w = torch.stack([torch.stack([(v_i * b_j).sum() for b_j in gather.T]) for v_i in distribute])
    return residual(x, normed(block.bn, project(block.out, w @ project(block.phi, rows(x))))), w


def naive_criss_cross(block, x):
    """Each position with those that differ from it along one axis at most."""
    positions = list(itertools.product(*(range(n) for n in x.shape[1:])))
    mask = torch.tensor([[sum(a != b for a, b in zip(i, j)) <= 1 for j in positions] for i in positions])
    first = None
    for _ in range(block.recurrence):
        q, k, v = (project(conv, rows(x)) for conv in (block.query, block.key, block.value))
        w = (q @ k.T).exp() * mask
        w = w / w.sum(1, keepdim=True)
        first = w if first is None else first
        x = residual(x, block.gamma * (w @ v))
    return x, first


def naive_disentangled(block, x):
    """Both means are taken away."""
    keys = rows(halved(x)) if block.subsample else rows(x)
    q, k, v = project(block.query, rows(x)), project(block.key, keys), project(block.value, keys)
    w = softmax((q - q.mean(0)) @ (k - k.mean(0)).T * block.scale) + softmax(project(block.mask, keys)[:, 0])
    return residual(x, normed(block.bn, project(block.out, w @ v))), w


def naive_asymmetric_pyramid(block, x):
    """With the adaptive pooling of PyTorch; the weights of positions by the pooling of maps of one position."""
    adaptive = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[x.dim() - 2]

    def pyramid(u_LD):
        """(L, D) -> (S, D)."""
        return torch.cat([rows(adaptive(u_LD.T.view(1, -1, *x.shape[1:]), n)[0]) for n in block.bins])

    k, v = torch.relu(normed(block.key_norm, project(block.key, rows(x)))), project(block.value, rows(x))
    w_LS = softmax(k @ pyramid(k).T * block.scale)
    y = project(block.out, w_LS @ pyramid(v))
    return residual(x, y), w_LS @ pyramid(torch.eye(len(k), dtype=torch.float64))


def naive_efficient_attention(block, x):
    """Each pair of positions, in each head."""
    q, k, v = (project(conv, rows(x)).chunk(block.num_heads, 1) for conv in (block.query, block.key, block.value))
    weights = []
    for q_head, k_head in zip(q, k):
        if block.normalisation == "softmax":
            q_head, k_head = softmax(q_head), softmax(k_head.T).T
        else:
            k_head = k_head / len(k_head)
        weights.append(torch.stack([torch.stack([(q_i * k_j).sum() for k_j in k_head]) for q_i in q_head]))
    y = torch.cat([w @ v_head for w, v_head in zip(weights, v)], 1)
    return residual(x, project(block.out, y)), sum(weights) / block.num_heads


def naive_spectral(block, x):
    """With the matrix of all pairs, whose rows and columns are divided."""
    t, p, g = (project(conv, rows(x)) for conv in (block.theta, block.phi, block.g))
    a = torch.relu(t) @ torch.relu(p).T
    a = (a + a.T) / 2
    root = torch.stack([d_i**-0.5 if d_i > 0 else d_i * 0 for d_i in a.sum(1)])
    a = root[:, None] * a * root
    w_1, w_2 = block.out.weight.flatten(1).chunk(2, 1)
    return residual(x, torch.relu(normed(block.bn, g @ w_1.T + a @ g @ w_2.T))), a


def naive_global_reasoning(block, x):
    """A sum over the positions for each node, and one over the nodes for each position."""
    states, assign = project(block.state, rows(x)), project(block.assign, rows(x))
    nodes = torch.stack([sum(b_i * s_i for b_i, s_i in zip(b, states)) for b in assign.T])
    nodes = nodes / len(states) if block.scale else nodes
    mixed = nodes + block.mix_nodes.weight[..., 0] @ nodes + block.mix_nodes.bias[:, None]
    mixed = torch.relu(mixed) @ block.mix_states.weight[..., 0].T
    y = torch.stack([sum(b * node for b, node in zip(b_i, mixed)) for b_i in assign])
    return residual(x, normed(block.bn, project(block.out, y))), None


def expectation_maximization(block, x):
    """The bases of a clip and their lengths before division, and the share of each base in each position."""
    u = project(block.features, rows(x)).detach()
    bases = list(block.bases.T)
    for _ in range(block.iterations):
        z = softmax(torch.stack([torch.stack([u_i @ base for base in bases]) for u_i in u]))
        sums = [sum(z_i * u_i for z_i, u_i in zip(z_k, u)) / (1e-6 + z_k.sum()) for z_k in z.T]
        lengths = torch.stack([1e-6 + s.square().sum().sqrt() for s in sums])
        bases = [s / length for s, length in zip(sums, lengths)]
    return torch.stack(bases), lengths, z


def naive_expectation_maximization(block, x):
    """The iteration has no gradient."""
    bases, lengths, z = expectation_maximization(block, x)
    y = torch.relu(z @ bases)
    return residual(x, normed(block.bn, project(block.out, y))), (z / lengths) @ (z / (1e-6 + z.sum(0))).T


def naive_region(block, x):
    """Each position by the sum over its neighbours that are in the map, in each channel."""
    if not isinstance(block.gate, nn.Identity):
        reduce, norm, _, expand = block.gate.transforms["add"]
        context = softmax(project(block.gate.mask, rows(x))[:, 0]) @ rows(x)
        gate = torch.relu(normed(norm, reduce.weight @ context + reduce.bias))
        x = x + (expand.weight @ gate + expand.bias).view(-1, *[1] * (x.dim() - 1))
    t = project(block.theta, rows(x)).T.view(-1, *x.shape[1:])
    weight = block.region.weight[:, 0]
    p = torch.zeros_like(t)
    for i in itertools.product(*(range(n) for n in t.shape[1:])):
        for k in itertools.product(*(range(n) for n in weight.shape[1:])):
            j = [a + b - n // 2 for a, b, n in zip(i, k, weight.shape[1:])]
            if all(0 <= a < n for a, n in zip(j, t.shape[1:])):
                p[(slice(None), *i)] += weight[(slice(None), *k)] * t[(slice(None), *j)]
    keys, values = (rows(halved(u)) if block.subsample else rows(u) for u in (p, t))
    w = softmax(rows(p) @ keys.T * block.scale)
    return residual(x, normed(block.bn, project(block.out, w @ values))), w


def naive_bilinear(block, x):
    """Each weight of each matrix by itself. Maps are videos of one frame at least."""
    clip = x if x.dim() == 4 else x[:, None]
    (T, H, W), G = clip.shape[1:], block.groups

    def unit(layers, u):
        """A convolution, its norm, and what is positive."""
        return torch.relu(normed(layers[1], project(layers[0], rows(u)))).T.view(-1, *u.shape[1:])

    def matrix(layer, lines, count, pool):
        """(G, L) -> the matrices (groups, L, L) of an axis: what position i takes from position j."""
        L = lines.shape[1]
        first = [-(-a * L // count) for a in range(count + 1)]
        where = [next((a, i - first[a]) for a in range(count) if first[a] <= i < first[a + 1]) for i in range(L)]
        logits = (layer.weight[..., 0] @ pool(lines[None], count).flatten() + layer.bias).view(-1, count, count)
        logits = logits.transpose(1, 2) if layer is block.columns else logits
        f = logits.sigmoid() if block.normalisation == "sigmoid" else logits.exp()
        zero = torch.zeros(len(f), dtype=f.dtype)
        f = [[f[:, a, b] if p == q else zero for b, q in where] for a, p in where]
        f = torch.stack([torch.stack(row, 1) for row in f], 1)
        return f / f.sum(2, keepdim=True)

    u = unit(block.reduce, clip)
    seen = unit(block.gather, u)
    P, Q = (
        torch.stack([matrix(layer, seen[:, t].amax(axis), block.size, F.adaptive_max_pool1d) for t in range(T)], 1)
        for layer, axis in ((block.rows, 2), (block.columns, 1))
    )
    R = torch.eye(T, dtype=x.dtype)
    if block.frames:
        R = matrix(block.times, seen.mean((2, 3)), block.frames, F.adaptive_avg_pool1d)[0]
    w = torch.einsum("tT,gThH,gTwW->gthwTHW", R, P, Q).reshape(G, T * H * W, -1)
    y = torch.cat([w_g @ rows(u_g) for w_g, u_g in zip(w, u.chunk(G))], 1).T.view(u.shape)
    return residual(x, torch.relu(normed(block.bn, project(block.out, rows(unit(block.mix, y)))))), w.mean(0)


def naive_steps(block, x):
    """Each position with those that differ from it along the axes of a step alone."""
    dim = x.dim() - 1
    divided, axial = [[0], [1, 2]], {1: [[0]], 2: [[0], [1]], 3: [[1], [2], [0]]}[dim]
    axes = divided if type(block).__name__ == "DividedSpaceTime" else axial
    positions = list(itertools.product(*(range(n) for n in x.shape[1:])))
    total = torch.eye(len(positions), dtype=x.dtype)
    for own, step in zip(axes, block.steps, strict=True):
        others = [a for a in range(dim) if a not in own]
        mask = torch.tensor([[all(i[a] == j[a] for a in others) for j in positions] for i in positions])
        heads = (project(conv, rows(x)).chunk(step.num_heads, 1) for conv in (step.theta, step.phi, step.g))
        y, weights = [], 0
        for q, k, v in zip(*heads):
            w = (q @ k.T * q.shape[1] ** -0.5).exp() * mask
            w = w / w.sum(1, keepdim=True)
            y, weights = [*y, w @ v], weights + w / step.num_heads
        x, total = residual(x, normed(step.bn, project(step.out, torch.cat(y, 1)))), weights @ total
    return x, total


@dataclass
class Case:
    """A block of ``NONLOCAL`` and what it promises."""

    name: str
    naive: Callable
    options: dict = field(default_factory=dict)
    dims: tuple[int, ...] = (1, 2, 3)
    identity: bool = True  # at the start
    linear: bool = True  # memory in the number of positions


CASES = [
    Case("SimplifiedNonLocal", naive_simplified),
    Case("GlobalContext", naive_global_context, {"ratio": 2}),
    Case("GlobalContext", naive_global_context, {"ratio": 4, "fusion": ["add", "multiply"]}, identity=False),
    Case("GlobalContext", naive_global_context, {"ratio": 2, "pooling": "average"}),
    Case("CompactGeneralizedNonLocal", naive_compact_generalized, {"groups": 2}),
    Case("CompactGeneralizedNonLocal", naive_compact_generalized, {"groups": 1, "kernel": "rbf"}),
    Case("DoubleAttention", naive_double_attention, {"descriptors": 3}),
    Case("CrissCross", naive_criss_cross),
    Case("DisentangledNonLocal", naive_disentangled, {"algorithm": "fused"}),
    Case("DisentangledNonLocal", naive_disentangled, {"subsample": False, "temperature": 0.5}),
    Case("AsymmetricPyramid", naive_asymmetric_pyramid, {"bins": [1, 3]}),
    Case("BilinearAttentionTransform", naive_bilinear, {"groups": 2, "size": 2, "dropout": 0.0}, (2, 3), False),
    Case(
        "BilinearAttentionTransform",
        naive_bilinear,
        {"size": 3, "frames": 2, "normalisation": "sigmoid", "dropout": 0.0},
        (2, 3),
        identity=False,
    ),
    Case("EfficientAttention", naive_efficient_attention),
    Case("EfficientAttention", naive_efficient_attention, {"num_heads": 2, "normalisation": "scaling"}),
    Case("SpectralNonLocal", naive_spectral),
    Case("GlobalReasoning", naive_global_reasoning, {"nodes": 3}),
    Case("GlobalReasoning", naive_global_reasoning, {"scale": False}),
    Case("ExpectationMaximization", naive_expectation_maximization, {"num_bases": 3}),
    Case("AxialNonLocal", naive_steps, {"num_heads": 2}),
    Case("DividedSpaceTime", naive_steps, dims=(3,)),
    Case("RegionNonLocal", naive_region, {"algorithm": "fused", "kernel": [1, 3, 5]}),
    Case("RegionNonLocal", naive_region, {"subsample": True, "channel_gate": True, "scale": True}),
]


def label(value):
    """``GlobalContext-ratio=2`` for a case; other values as they are."""
    if isinstance(value, Case):
        return "-".join([value.name, *(f"{key}={v}" for key, v in value.options.items())])
    return None


each = pytest.mark.parametrize("case", CASES, ids=label)
BY_DIM = [(case, dim) for case in CASES for dim in case.dims]


def make_block(case, dim=3, seed=0, **options):
    """A block in eval mode and float64 that is not the identity: all of its numbers are random."""
    torch.manual_seed(seed)
    start = {"zero_init": False} if takes(case, "zero_init") else {}
    block = NONLOCAL.get(case.name)(CHANNELS, dim=dim, **start, **{**case.options, **options}).double()
    for name, tensor in [*block.named_parameters(), *block.named_buffers()]:
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 1.5)
        elif tensor.is_floating_point():
            nn.init.normal_(tensor, std=0.4)
    return block.eval()


def trained(block):
    """The parameters that have gradients."""
    return [parameter for parameter in block.parameters() if parameter.requires_grad]


def make_map(*size, batch=2):
    """A random feature map in float64."""
    return torch.randn(batch, CHANNELS, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradients(z, inputs):
    """Of a sum in which every number of z has a weight of its own; 0 for what z does not depend on."""
    weight = torch.randn(z.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(z)
    found = torch.autograd.grad((z * weight).sum(), inputs, allow_unused=True)
    return [torch.zeros_like(u) if grad is None else grad for u, grad in zip(inputs, found)]


def saved_numbers(block, x):
    """How many numbers a block keeps for the backward pass."""
    kept = {}
    pack = lambda t: (kept.__setitem__(t.untyped_storage().data_ptr(), t), t)[1]  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        block(x)
    return sum(t.untyped_storage().nbytes() // t.itemsize for t in kept.values())


def test_every_block_is_in_the_table():
    ours = {name for name in NONLOCAL if NONLOCAL.get(name).__module__.startswith("nlvideo.")}
    assert ours == {"NonLocalBlock", *(case.name for case in CASES)}


@pytest.mark.parametrize("case, dim", BY_DIM, ids=label)
def test_equals_its_equation(case, dim):
    """Values, the gradients of the input and of every parameter, and the weights that are drawn."""
    for size in SIZES[dim]:
        block, x = make_block(case, dim), make_map(*size).requires_grad_()
        pairs = [case.naive(block, clip) for clip in x]
        z, expected = block(x), torch.stack([pair[0] for pair in pairs])
        torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)
        inputs = [x, *trained(block)]
        for actual, wanted in zip(gradients(z, inputs), gradients(expected, inputs), strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-10)
        L = x[0, 0].numel()
        if pairs[0][1] is None:
            with pytest.raises(ValueError, match=f"{case.name} cannot show where a position looks: it"):
                block.attention(x, [0])
        else:
            shown = block.attention(x, range(L)).flatten(2)
            torch.testing.assert_close(shown, torch.stack([pair[1] for pair in pairs]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["AsymmetricPyramid", "DisentangledNonLocal", "RegionNonLocal"])
def test_weights_that_are_drawn_are_computed_in_float32(name):
    (case, *_) = (case for case in CASES if case.name == name)
    block, x = make_block(case).float(), make_map(2, 3, 5).float()
    lowered = copy.deepcopy(block).bfloat16()
    shown = lowered.attention(x.bfloat16(), [0, 7])
    torch.testing.assert_close(shown.sum((2, 3, 4)), block.attention(x, [0, 7]).sum((2, 3, 4)), rtol=1e-5, atol=1e-5)


def test_spectral_position_without_neighbours_stays_as_it_is():
    """Its row of the graph is 0, and its gradients are finite."""
    (case,) = (case for case in CASES if case.name == "SpectralNonLocal")
    block, x = make_block(case), make_map(2, 3, 5)
    x[..., 1, 2, 3] = 0
    x.requires_grad_()
    expected = torch.stack([case.naive(block, clip)[0] for clip in x])
    for z, wanted in zip(*(gradients(z, [x, *trained(block)]) for z in (block(x), expected)), strict=True):
        torch.testing.assert_close(z, wanted, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)
    assert not block.attention(x, [(1, 2, 3)]).any()


def test_bases_move_once_in_a_training_step_alone():
    """By a tenth of the mean over the clips; with ``attend`` a frame is a clip. Nothing else moves them."""
    (case,) = (case for case in CASES if case.name == "ExpectationMaximization")
    block, x = make_block(case, attend="space").train(), make_map(2, 3, 5)
    before = block.bases.clone()
    with torch.no_grad():
        block(x)
    block.attention(x, [0])
    block.eval()(x)
    frozen = copy.deepcopy(block).train().requires_grad_(False)
    frozen(x)
    assert torch.equal(block.bases, before) and torch.equal(frozen.bases, before)
    frames = x.transpose(1, 2).flatten(0, 1)
    mean = torch.stack([expectation_maximization(block, frame)[0].T for frame in frames]).mean(0)
    block.train()(x).sum().backward()
    torch.testing.assert_close(block.bases, 0.9 * before + 0.1 * mean, rtol=1e-10, atol=1e-10)
    assert block.features.weight.grad is None and block.out.weight.grad.any()


def test_bilinear_attention_drops_whole_channels_in_training():
    block, x = NONLOCAL.get("BilinearAttentionTransform")(CHANNELS, dropout=0.5).train(), make_map(4, 5, 3, batch=50)
    dropped = (block(x.float()) == x.float()).flatten(2).all(2)
    assert 100 < dropped.sum() < 300


@each
def test_a_dimension_that_it_does_not_have_is_refused(case):
    for dim in {0, 1, 2, 3, 4} - set(case.dims):
        with pytest.raises(ValueError, match=f"dim: got {dim}, allowed: {', '.join(map(str, case.dims))}"):
            NONLOCAL.get(case.name)(CHANNELS, dim=dim)


@each
@pytest.mark.parametrize("training", [True, False])
def test_starts_as_the_identity_and_can_leave_it(case, training):
    block = NONLOCAL.get(case.name)(CHANNELS, **case.options).train(training)
    x = make_map(4, 5, 3).float().requires_grad_()
    z = block(x)
    assert torch.equal(z, x) == case.identity
    grads = [grad.abs().max() for grad in gradients(z, trained(block))]
    assert max(grads) > 0 and all(torch.isfinite(grad) for grad in grads)
    assert not torch.equal(make_block(case)(make_map(4, 5, 3)), make_map(4, 5, 3))


@each
@pytest.mark.parametrize("options", [{"attend": "space"}, {"attend": "time"}, {"temporal_groups": 2}], ids=str)
def test_a_set_of_positions_is_a_clip_of_its_own(case, options):
    """Frames, places and runs of frames, and what is drawn of them."""
    if 3 not in case.dims:
        pytest.skip("not for video")
    T, H, W = 4, 3, 5
    x = make_map(T, H, W)
    sets = {"space": [(t, slice(None), slice(None)) for t in range(T)],
            "time": [(slice(None), h, w) for h in range(H) for w in range(W)],
            "spacetime": [(slice(0, 2),), (slice(2, 4),)]}[options.get("attend", "spacetime")]  # fmt: skip
    block = make_block(case, norm="none", **options) if takes(case, "norm") else make_block(case, **options)
    alone = make_block(case, norm="none") if takes(case, "norm") else make_block(case)
    alone.subsample = block.subsample
    z = block.branch(x)
    expected = torch.empty_like(z.expand(-1, -1, T, H, W))
    for index in sets:
        whole = (slice(None), slice(None), *(slice(i, i + 1) if isinstance(i, int) else i for i in index))
        expected[whole] = alone.branch(x[whole])
    torch.testing.assert_close(z, expected)


def takes(case, argument):
    """Whether a block's constructor has an argument."""
    return argument in constructor_arguments(NONLOCAL.get(case.name))


@each
def test_memory_grows_with_the_number_of_positions(case):
    block = make_block(case).float().train()
    small, large = (saved_numbers(block, make_map(T, 8, 8).float()) for T in (8, 16))
    # Criss-cross attention grows as N (H + W + T), others as N or as N x N.
    assert large < (2.5 if case.linear else 4.5) * small


@each
def test_autocast_and_channels_last(case):
    """bfloat16 is close, the residual path is not rounded, and the layout does not matter."""
    block, x = make_block(case).float(), make_map(4, 5, 3).float()
    expected = block(x)
    with torch.amp.autocast("cpu", dtype=torch.bfloat16):
        z = block(x)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, expected, rtol=0.1, atol=0.1)
    z.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in block.parameters())
    half = block.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16 and half.isfinite().all()
    block = make_block(case)
    torch.testing.assert_close(block(x.double().to(memory_format=torch.channels_last_3d)), block(x.double()))


@each
def test_recomputing_changes_nothing_or_is_refused(case):
    if not NONLOCAL.get(case.name).recomputes:
        with pytest.raises(ValueError, match="checkpoint: got True, allowed for .*: False"):
            make_block(case, checkpoint=True)
        return
    results = []
    for checkpoint in (False, True):
        block, x = make_block(case, checkpoint=checkpoint).train(), make_map(4, 5, 3).requires_grad_()
        z = block(x)
        results.append([z.detach(), *gradients(z, [x, *trained(block)]), *block.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results))


@each
def test_compiles_into_one_graph(case):
    torch._dynamo.reset()
    block, x = make_block(case).train(), make_map(2, 6, 6).requires_grad_()
    copied = copy.deepcopy(block)  # a training step changes buffers
    expected = [*gradients(copied(x), [x, *trained(copied)]), *copied.buffers()]
    z = torch.compile(block, backend="aot_eager", fullgraph=True)(x)
    for a, b in zip([*gradients(z, [x, *trained(block)]), *block.buffers()], expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    torch._dynamo.reset()


@each
def test_from_a_config_into_any_network(case):
    """Built by ``MODEL.NONLOCAL``, put into a network, in the start-up table, exported for batches of any size."""
    node, keys = "MODEL.NONLOCAL", load_cfg(None).MODEL.NONLOCAL
    given = [part for key, v in case.options.items() if key.upper() in keys for part in (f"{node}.{key.upper()}", v)]
    args = [[key, v] for key, v in case.options.items() if key.upper() not in keys]
    cfg = load_cfg(None, [f"{node}.NAME", case.name, *given, f"{node}.ARGS", args])
    block = build_nonlocal_block(cfg, CHANNELS, "res3")
    assert type(block) is NONLOCAL.get(case.name) and isinstance(block, NonLocalBase)
    network = nn.Sequential(nn.Conv3d(3, CHANNELS, 1), nn.ReLU()).eval()
    x = torch.randn(2, 3, 4, 6, 6)
    expected = network(x)
    insert_nonlocal(network, {"0": block})
    if case.identity:
        assert torch.equal(network(x), expected)
    (row,) = nonlocal_table(network, x)
    assert row["params"] == sum(p.numel() for p in block.parameters()) and row["gmacs"] > 0
    assert row["name"] == "0.nonlocal_block" and row["T x H x W"] == "4 x 6 x 6"
    if hasattr(block, "algorithm"):
        assert row["algorithm"] in ("dense", "fused") and row["P x Q"].startswith("144 x ")
        block.algorithm = "dense"
    program = torch.export.export(network, (x,), dynamic_shapes={"input": {0: torch.export.Dim("batch", min=1)}})
    one = torch.randn(1, 3, 4, 6, 6)
    torch.testing.assert_close(program.module()(one), network(one), rtol=1e-4, atol=1e-5)


def train(block, steps, state=None):
    """Some steps of SGD, from the beginning or from a state of before; returns the state."""
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1, momentum=0.9)
    if state is not None:
        block.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    for step in steps:
        optimizer.zero_grad()
        block(make_map(2, 3, 5) + step).square().mean().backward()
        optimizer.step()
    return copy.deepcopy({"model": block.state_dict(), "optimizer": optimizer.state_dict()})


@each
def test_resumes_to_the_bit(case):
    whole = train(make_block(case).train(), range(4))
    half = train(make_block(case).train(), range(2))
    rest = train(make_block(case, seed=5).train(), range(2, 4), half)
    assert all(torch.equal(value, rest["model"][name]) for name, value in whole["model"].items())


WORKER = """
    import sys, torch, torch.distributed as dist
    import nlvideo.modeling
    rank, folder = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    task = torch.load(f"{folder}/task.pt", weights_only=False)
    results = []
    for block in task["blocks"]:
        z = block(task["x"][rank::2])
        (z * task["weight"][rank::2]).sum().backward()
        grads = {name: p.grad for name, p in block.named_parameters() if p.requires_grad}
        for grad in grads.values():  # each must have one: DistributedDataParallel waits for it
            dist.all_reduce(grad)
        results.append((z.detach(), grads, dict(block.named_buffers())))
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()
"""


def test_two_ranks_are_one_with_the_whole_batch(tmp_path):
    """Values, gradients and buffers of every block over Gloo, with the norm over all processes and uneven shares."""
    blocks = [make_block(case, **({"norm": "SyncBN"} if takes(case, "norm") else {})).train() for case in CASES]
    x = make_map(2, 3, 5, batch=5)
    weight = torch.randn_like(x)
    torch.save({"blocks": blocks, "x": x, "weight": weight}, tmp_path / "task.pt")
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    # The package may be importable only from the folder that pytest runs in.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    command = [sys.executable, str(script)]
    ranks = [subprocess.Popen([*command, str(r), str(tmp_path)], env=environment) for r in range(2)]
    assert [process.wait(timeout=300) for process in ranks] == [0, 0]
    for block, *parts in zip(blocks, *(torch.load(tmp_path / f"rank{r}.pt") for r in range(2))):
        z = block(x)
        (z * weight).sum().backward()
        for rank, (values, grads, buffers) in enumerate(parts):
            torch.testing.assert_close(values, z[rank::2].detach())
            torch.testing.assert_close(buffers, dict(block.named_buffers()))
            torch.testing.assert_close(grads, {name: p.grad for name, p in block.named_parameters() if p.requires_grad})
