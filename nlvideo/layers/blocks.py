"""The shape of a map, and the residual blocks of 3D ResNets with optional temporal kernels (Sec. 4, Table 1)."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from nlvideo.layers.norm import get_norm, start_at_zero

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class ShapeSpec:
    """What one part of a network tells the next about its feature map.

    Args:
        channels: channels of the map.
        stride: input pixels per position, along height and width.
        temporal_stride: input frames per position.
    """

    channels: int
    stride: int = 1
    temporal_stride: int = 1


# Beside oneDNN's kernel, PyTorch has a slow one. It takes it for one clip with stride 1 and a kernel of at most 3x3, if
# channels x frames x height are at most this. On one thread it also takes it for kernels of height and width 1, if
# there are fewer than 16 clips. Time in 2D / in 3D, forward (benchmarks/frame_conv.py measures it again):
#   two threads: 1x3x3 0.2 to 0.4, 3x1x1 0.2 to 0.4, 1x1x1 0.4 to 0.6. Where the rule does not hold, 1.0.
#   one thread: 1x3x3 0.2 to 0.5, 3x1x1 0.2 to 0.5, 1x1x1 0.4 to 1.1.
_SLOW_KERNEL_LIMIT = 20480


class Conv3d(nn.Conv3d):
    """``nn.Conv3d``, exact to rounding, that is fast for one clip on a CPU, too.

    Where PyTorch would take a slow kernel for a map that is channels-last, a convolution that is over time alone or
    over space alone runs in 2D: views, no copies. Compiled and exported graphs have the 3D one.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> (N, out_channels, T', H', W')."""
        if not self._runs_in_2d(x):
            return super().forward(x)
        if self.kernel_size[0] == 1:  # over (N x T, C, H, W)
            y = F.conv2d(x.transpose(1, 2).flatten(0, 1), self.weight.squeeze(2), self.bias, padding=self.padding[1:])
            return y.unflatten(0, (len(x), -1)).transpose(1, 2)
        # over (N, C, T, H x W)
        y = F.conv2d(x.flatten(3), self.weight.flatten(3), self.bias, padding=(int(self.padding[0]), 0))
        return y.unflatten(3, x.shape[3:])

    def _runs_in_2d(self, x: torch.Tensor) -> bool:
        if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dim() != 5:
            return False
        is_over_time = self.kernel_size[1:] == (1, 1) and self.padding[1:] == (0, 0)
        is_over_space = self.kernel_size[0] == 1 and self.padding[0] == 0
        is_plain = self.stride == self.dilation == (1, 1, 1) and self.groups == 1 and self.padding_mode == "zeros"
        is_one = len(x) == 1 and max(self.kernel_size[1:]) <= 3 and x.shape[:4].numel() <= _SLOW_KERNEL_LIMIT
        is_few = 0 < len(x) < 16 and is_over_time and torch.get_num_threads() == 1
        is_float = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        is_fit = is_plain and is_float and (is_over_time or is_over_space) and (is_one or is_few)
        return is_fit and x.is_contiguous(memory_format=torch.channels_last_3d)


def conv3d(in_channels: int, out_channels: int, kernel_size: Triple, stride: Triple = (1, 1, 1)) -> nn.Conv3d:
    """A bias-free convolution that keeps the size of its input at stride 1.

    The weights start as in He et al. (2015) with fan_out, like the authors' code (MSRAFill).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd lengths over (frames, height, width).
        stride: steps over (frames, height, width).
    """
    frames, height, width = kernel_size
    padding = (frames // 2, height // 2, width // 2)
    conv = Conv3d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _shortcut(in_channels: int, out_channels: int, stride: int, norm: str | None) -> nn.Module:
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    conv = conv3d(in_channels, out_channels, (1, 1, 1), (1, stride, stride))
    return nn.Sequential(OrderedDict(conv=conv, bn=get_norm(norm, out_channels)))


class BasicBlock3d(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-10 and -18).

    A temporal kernel goes into the first convolution, which then is 3x3x3.

    Args:
        in_channels: channels of the input.
        inner_channels: channels between the convolutions.
        out_channels: channels of the output.
        stride: spatial stride of the block; time is never strided.
        temporal_kernels: frames that the first two convolutions span.
        norm: a name that `get_norm` knows.
        zero_init: start the last norm with zero weight: the block is its shortcut (authors' BN_INIT_GAMMA 0).
    """

    norm_after: ClassVar = {"conv1": "bn1", "conv2": "bn2"}

    def __init__(
        self,
        in_channels: int,
        inner_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        temporal_kernels: tuple[int, int] = (1, 1),
        norm: str | None = "BN",
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        time1, time2 = temporal_kernels
        self.conv1 = conv3d(in_channels, inner_channels, (time1, 3, 3), (1, stride, stride))
        self.bn1 = get_norm(norm, inner_channels)
        self.conv2 = conv3d(inner_channels, out_channels, (time2, 3, 3))
        self.bn2 = get_norm(norm, out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        if zero_init:
            start_at_zero(self.bn2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> (N, out_channels, T, ceil(H / stride), ceil(W / stride))."""
        branch = F.relu(self.bn1(self.conv1(x)), inplace=True)
        branch = self.bn2(self.conv2(branch))
        branch += self.shortcut(x)
        return F.relu(branch, inplace=True)


class Bottleneck3d(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (ResNet-50 and deeper).

    A temporal kernel goes into the first 1x1 (3x1x1) or into the 3x3 (3x3x3). The arguments are those of
    `BasicBlock3d`, and one more.

    Args:
        stride_in_1x1: put the stride into the first 1x1 (MSRA's weights) and not into the 3x3 (authors' code).
    """

    norm_after: ClassVar = {"conv1": "bn1", "conv2": "bn2", "conv3": "bn3"}

    def __init__(
        self,
        in_channels: int,
        inner_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        temporal_kernels: tuple[int, int] = (1, 1),
        stride_in_1x1: bool = False,
        norm: str | None = "BN",
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        time1, time2 = temporal_kernels
        stride1, stride2 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = conv3d(in_channels, inner_channels, (time1, 1, 1), (1, stride1, stride1))
        self.bn1 = get_norm(norm, inner_channels)
        self.conv2 = conv3d(inner_channels, inner_channels, (time2, 3, 3), (1, stride2, stride2))
        self.bn2 = get_norm(norm, inner_channels)
        self.conv3 = conv3d(inner_channels, out_channels, (1, 1, 1))
        self.bn3 = get_norm(norm, out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        if zero_init:
            start_at_zero(self.bn3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> (N, out_channels, T, ceil(H / stride), ceil(W / stride))."""
        branch = F.relu(self.bn1(self.conv1(x)), inplace=True)
        branch = F.relu(self.bn2(self.conv2(branch)), inplace=True)
        branch = self.bn3(self.conv3(branch))
        branch += self.shortcut(x)
        return F.relu(branch, inplace=True)
