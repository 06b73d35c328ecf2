"""Residual blocks: shapes, where strides and temporal kernels sit, how the weights start."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nlvideo.layers import blocks
from nlvideo.layers.blocks import BasicBlock3d, Bottleneck3d, conv3d

BLOCKS = [BasicBlock3d, Bottleneck3d]


def test_conv_is_unbiased_and_starts_like_he_fan_out() -> None:
    torch.manual_seed(0)
    conv = conv3d(64, 128, (3, 1, 1))
    assert conv.bias is None
    assert conv.padding == (1, 0, 0)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 3)), rel=0.02)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernels", [(1, 1), (3, 1), (1, 3)])
def test_a_block_strides_space_and_keeps_time(block: type, stride: int, kernels: tuple[int, int]) -> None:
    module = block(8, 4, 16, stride=stride, temporal_kernels=kernels)
    out = module(torch.randn(2, 8, 5, 7, 9))
    assert out.shape == (2, 16, 5, math.ceil(7 / stride), math.ceil(9 / stride))


@pytest.mark.parametrize("block", BLOCKS)
def test_temporal_kernels_widen_the_first_two_convolutions(block: type) -> None:
    module = block(8, 4, 16, temporal_kernels=(3, 5))
    assert [module.conv1.kernel_size[0], module.conv2.kernel_size[0]] == [3, 5]
    assert [module.conv1.padding[0], module.conv2.padding[0]] == [1, 2]


def test_the_stride_of_a_bottleneck_sits_in_the_3x3_or_in_the_1x1() -> None:
    in_3x3 = Bottleneck3d(8, 4, 16, stride=2)
    in_1x1 = Bottleneck3d(8, 4, 16, stride=2, stride_in_1x1=True)
    assert (in_3x3.conv1.stride, in_3x3.conv2.stride) == ((1, 1, 1), (1, 2, 2))
    assert (in_1x1.conv1.stride, in_1x1.conv2.stride) == ((1, 2, 2), (1, 1, 1))
    assert in_3x3.conv2.kernel_size == in_1x1.conv2.kernel_size == (1, 3, 3)


@pytest.mark.parametrize("block", BLOCKS)
def test_only_a_change_of_shape_projects_the_shortcut(block: type) -> None:
    assert isinstance(block(16, 4, 16).shortcut, nn.Identity)
    assert block(8, 4, 16).shortcut.conv.weight.shape == (16, 8, 1, 1, 1)
    strided = block(16, 4, 16, stride=2)
    assert strided.shortcut.conv.stride == (1, 2, 2)
    assert isinstance(strided.shortcut.bn, nn.BatchNorm3d)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_zero_initialised_block_is_its_shortcut(block: type) -> None:
    x = torch.rand(2, 16, 3, 6, 6)
    assert torch.equal(block(16, 4, 16, zero_init=True)(x), x)
    assert not torch.equal(block(16, 4, 16, zero_init=False)(x), x)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("norm", ["FrozenBN", "none"])
def test_zero_init_never_cuts_off_a_branch_that_could_not_recover(block: type, norm: str) -> None:
    x = torch.rand(1, 16, 2, 4, 4)
    assert not torch.equal(block(16, 4, 16, norm=norm, zero_init=True)(x), x)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_block_is_the_sum_of_branch_and_shortcut(block: type) -> None:
    module = block(8, 4, 16, stride=2, zero_init=False).eval()
    x = torch.randn(1, 8, 3, 6, 6)
    y = torch.relu(module.bn1(module.conv1(x)))
    y = module.bn2(module.conv2(y))
    if block is Bottleneck3d:
        y = module.bn3(module.conv3(torch.relu(y)))
    shortcut = module.shortcut.bn(module.shortcut.conv(x))
    assert torch.allclose(module(x), torch.relu(y + shortcut))


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "FrozenBN", "none"])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("in_channels", [16, 8])
def test_writing_in_place_changes_nothing(block: type, norm: str, in_channels: int, monkeypatch) -> None:
    torch.manual_seed(0)
    module = block(in_channels, 4, 16, temporal_kernels=(3, 1), norm=norm, zero_init=False).double()
    x = torch.randn(2, in_channels, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    before, results = x.detach().clone(), []
    for relu in (F.relu, lambda u, inplace: torch.relu(u)):
        monkeypatch.setattr(blocks.F, "relu", relu)
        out = module(x)
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *module.parameters()])])
    assert torch.equal(x, before)
    assert all(torch.equal(ours, plain) for ours, plain in zip(*results))
