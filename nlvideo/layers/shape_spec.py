"""What one part of a network tells the next about the feature map it hands over."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ShapeSpec:
    """Channels of a feature map and how much smaller than the input clip it is.

    Args:
        channels: channels of the map.
        stride: input pixels per position, along height and width.
        temporal_stride: input frames per position.
    """

    channels: int
    stride: int = 1
    temporal_stride: int = 1
