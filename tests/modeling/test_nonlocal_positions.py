"""Folding maps into sets of positions, and finding positions by index."""

import itertools

import numpy as np
import pytest
import torch

from nlvideo.modeling.nonlocal_block.maps import convolve, max_pool_space, project_channels, project_conv
from nlvideo.modeling.nonlocal_block.positions import attended, fold, locate, num_groups, unfold, video_size

CASES = [("spacetime", 1), ("spacetime", 2), ("space", 1), ("time", 1), ("time", 2), ("time", 4)]


def numbered(batch=2, channels=3, size=(4, 2, 3)):
    """A map whose every number differs."""
    numel = batch * channels * torch.Size(size).numel()
    return torch.arange(numel, dtype=torch.float64).view(batch, channels, *size)


@pytest.mark.parametrize("attend, groups", CASES)
def test_unfold_is_the_inverse_of_fold(attend, groups):
    """For video; nothing is lost or exchanged."""
    x = numbered()
    assert torch.equal(unfold(fold(x, attend, groups), x, attend, groups), x)


@pytest.mark.parametrize("size", [(7,), (3, 5)])
def test_fold_and_unfold_fewer_axes(size):
    """Sequences and images are one set."""
    x = numbered(size=size)
    folded = fold(x, "spacetime", 1)
    assert torch.equal(folded, x.flatten(2).transpose(1, 2))
    assert torch.equal(unfold(folded, x, "spacetime", 1), x)


@pytest.mark.parametrize("attend, groups", CASES)
def test_sets_are_what_attended_says(attend, groups):
    """Two positions are in one folded set exactly where the mask of one is true at the other."""
    size = (4, 2, 3)
    flat = torch.arange(24)
    sets = fold(flat.view(1, 1, *size), attend, groups)[..., 0]
    mask = attended(flat, size, size, attend, groups).flatten(1)
    together = torch.zeros(24, 24, dtype=torch.bool)
    for members in sets:
        together[members[:, None], members] = True
    assert torch.equal(mask, together)


def test_attended_on_a_pooled_grid():
    """A frame looks at the whole pooled frame."""
    mask = attended(torch.tensor([0, 13]), (4, 2, 3), (4, 1, 1), "space", 1)
    assert mask.flatten(1).tolist() == [[True, False, False, False], [False, False, True, False]]


def test_num_groups():
    """One frame a group for space; otherwise as asked."""
    assert [num_groups(*a) for a in (("space", 1, 6), ("time", 1, 6), ("spacetime", 3, 6))] == [6, 1, 3]
    with pytest.raises(ValueError, match="temporal_groups=4 does not divide the 6 frames"):
        num_groups("spacetime", 4, 6)


def test_locate_accepts_tuples_and_flat_indices():
    """In the order of memory, as any kind of integer."""
    size = (4, 2, 3)
    grid = list(itertools.product(range(4), range(2), range(3)))
    assert locate(grid, size).tolist() == list(range(24))
    mixed = [5, (1, 0, 2), [3, 1, 2], np.int64(7), np.array([0, 1, 0]), torch.tensor([0, 1, 1])]
    assert locate(mixed, size).tolist() == [5, 8, 23, 7, 3, 4]
    assert locate([(4,), 6], (7,)).tolist() == [4, 6]
    assert locate([], size).shape == (0,)


@pytest.mark.parametrize("position", [24, -1, (0, 0), (4, 0, 0), (0, 0, -1)])
def test_locate_errors(position):
    """The position and the map."""
    with pytest.raises(ValueError, match="is not in a map of 4 x 2 x 3"):
        locate([position], (4, 2, 3))


def test_video_size():
    """Missing axes have length 1."""
    assert video_size(numbered(size=(7,))) == (1, 1, 7)
    assert video_size(numbered(size=(3, 5))) == (1, 3, 5)
    assert video_size(numbered()) == (4, 2, 3)


def test_max_pool_space():
    """Time stays; so does an axis of one; odd sizes lose their last row."""
    sizes = {(4, 2, 3): (4, 1, 1), (4, 1, 3): (4, 1, 1), (5, 7): (2, 3), (1, 7): (1, 3), (9,): (4,), (1,): (1,)}
    for size, expected in sizes.items():
        assert max_pool_space(numbered(size=size)).shape[2:] == expected
    assert max_pool_space(numbered(1, 1, (2, 2, 2))).flatten().tolist() == [3.0, 7.0]


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (0, 2, 3, 4, 1), (0, 2, 1, 3, 4)])
def test_max_pool_space_is_pooling_in_any_layout(order):
    """Contiguous, channels last, and neither: the values, the gradients of ties, and the layout."""
    torch.manual_seed(0)
    back = [order.index(axis) for axis in range(5)]
    x = torch.randint(0, 3, (2, 3, 4, 6, 5)).double().permute(order).contiguous().permute(back).requires_grad_()
    results = []
    for pooled in (max_pool_space(x), torch.nn.functional.max_pool3d(x, (1, 2, 2))):
        weight = torch.arange(pooled.numel(), dtype=torch.float64).view(pooled.shape)
        results.append([pooled, *torch.autograd.grad((pooled * weight).sum(), x)])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    if order != (0, 2, 1, 3, 4):
        assert results[0][0].permute(order).is_contiguous()


@pytest.mark.parametrize("size", [(7,), (3, 5), (2, 3, 4)])
def test_convolve_is_the_convolutions(size):
    torch.manual_seed(0)
    conv = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)[len(size) - 1]
    convs, x = [conv(3, 5, 1), conv(3, 4, 1)], torch.randn(2, 3, *size)
    for rows in (True, False):
        for found, module in zip(convolve(x, convs, rows=rows), convs, strict=True):
            torch.testing.assert_close(found, module(x))


@pytest.mark.parametrize("kind", ["hook", "pre-hook", "subclass", "wrapped", "half precision", "autocast"])
def test_convolve_calls_modules_that_are_more_than_a_matrix(kind):
    class Doubled(torch.nn.Conv3d):
        def forward(self, x):
            return 2 * super().forward(x)

    x, called = torch.randn(1, 3, 2, 3, 4), []
    conv = (Doubled if kind == "subclass" else torch.nn.Conv3d)(3, 5, 1)
    if kind == "hook":
        conv.register_forward_hook(lambda *_: called.append(1))
    elif kind == "pre-hook":
        conv.register_forward_pre_hook(lambda *_: called.append(1))
    elif kind == "wrapped":
        conv = torch.nn.Sequential(conv, torch.nn.ReLU())
    elif kind == "half precision":
        conv, x = conv.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        (found,) = convolve(x, [conv], rows=True)
        assert torch.equal(found, conv(x)) and found.dtype == conv(x).dtype
    assert len(called) == (3 if "hook" in kind else 0)


@pytest.mark.parametrize("size", [(7,), (3, 5), (2, 3, 4)])
def test_project_conv_is_the_projection_of_the_convolution(size):
    """Folded or in two steps: values and the gradients of every parameter."""
    torch.manual_seed(0)
    conv = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)[len(size) - 1](3, 5, 1).double()
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    results = []
    for term in (project_conv(x, conv, weight), project_channels(conv(x), weight)):
        assert term.shape == (2, 1, *size)
        grads = torch.autograd.grad(term.square().sum(), [x, weight, conv.weight, conv.bias])
        results.append([term.detach(), *grads])
    for folded, stepwise in zip(*results, strict=True):
        torch.testing.assert_close(folded, stepwise)
