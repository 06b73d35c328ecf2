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


# PyTorch gives an unstrided convolution of at most 3x3 to its own slow kernel, and not to oneDNN's, where the batch is
# below 16 and clips x channels x frames x height are at most this. Time frame by frame / in 3D, forward and with
# backward (benchmarks/inference.md; benchmarks/frame_conv.py measures it again):
#   one clip, at most 20480: 64 x 4x56x56 0.18, 0.18; 128 x 4x28x28 0.29, 0.32; 256 x 4x14x14 0.42, 0.43
#   above: one clip of 64 x 8x56x56 1.20, 0.90; one of 64 x 4x84x84 1.11, 0.96; two of 64 x 4x56x56 0.95, 0.92
_SLOW_KERNEL_LIMIT = 20480


class Conv3d(nn.Conv3d):
    """``nn.Conv3d``, exact to rounding, that is fast for one clip on a CPU, too.

    A kernel of 1x3x3 on a small map that is channels-last runs as a 2D convolution of the frames: views, no copies.
    Kernels of one position and of several frames are better left alone. Compiled and exported graphs have the 3D one.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> (N, out_channels, T', H', W')."""
        if not self._runs_by_frames(x):
            return super().forward(x)
        frames = x.transpose(1, 2).flatten(0, 1)
        y = F.conv2d(frames, self.weight.squeeze(2), self.bias, padding=self.padding[1:], groups=self.groups)
        return y.unflatten(0, (len(x), -1)).transpose(1, 2)

    def _runs_by_frames(self, x: torch.Tensor) -> bool:
        if self.kernel_size != (1, 3, 3) or torch.compiler.is_compiling() or x.device.type != "cpu" or x.dim() != 5:
            return False
        is_plain = self.stride == self.dilation == (1, 1, 1) and self.padding[0] == 0 and self.padding_mode == "zeros"
        is_small = len(x) < 16 and x.shape[:4].numel() <= _SLOW_KERNEL_LIMIT
        is_float = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return is_plain and is_small and is_float and x.is_contiguous(memory_format=torch.channels_last_3d)


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
        return F.relu(branch + self.shortcut(x), inplace=True)


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
        return F.relu(branch + self.shortcut(x), inplace=True)
