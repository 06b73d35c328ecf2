"""Convolutions of kernel size 1 as matrix products: the same values and gradients, in any layout."""

import pytest
import torch
from torch import nn

from nlvideo.layers.projection import Linear, project

SIZES = [(5,), (4, 3), (2, 4, 3)]


def layers_of(convs: list[nn.Module]) -> list[Linear]:
    return [Linear(conv.weight, conv.bias) for conv in convs]


def make(size: tuple[int, ...], clips: int = 3, channels: int = 6, widths: tuple[int, ...] = (4, 5)):
    """A map and convolutions from it, float64."""
    torch.manual_seed(0)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(size) - 1]
    convs = [conv(channels, width, 1, dtype=torch.float64) for width in widths]
    return torch.randn(clips, channels, *size, dtype=torch.float64, requires_grad=True), convs


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """The same values, with the channels of a position side by side in memory."""
    return x.flatten(2).transpose(1, 2).contiguous().transpose(1, 2).unflatten(2, x.shape[2:])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("clips", [1, 3])
def test_equals_the_convolutions(size, rows, last, clips):
    x, convs = make(size, clips)
    given = channels_last(x.detach()).requires_grad_() if last else x
    expected = [conv(x) for conv in convs]
    maps = project(given, layers_of(convs), rows=rows)
    grads = [torch.randn_like(y) for y in expected]
    inputs = [parameter for conv in convs for parameter in conv.parameters()]
    want = torch.autograd.grad(expected, [x, *inputs], grads)
    # Gradients come back in whatever layout the map is used in.
    found = torch.autograd.grad(maps, [given, *inputs], [grads[0], channels_last(grads[1])])
    for a, b in zip([*maps, *found], [*expected, *want]):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", [False, True])
def test_layouts_of_the_results(rows):
    x, convs = make((2, 4, 3))
    for y in project(x, layers_of(convs), rows=rows):
        assert y.is_contiguous(memory_format=torch.channels_last_3d if rows else torch.contiguous_format)
    for given in (x, channels_last(x.detach()).requires_grad_()):
        maps = project(given, layers_of(convs), rows=rows)
        (grad,) = torch.autograd.grad(maps, given, [torch.ones_like(y) for y in maps])
        assert grad.stride() == given.stride()


def test_what_needs_no_gradient_gets_none():
    x, convs = make((4, 3))
    convs[0].weight.requires_grad_(False)
    convs[1].bias.requires_grad_(False)
    out = project(x.detach(), layers_of(convs), rows=True)
    torch.autograd.backward(out, [torch.ones_like(y) for y in out])
    assert x.grad is None and convs[0].weight.grad is None and convs[1].bias.grad is None
    assert convs[0].bias.grad is not None and convs[1].weight.grad is not None


def test_second_derivatives():
    x, convs = make((2,), clips=2, channels=3, widths=(2,))
    parameters = tuple(convs[0].parameters())
    assert torch.autograd.gradcheck(lambda x, w, b: project(x, [Linear(w, b)], rows=True), (x, *parameters))
    assert torch.autograd.gradgradcheck(lambda x, w, b: project(x, [Linear(w, b)], rows=True), (x, *parameters))


def test_no_clips():
    x, convs = make((4, 3))
    empty = x[:0].detach().requires_grad_()
    out = project(empty, layers_of(convs), rows=True)
    assert [y.shape for y in out] == [(0, 4, 4, 3), (0, 5, 4, 3)]
    torch.autograd.backward(out, [torch.ones_like(y) for y in out])
    assert not any(conv.weight.grad.any() for conv in convs) and empty.grad.shape == empty.shape


def test_keeps_the_map_and_the_weights_alone():
    x, convs = make((2, 4, 3))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        project(x, layers_of(convs), rows=True)
    assert {t.data_ptr() for t in kept} == {x.data_ptr(), *(conv.weight.data_ptr() for conv in convs)}
