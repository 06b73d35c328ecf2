"""The non-local operation on inputs that hypothesis thinks of: tied, constant, huge and tiny ones, single positions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nlvideo.layers.nonlocal_ops import concatenation_aggregate, dot_product_aggregate, softmax_aggregate
from nlvideo.layers.row_blocks import row_block_sum
from nlvideo.layers.symmetric_softmax import symmetric_softmax

SIZES = st.integers(1, 9)
# What the numbers of a tensor are: their magnitude, and how they repeat.
MAGNITUDES = st.sampled_from([1.0, 1e4, 1e-9])
PATTERNS = st.sampled_from(["random", "constant", "tied", "signs"])


@st.composite
def tensors(draw, *, positions, channels, batch=2):
    """(batch, positions, channels) in float64."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    magnitude, pattern = draw(MAGNITUDES), draw(PATTERNS)
    values = torch.randn(batch, positions, channels, generator=generator, dtype=torch.float64)
    if pattern == "constant":
        values = values[:1, :1].expand_as(values)
    elif pattern == "tied":  # few different values: many pairs are equal, many sums are exactly zero
        values = values.mul(1.5).round()
    elif pattern == "signs":
        values = values.sign()
    return (values * magnitude).clone()


def softmax_loop(query, key, value, scale):
    """One row at a time, with the largest logit taken away."""
    rows = []
    for n in range(query.shape[0]):
        for i in range(query.shape[1]):
            logits = torch.stack([scale * (query[n, i] * k).sum() for k in key[n]])
            weights = (logits - logits.max().detach()).exp()
            rows.append(sum(w * v for w, v in zip(weights / weights.sum(), value[n])))
    return torch.stack(rows).view(query.shape[0], query.shape[1], -1)


def pair_loop(f, query, key, value):
    """1/Q sum_j f(q_i, k_j) v_j, one pair at a time."""
    rows = [
        sum(f(query[n, i], key[n, j]) * value[n, j] for j in range(key.shape[1])) / key.shape[1]
        for n in range(query.shape[0]) for i in range(query.shape[1])
    ]  # fmt: skip
    return torch.stack(rows).view(query.shape[0], query.shape[1], -1)


def assert_equal_with_gradients(actual, expected, inputs, tolerance):
    """Values and gradients, relative to the largest number of each."""
    inputs = [t.requires_grad_() for t in inputs]
    results = []
    for function in (actual, expected):
        out = function(*inputs)
        weight = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
        results.append([out.detach(), *torch.autograd.grad((out * weight).sum(), inputs, allow_unused=True)])
    # What a gradient may be off by follows from the numbers that are summed for it: inputs, and the other gradients.
    largest = [max(t.abs().max().item() for t in inputs)]
    for a, b in zip(*results):
        size = max(b.abs().max().item(), 1e-300)
        assert torch.isfinite(a).all()
        assert (a - b).abs().max() <= tolerance * max(size, *largest, 1e-300)


@settings(max_examples=60, deadline=None)
@given(st.data(), SIZES, SIZES, st.integers(1, 4), st.integers(1, 4), st.integers(1, 60), st.sampled_from([1.0, 0.3]))
def test_softmax_by_row_blocks(data, P, Q, D, E, max_logits, scale):
    inputs = [data.draw(tensors(positions=n, channels=c)) for n, c in ((P, D), (Q, D), (Q, E))]
    assert_equal_with_gradients(
        lambda q, k, v: row_block_sum(q, k, v, f="softmax", scale=scale, max_logits=max_logits),
        lambda q, k, v: softmax_loop(q, k, v, scale), inputs, 1e-6,
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.data(), SIZES, st.integers(1, 4), st.integers(1, 4), st.integers(1, 90), st.sampled_from([1.0, 0.3]))
def test_softmax_by_the_symmetric_half(data, P, D, E, max_logits, scale):
    inputs = [data.draw(tensors(positions=P, channels=c)) for c in (D, E)]
    assert_equal_with_gradients(
        lambda x, v: symmetric_softmax(x, v, scale=scale, max_logits=max_logits),
        lambda x, v: softmax_loop(x, x, v, scale), inputs, 1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("algorithm", ["reordered", "fused"])
@settings(max_examples=40, deadline=None)
@given(st.data(), SIZES, SIZES, st.integers(1, 4), st.integers(1, 4))
def test_dot_product(algorithm, data, P, Q, D, E):
    inputs = [data.draw(tensors(positions=n, channels=c)) for n, c in ((P, D), (Q, D), (Q, E))]
    assert_equal_with_gradients(
        lambda q, k, v: dot_product_aggregate(q, k, v, algorithm=algorithm),
        lambda q, k, v: pair_loop(lambda a, b: (a * b).sum(), q, k, v), inputs, 1e-10,
    )  # fmt: skip


@pytest.mark.parametrize("algorithm", ["sorted", "fused"])
@settings(max_examples=80, deadline=None)
@given(st.data(), SIZES, SIZES, st.integers(1, 4))
def test_concatenation(algorithm, data, P, Q, E):
    inputs = [data.draw(tensors(positions=n, channels=c)) for n, c in ((P, 1), (Q, 1), (Q, E))]
    assert_equal_with_gradients(
        lambda a, b, v: concatenation_aggregate(a[..., 0], b[..., 0], v, algorithm=algorithm),
        lambda a, b, v: pair_loop(lambda s, t: torch.relu(s + t).sum(), a, b, v), inputs, 1e-9,
    )  # fmt: skip


def error(function, inputs, exact):
    """Largest error of values and gradients against float64, relative to the largest number of each."""
    inputs = [t.clone().requires_grad_() for t in inputs]
    out = function(*inputs)
    weight = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view(out.shape)
    found = [out.detach(), *torch.autograd.grad((out * weight.to(out.dtype)).sum(), inputs)]
    if exact is None:
        return found
    return [((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() for a, b in zip(found, exact)]


def symmetric(query, key, value, algorithm):
    """The softmax with x as query and key."""
    if algorithm == "dense":
        return softmax_aggregate(query, query, value, scale=0.2, algorithm="dense") + 0 * key.sum()
    return symmetric_softmax(query, value, scale=0.2, max_logits=9000) + 0 * key.sum()


FORMS = {
    "row_blocks": lambda q, k, v, a: (
        softmax_aggregate(q, k, v, scale=0.2, algorithm="dense")
        if a == "dense" else row_block_sum(q, k, v, f="softmax", scale=0.2, max_logits=9000)
    ),
    "fused": lambda q, k, v, a: softmax_aggregate(q, k, v, scale=0.2, algorithm=a),
    "symmetric": symmetric,
    "dot_product": lambda q, k, v, a: dot_product_aggregate(q, k, v, algorithm=a),
    "dot_product_fused": lambda q, k, v, a: dot_product_aggregate(q, k, v, algorithm=a),
    "concatenation": lambda q, k, v, a: concatenation_aggregate(q[..., 0], k[..., 0], v, algorithm=a),
    "concatenation_fused": lambda q, k, v, a: concatenation_aggregate(q[..., 0], k[..., 0], v, algorithm=a),
}  # fmt: skip
EXACT = {"dot_product": "reordered", "concatenation": "sorted"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize("form", FORMS)
def test_precision_is_no_worse_than_that_of_the_matrix(form, offset, dtype):
    """Against float64, on the same rounded inputs: at most twice the dense form's error, or near rounding."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((2, 150, 16), (2, 150 if form == "symmetric" else 110, 16), (2, 150 if form == "symmetric" else 110, 12))
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    inputs = [(t + offset).to(dtype).double() for t in inputs]
    function, exact_algorithm = FORMS[form], EXACT.get(form, "fused")
    exact = error(lambda *t: function(*t, "dense"), inputs, None)
    low = [t.to(dtype) for t in inputs]
    dense = error(lambda *t: function(*t, "dense"), low, exact)
    ours = error(lambda *t: function(*t, exact_algorithm), low, exact)
    rounding = torch.finfo(dtype).eps
    for what, a, b in zip(("value", "query", "key", "values"), ours, dense):
        assert a <= max(3 * b, 8 * rounding), f"{what}: {a:.1e}, dense {b:.1e}"
