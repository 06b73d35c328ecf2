"""Every algorithm of the non-local operation against a naive double loop, values and gradients, and what it keeps."""

import itertools
from functools import partial
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode

from nlvideo.layers import nonlocal_ops, row_blocks
from nlvideo.layers.nonlocal_ops import (
    ALGORITHMS,
    choose_algorithm,
    concatenation_aggregate,
    dot_product_aggregate,
    softmax_aggregate,
)
from nlvideo.layers.sorted_relu import sorted_relu
from nlvideo.layers.symmetric_softmax import symmetric_softmax

# (N, P, Q, D, E): equal sizes, P != Q, one key, one query, odd sizes, values wider and narrower than keys.
SHAPES = [(1, 4, 4, 3, 3), (2, 7, 5, 3, 3), (3, 5, 1, 2, 4), (2, 1, 6, 4, 2), (2, 9, 13, 5, 3)]
SCALE = 0.7


def naive(form, query, key, value):
    """The sum written out, one pair at a time; query and key are (N, P, 1) and (N, Q, 1) for the concatenation form."""
    out = []
    for n in range(query.shape[0]):
        for i in range(query.shape[1]):
            if form == "softmax":
                f = [(SCALE * (query[n, i] * key[n, j]).sum()).exp() for j in range(key.shape[1])]
                normaliser = sum(f)
            elif form == "dot_product":
                f = [(query[n, i] * key[n, j]).sum() for j in range(key.shape[1])]
                normaliser = key.shape[1]
            else:
                f = [torch.relu(query[n, i, 0] + key[n, j, 0]) for j in range(key.shape[1])]
                normaliser = key.shape[1]
            out.append(sum(f[j] * value[n, j] for j in range(key.shape[1])) / normaliser)
    return torch.stack(out).view(*query.shape[:2], value.shape[2])


def aggregate(form, query, key, value, algorithm):
    """The function under test, with the arguments of ``naive``."""
    if form == "softmax":
        return softmax_aggregate(query, key, value, scale=SCALE, algorithm=algorithm)
    if form == "dot_product":
        return dot_product_aggregate(query, key, value, algorithm=algorithm)
    return concatenation_aggregate(query[..., 0], key[..., 0], value, algorithm=algorithm)


def make_inputs(form, shape, dtype=torch.float64, seed=0):
    """Random query, key and value with gradients, not contiguous, as flattened feature maps are."""
    N, P, Q, D, E = shape
    D = 1 if form == "concatenation" else D
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(N, channels, positions, generator=generator, dtype=torch.float64)
        .to(dtype)
        .transpose(1, 2)
        .requires_grad_()
        for positions, channels in ((P, D), (Q, D), (Q, E))
    ]


def value_and_grads(function, inputs):
    """The result and the gradients of a weighted sum of it."""
    out = function(*inputs)
    return [out.detach(), *gradients(out, inputs)]


def gradients(out, inputs):
    """Gradients of a weighted sum of the result."""
    weight = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view(out.shape).to(out.dtype)
    return torch.autograd.grad((out * weight).sum(), inputs, retain_graph=True)


def assert_same(actual, expected, tolerance):
    """Compare lists of tensors."""
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


FORM_AND_ALGORITHM = [(form, a) for form in ALGORITHMS for a in (*ALGORITHMS[form], "auto")]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form, algorithm", FORM_AND_ALGORITHM)
def test_equals_the_double_loop(form, algorithm, shape):
    """Values and gradients in float64."""
    inputs = make_inputs(form, shape)
    expected = value_and_grads(lambda *t: naive(form, *t), inputs)
    assert_same(value_and_grads(lambda *t: aggregate(form, *t, algorithm), inputs), expected, 1e-10)


ROW_BLOCKS = {"softmax": "softmax", "dot_product": "identity", "concatenation": "relu"}


def row_blocks_of(form, query, key, value, max_logits):
    scale = SCALE if form == "softmax" else 1 / key.shape[1]
    if form == "concatenation":
        query, key = (torch.cat(pair, 2) for pair in ((query, torch.ones_like(query)), (torch.ones_like(key), key)))
    return row_blocks.row_block_sum(query, key, value, f=ROW_BLOCKS[form], scale=scale, max_logits=max_logits)


@pytest.mark.parametrize("max_logits", [1, 10, 26, 80, 10**6])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", ROW_BLOCKS)
def test_row_blocks_equal_the_double_loop(form, shape, max_logits):
    """However the rows are cut: one row at a time, parts of a sample, several samples, everything."""
    inputs = make_inputs(form, shape)
    expected = value_and_grads(lambda *t: naive(form, *t), inputs)
    assert_same(value_and_grads(lambda *t: row_blocks_of(form, *t, max_logits), inputs), expected, 1e-10)


@pytest.mark.parametrize("max_logits", [1, 10, 26, 10**6])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_symmetric_half_equals_the_double_loop(shape, max_logits):
    """Queries and keys are one tensor."""
    x, _, _ = make_inputs("softmax", shape)
    value = make_inputs("softmax", (shape[0], 1, shape[1], 1, shape[4]), seed=1)[2]
    expected = value_and_grads(lambda x, v: naive("softmax", x, x, v), [x, value])
    found = value_and_grads(lambda x, v: symmetric_softmax(x, v, scale=SCALE, max_logits=max_logits), [x, value])
    assert_same(found, expected, 1e-10)


@pytest.mark.parametrize("max_logits", [10, 10**6])
@pytest.mark.parametrize("columns", list(itertools.product([False, True], repeat=3)))
def test_row_blocks_read_rows_and_columns(columns, max_logits):
    """Each of the three as rows of its own or as the columns of a map; its gradient lies as it does."""
    inputs = make_inputs("softmax", (2, 7, 5, 4, 3))
    expected = value_and_grads(lambda *t: naive("softmax", *t), inputs)
    lying = [
        (t.detach().mT.contiguous().mT if column else t.detach()).requires_grad_() for t, column in zip(inputs, columns)
    ]
    found = value_and_grads(lambda *t: row_blocks_of("softmax", *t, max_logits), lying)
    assert_same(found, expected, 1e-10)
    # What a function hands back, before autograd stores it in a layout of its own choice.
    grads = torch.autograd.grad(row_blocks_of("softmax", *lying, max_logits).sum(), lying)
    assert [grad.stride() for grad in grads] == [t.stride() for t in lying]


@pytest.mark.parametrize("batch, num_queries, num_keys, max_logits", [(3, 10, 4, 1), (5, 3, 4, 30), (1, 100, 7, 70)])
def test_tiles_cover_every_row_once_within_the_bound(batch, num_queries, num_keys, max_logits):
    """Neither a row left out nor one done twice."""
    seen = torch.zeros(batch, num_queries)
    for n, p in row_blocks.tiles(batch, num_queries, num_keys, max_logits):
        seen[n, p] += 1
        assert seen[n, p].numel() * num_keys <= max(max_logits, num_keys)
    assert (seen == 1).all()


@pytest.mark.parametrize(
    "a, b",
    [
        ([0.0, 1.0, -1.0, 2.0], [0.0, -1.0, 1.0, -2.0, -2.0]),  # ties at exactly zero, and equal keys
        ([1e-14, -1e-14, 0.5, 7.0], [0.0, 0.0, 1000.0, 1000.0, 3.0]),  # a shift by the mean key makes ties of these
        ([-3.0, -1.0, -2.0, -5.0], [-1.0, -2.0, 0.5, -0.5, -4.0]),  # all negative: nothing passes
        ([3.0, 1.0, 2.0, 5.0], [1.0, 2.0, 0.5, 0.5, 4.0]),  # all positive: linear
    ],
)
@pytest.mark.parametrize("algorithm", ALGORITHMS["concatenation"])
def test_concatenation_at_the_kinks(algorithm, a, b):
    """The derivative at a kink is 0, as that of ReLU."""
    value = torch.randn(1, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    inputs = [torch.tensor([t], dtype=torch.float64)[..., None] for t in (a, b)] + [value]
    inputs = [t.requires_grad_() for t in inputs]
    expected = value_and_grads(lambda *t: naive("concatenation", *t), inputs)
    actual = value_and_grads(lambda *t: aggregate("concatenation", *t, algorithm), inputs)
    assert_same(actual, expected, 1e-10)


@pytest.mark.parametrize("shape", [(2, 4, 3, 2, 2), (1, 3, 5, 2, 3)])
def test_gradcheck_of_own_functions(shape):
    """Finite differences of the hand-written backwards."""
    torch.autograd.gradcheck(
        lambda *t: row_blocks.row_block_sum(*t, f="softmax", scale=SCALE, max_logits=7), make_inputs("softmax", shape)
    )
    torch.autograd.gradcheck(
        lambda *t: row_blocks.row_block_sum(*t, f="identity", scale=SCALE, max_logits=7),
        make_inputs("dot_product", shape),
    )
    torch.autograd.gradcheck(
        lambda *t: row_blocks_of("concatenation", *t, 7), make_inputs("concatenation", shape, seed=3)
    )
    query, key, value = make_inputs("concatenation", shape, seed=3)
    torch.autograd.gradcheck(lambda a, b, v: sorted_relu(a[..., 0], b[..., 0], v), (query, key, value))


def test_sorted_backward_does_not_scatter():
    """The transposed sort, so that the result does not depend on the order in which threads add."""
    called = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.append(func.name())
            return func(*args, **(kwargs or {}))

    query, key, value = make_inputs("concatenation", (2, 50, 40, 1, 3))
    with Spy():
        aggregate("concatenation", query, key, value, "sorted").sum().backward()
    assert "aten::sort" in " ".join(called)
    assert not [name for name in called if "scatter" in name or "index_add" in name or "index_put" in name]


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(t, torch.Tensor):
                self.numel = max(self.numel, t.numel())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value_dim", [8, 5, 33])
@pytest.mark.parametrize("form, algorithm", [(f, a) for f in ALGORITHMS for a in ALGORITHMS[f]])
def test_no_matrix_is_saved_or_made(form, algorithm, value_dim, dtype, monkeypatch):
    """Neither kept for backward nor seen by any operation, forward or backward; the dense algorithm does both.

    PyTorch's CPU kernel takes values as wide as the keys, and thin ones that are filled up; row blocks take the others.
    """
    monkeypatch.setitem(row_blocks.TILE_LOGITS, "cpu", 1000)
    monkeypatch.setattr(row_blocks, "TILE_ROWS", 1)
    N, P, Q = 1, 120, 100
    inputs = make_inputs(form, (N, P, Q, 8, value_dim), dtype)
    saved = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.numel()), t)[1], lambda t: t)
    with LargestTensor() as largest, hooks:
        aggregate(form, *inputs, algorithm).sum().backward()
    matrix = N * P * Q
    assert (max(saved) >= matrix) == (algorithm == "dense")
    assert (largest.numel >= matrix) == (algorithm == "dense")


@pytest.mark.parametrize("device_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form, algorithm", [(f, a) for f in ALGORITHMS for a in ALGORITHMS[f]])
def test_autocast_lowers_no_sum(form, algorithm, device_dtype):
    """Inputs in float32 give the float32 result under autocast; half-precision inputs give it up to their rounding."""
    inputs = make_inputs(form, (2, 30, 20, 4, 4), torch.float32)
    expected = value_and_grads(lambda *t: aggregate(form, *t, algorithm), inputs)
    with torch.amp.autocast("cpu", dtype=torch.bfloat16):
        out = aggregate(form, *inputs, algorithm)
    assert out.dtype == torch.float32
    assert_same([out.detach(), *gradients(out, inputs)], expected, 1e-5)
    halves = [t.detach().to(device_dtype).requires_grad_() for t in inputs]
    out = aggregate(form, *halves, algorithm)
    assert out.dtype == device_dtype
    torch.testing.assert_close(out.float(), expected[0], rtol=0.03, atol=0.03)


@pytest.mark.parametrize("form", ["softmax", "concatenation"])
def test_own_backwards_may_run_under_autocast(form):
    """Where the caller leaves backward inside the autocast region, against advice."""
    query, key, value = inputs = make_inputs(form, (2, 30, 20, 4, 3), torch.float32)
    if form == "softmax":
        out = row_blocks.row_block_sum(query, key, value, f="softmax", scale=SCALE)
    else:
        out = sorted_relu(query[..., 0], key[..., 0], value)
    expected = gradients(out, inputs)
    with torch.amp.autocast("cpu", dtype=torch.bfloat16):
        actual = gradients(out, inputs)
    assert_same(actual, expected, 1e-6)


def test_mixed_dtypes_keep_the_wider_and_return_that_of_the_values():
    """The Gaussian form under autocast: queries and keys in float32, values in bfloat16."""
    query, key, value = make_inputs("softmax", (1, 6, 5, 4, 4), torch.float32)
    half = value.detach().bfloat16()
    expected = softmax_aggregate(query, key, half.float(), scale=SCALE, algorithm="dense")
    for algorithm in ALGORITHMS["softmax"]:
        out = softmax_aggregate(query, key, half, scale=SCALE, algorithm=algorithm)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("algorithm", ALGORITHMS["softmax"])
@pytest.mark.parametrize("value_dim", [4, 3, 33])
def test_large_logits_do_not_overflow(algorithm, value_dim):
    """Unscaled logits of 1e5 overflow half precision and exp; the softmax is one-hot there, not NaN."""
    key = torch.eye(4)[None] * 316
    value = torch.randn(1, 4, value_dim, generator=torch.Generator().manual_seed(0))
    out = softmax_aggregate(key.half(), key.half(), value.half(), scale=1.0, algorithm=algorithm)
    torch.testing.assert_close(out, value.half())


@pytest.mark.parametrize("key_dim, value_dim, taken", [
    (16, 8, True), (8, 16, True), (32, 1, True), (32, 33, False), (33, 16, False), (128, 128, True), (129, 129, False),
])  # fmt: skip
def test_thin_rows_go_to_the_kernel_of_the_cpu(key_dim, value_dim, taken):
    """To PyTorch's attention kernel, with zero channels where needed. The rest take row blocks. Both are exact."""
    inputs = make_inputs("softmax", (2, 70, 50, key_dim, value_dim))
    kernel = mock.patch.object(nonlocal_ops.F, "scaled_dot_product_attention", wraps=F.scaled_dot_product_attention)
    with kernel as called:
        actual = value_and_grads(lambda *t: aggregate("softmax", *t, "fused"), inputs)
    assert called.called == taken
    assert_same(actual, value_and_grads(lambda *t: aggregate("softmax", *t, "dense"), inputs), 1e-10)


@pytest.mark.parametrize("dims, dtype", [
    ((3, 2), torch.float32), ((16, 32), torch.float64), ((128, 128), torch.float32), ((128, 128), torch.float64),
    ((3, 3), torch.bfloat16), ((256, 256), torch.float16),
])  # fmt: skip
def test_the_kernel_does_not_build_the_matrix(dims, dtype):
    """Where PyTorch refused a case that it is believed to take, it would build the matrix without a word."""
    inputs = make_inputs("softmax", (2, 70, 50, *dims), dtype)
    with profile() as seen:
        aggregate("softmax", *inputs, "fused")
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in {event.name for event in seen.events()}


def test_sorted_stays_accurate_far_from_zero():
    """Terms of +-50 in float32: without centring the two prefix sums would cancel."""
    query, key, value = make_inputs("concatenation", (1, 4000, 3000, 1, 4))
    query, key = (query.detach() - 50).float().double(), (key.detach() + 50).float().double()
    value = value.detach().float().double()
    exact = aggregate("concatenation", query, key, value, "dense")
    single = aggregate("concatenation", query.float(), key.float(), value.float(), "sorted")
    assert (single - exact).abs().max() < 3e-7 * exact.abs().max()


def test_auto_follows_the_cost_model():
    """The shapes of Table 1 at 224 pixels; res4 of 32 frames is the one where re-association does not pay."""
    assert choose_algorithm("dot_product", 3136, 784, 256, 256) == "reordered"
    assert choose_algorithm("dot_product", 784, 196, 512, 512) == "fused"
    assert choose_algorithm("dot_product", 3136, 784, 512, 512) == "reordered"
    assert choose_algorithm("dot_product", 196, 36, 1024, 1024) == "fused"
    assert choose_algorithm("dot_product", 784, 32, 512, 512) == "dense"
    assert choose_algorithm("softmax", 784, 196, 512, 512) == "fused"
    assert choose_algorithm("softmax", 196, 33, 512, 512) == "fused"
    assert choose_algorithm("softmax", 196, 32, 512, 512) == "dense"
    assert choose_algorithm("concatenation", 3136, 784, 1, 256) == "sorted"
    # 2 P Q / (P + Q) > 300.
    assert choose_algorithm("concatenation", 301, 301, 1, 256) == "sorted"
    assert choose_algorithm("concatenation", 300, 300, 1, 256) == "fused"
    assert choose_algorithm("concatenation", 33, 33, 1, 256) == "fused"
    assert choose_algorithm("concatenation", 33, 32, 1, 256) == "dense"
    with pytest.raises(ValueError, match="form: got 'cosine', allowed: 'softmax', 'dot_product', 'concatenation'"):
        choose_algorithm("cosine", 1, 1, 1, 1)


@pytest.mark.parametrize("form", ALGORITHMS)
def test_errors_name_what_was_given(form):
    """Wrong algorithm, wrong rank, sizes that do not fit, no keys."""
    query, key, value = make_inputs(form, (2, 5, 4, 3, 3))
    wrong = "sorted" if form != "concatenation" else "reordered"
    with pytest.raises(ValueError, match=f"algorithm of {form}: got '{wrong}', allowed: 'auto', 'dense'"):
        aggregate(form, query, key, value, wrong)
    with pytest.raises(ValueError, match="do not fit"):
        aggregate(form, query, key, value[:, :3], "auto")
    with pytest.raises(ValueError, match="do not fit"):
        aggregate(form, query[:1], key, value, "auto")
    with pytest.raises(ValueError, match="no keys"):
        aggregate(form, query, key[:, :0], value[:, :0], "auto")
    with pytest.raises(ValueError, match="must be"):
        aggregate(form, query, key, value[0], "auto")


@pytest.mark.parametrize("form, algorithm", [("softmax", "dense"), ("dot_product", "reordered")])
def test_works_on_the_meta_device(form, algorithm):
    """Costs are counted there."""
    inputs = [t.detach().to("meta") for t in make_inputs(form, (2, 5, 4, 3, 3))]
    assert aggregate(form, *inputs, algorithm).shape == (2, 5, 3)
    assert aggregate(form, *inputs, "auto").shape == (2, 5, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dims", [(256, 256), (512, 512), (512, 256)])
@pytest.mark.parametrize("form, algorithm", [(f, a) for f in ALGORITHMS for a in ALGORITHMS[f]])
def test_on_a_gpu(form, algorithm, dims, dtype):
    """The same numbers as in float64 on the CPU, for the channel counts of the networks."""
    inputs = [(t * 0.2).detach() for t in make_inputs(form, (2, 150, 70, *dims), dtype)]
    expected = aggregate(form, *(t.double() for t in inputs), "dense")
    out = aggregate(form, *(t.cuda() for t in inputs), algorithm)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(out.double().cpu(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("aggregate", [partial(softmax_aggregate, scale=1.0), concatenation_aggregate])
def test_no_query_gives_no_row(aggregate):
    size = () if aggregate is concatenation_aggregate else (8,)
    found = aggregate(torch.zeros(1, 0, *size), torch.zeros(1, 40, *size), torch.zeros(1, 40, 8), algorithm="fused")
    assert found.shape == (1, 0, 8)
