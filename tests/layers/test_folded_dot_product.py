"""The folded dot-product form: equal to projections and the sum, when it pays, what it keeps."""

import pytest
import torch

from nlvideo.layers.folded_dot_product import folded_dot_product, folding_pays
from nlvideo.layers.nonlocal_ops import dot_product_aggregate
from nlvideo.layers.projection import Linear


def linear(out_channels, in_channels, generator):
    """A random projection with a bias."""
    weight = torch.randn(out_channels, in_channels, generator=generator, dtype=torch.float64)
    return Linear(weight.requires_grad_(), torch.randn(out_channels, generator=generator).double().requires_grad_())


@pytest.mark.parametrize("D, E", [(3, 3), (2, 5)])
@pytest.mark.parametrize("same", [True, False])
def test_equals_projections_and_the_sum(same, D, E):
    generator = torch.Generator().manual_seed(0)
    B, P, Q, C = 2, 7, 5, 6
    x = torch.randn(B, C, P, generator=generator, dtype=torch.float64).transpose(1, 2).requires_grad_()
    keys = x if same else torch.randn(B, Q, C, generator=generator, dtype=torch.float64).requires_grad_()
    theta, phi, g, out = (linear(o, i, generator) for o, i in ((D, C), (D, C), (E, C), (C, E)))
    q, k, v = (u @ w.weight.T + w.bias for u, w in ((x, theta), (keys, phi), (keys, g)))
    expected = dot_product_aggregate(q, k, v, algorithm="dense") @ out.weight.T + out.bias
    actual = folded_dot_product(x, keys, theta=theta, phi=phi, g=g, out=out)
    inputs = [x, *([] if same else [keys]), *theta, *phi, *g, *out]
    weight = torch.linspace(-1, 2, expected.numel(), dtype=torch.float64).view(expected.shape)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    for a, b in zip(*(torch.autograd.grad((z * weight).sum(), inputs) for z in (actual, expected))):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-9)


def test_it_keeps_the_positions_and_matrices_of_channels():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 500, 6, dtype=torch.float64, requires_grad=True)
    projections = dict(zip(("theta", "phi", "g", "out"), (linear(6, 6, generator) for _ in range(4))))
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (kept.setdefault(t.untyped_storage().data_ptr(), t), t)[1], lambda t: t
    ):
        out = folded_dot_product(x, x, **projections)
    del kept[x.untyped_storage().data_ptr()]  # is there in any case
    assert max(t.numel() for t in kept.values()) <= 6 * 6 and out.shape == x.shape


@pytest.mark.parametrize(
    "P, Q, C, pays",
    [
        (3136, 3136, 512, True),  # res3, 32 frames
        (3136, 784, 512, True),
        (784, 784, 512, False),  # res3, 8 frames
        (784, 784, 1024, False),  # res4, 32 frames
        (3136, 3136, 1024, True),  # res4, 128 frames
        (784, 196, 512, False),  # attention within a frame of res3
    ],
)
def test_it_pays_from_some_size_on(P, Q, C, pays):
    assert folding_pays(P, Q, C, C // 2) == pays


def test_the_count_of_multiply_adds_is_that_of_the_products():
    """Of the rule's two sides, measured by torch's own counter, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    P = C = 16
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, P, C, dtype=torch.float64, requires_grad=True)
    theta, phi, g, out = (linear(o, i, generator) for o, i in ((8, C), (8, C), (8, C), (C, 8)))
    with FlopCounterMode(display=False) as folded:
        folded_dot_product(x, x, theta=theta, phi=phi, g=g, out=out).sum().backward()
    with FlopCounterMode(display=False) as other:
        q, k, v = (x @ w.weight.T for w in (theta, phi, g))
        (dot_product_aggregate(q, k, v, algorithm="reordered") @ out.weight.T).sum().backward()
    # The outer products of biases and the means are not in the rule: vectors, next to matrices.
    assert folded.get_total_flops() / 2 == pytest.approx(5 * P * C**2 + 6 * C * 8 * (C + 8), rel=0.2)
    assert other.get_total_flops() / 2 == 3 * 2 * P * (2 * C * 8 + 8**2)
