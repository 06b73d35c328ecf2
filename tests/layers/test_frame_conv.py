"""Convolutions in 2D: where they run, the same results and gradients, compiled and exported."""

import pytest
import torch
from torch import nn

from nlvideo.layers import blocks
from nlvideo.layers.blocks import Conv3d


def make(kernel=(1, 3, 3), bias=False, **options):
    """Ours and PyTorch's, with the same weights, channels last."""
    torch.manual_seed(0)
    padding = tuple(size // 2 for size in kernel)
    ours, theirs = (kind(6, 8, kernel, padding=padding, bias=bias, **options) for kind in (Conv3d, nn.Conv3d))
    theirs.load_state_dict(ours.state_dict())
    return [conv.to(memory_format=torch.channels_last_3d) for conv in (ours, theirs)]


def clip(*size):
    """A channels-last map."""
    return torch.randn(*size).contiguous(memory_format=torch.channels_last_3d)


def roads(conv, x, monkeypatch):
    """How often the 2D convolution runs in a pass."""
    count, conv2d = [0], blocks.F.conv2d

    def counted(*args, **kwargs):
        count[0] += 1
        return conv2d(*args, **kwargs)

    monkeypatch.setattr(blocks.F, "conv2d", counted)
    conv(x)
    monkeypatch.setattr(blocks.F, "conv2d", conv2d)
    return count[0]


def test_a_batch_of_nothing_passes(threads):
    threads(1)
    ours, theirs = make((1, 1, 1))
    assert ours(clip(0, 6, 4, 9, 7)).shape == theirs(clip(0, 6, 4, 9, 7)).shape


@pytest.mark.parametrize("size", [(1, 6, 4, 9, 7), (1, 6, 1, 5, 5), (1, 6, 3, 1, 1)])
@pytest.mark.parametrize("kernel", [(1, 3, 3), (1, 1, 1), (3, 1, 1), (5, 1, 1), (1, 3, 1)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_results_gradients_and_layout_are_those_of_the_3d_convolution(size, kernel, bias, monkeypatch):
    ours, theirs = make(kernel, bias)
    x = clip(*size)
    assert roads(ours, x, monkeypatch) == 1 and roads(theirs, x, monkeypatch) == 0
    results = []
    for conv in (ours, theirs):
        own = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = conv(own)
        y.square().sum().backward()
        results.append((y, own.grad, *(parameter.grad for parameter in conv.parameters())))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-5)
    assert results[0][0].is_contiguous(memory_format=torch.channels_last_3d)


@pytest.fixture
def threads():
    """Sets the number of threads until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 1, 1)], ids=str)
def test_one_thread_takes_several_clips_in_2d_where_the_kernel_is_over_time_alone(kernel, monkeypatch, threads):
    ours, theirs = make(kernel)
    space, _ = make((1, 3, 3))
    x = clip(3, 6, 4, 9, 7)
    for count in (1, 2):
        threads(count)
        assert roads(ours, x, monkeypatch) == (count == 1) and roads(space, x, monkeypatch) == 0
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "size"),
    [((1, 3, 3), (1, 64, 4, 56, 4)), ((3, 1, 1), (1, 64, 4, 56, 4)), ((1, 1, 1), (1, 512, 8, 5, 4)),
     ((1, 3, 3), (2, 6, 4, 9, 7)), ((3, 1, 1), (15, 6, 4, 9, 7)), ((1, 1, 1), (16, 6, 4, 9, 7)),
     ((1, 3, 3), (1, 512, 8, 6, 4)), ((3, 1, 1), (1, 512, 8, 6, 4))],
    ids=str,
)  # fmt: skip
def test_the_rule_is_where_pytorch_takes_its_slow_kernel(kernel, size, count, threads):
    threads(count)
    x = clip(*size)
    ours, theirs = (kind(size[1], 4, kernel, padding=tuple(k // 2 for k in kernel)) for kind in (Conv3d, nn.Conv3d))
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        theirs(x)
    assert ours._runs_in_2d(x) == any("slow_conv3d" in event.key for event in profile.key_averages())


@pytest.mark.parametrize(
    "case",
    [
        {"kernel": (3, 3, 3)}, {"kernel": (3, 1, 3)}, {"kernel": (1, 5, 5)}, {"groups": 2},
        {"stride": (1, 2, 2)}, {"stride": (2, 1, 1)}, {"dilation": (1, 2, 2)}, {"padding_mode": "circular"},
        {"x": clip(16, 6, 2, 3, 3)}, {"x": clip(1, 6, 20, 171, 1)}, {"x": torch.randn(1, 6, 4, 9, 7)},
        {"x": clip(1, 6, 4, 9, 7).double()}, {"x": torch.randn(6, 4, 9, 7)},
    ],
    ids=lambda case: next(iter(case)),
)  # fmt: skip
def test_every_other_case_is_left_to_pytorch(case, monkeypatch):
    x = case.get("x", clip(1, 6, 4, 9, 7))
    ours, theirs = (conv.to(x.dtype) for conv in make(**{name: value for name, value in case.items() if name != "x"}))
    assert roads(ours, x, monkeypatch) == 0
    torch.testing.assert_close(ours(x), theirs(x), atol=0, rtol=0)


def test_compiled_and_exported_graphs_take_any_batch():
    ours, theirs = make()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(ours.eval(), (clip(2, 6, 4, 9, 7),), dynamic_shapes={"x": {0: batch}}).module()
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    for count in (1, 3):
        x = clip(count, 6, 4, 9, 7)
        for run in (program, compiled):
            torch.testing.assert_close(run(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_the_layers_of_our_networks_have_the_rule():
    block = blocks.Bottleneck3d(8, 4, 16, temporal_kernels=(3, 1))
    assert {type(module) for module in block.modules() if isinstance(module, nn.Conv3d)} == {Conv3d}
