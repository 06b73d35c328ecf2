"""Decoded frames as RGB, turned and mirrored as the metadata of the video says."""

import math
import struct
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter


class Orientation(NamedTuple):
    """How stored frames become upright ones.

    Attributes:
        rotation: counter-clockwise degrees by which they are turned: 0, 90, 180 or 270.
        mirrored: left and right change places after that.
    """

    rotation: int = 0
    mirrored: bool = False

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return an image (H, W, 3) upright, as a view."""
        image = np.rot90(image, self.rotation // 90) if self.rotation else image
        return image[:, ::-1] if self.mirrored else image


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """Return the orientation that the display matrix of a frame asks for, to the nearest quarter of a turn."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Orientation()
    # Rows of three numbers. A stored point (x, y), y downwards, is shown at (a x + c y, b x + d y).
    a, b, _, c, d = struct.unpack("5i", bytes(data)[:20])
    mirrored = a * d - b * c < 0
    turned = -math.degrees(math.atan2(b, -a if mirrored else a))
    return Orientation(round(turned / 90) % 4 * 90, mirrored)


class RgbConverter:
    """Converts frames to RGB, with one scaler for all: a frame's own conversion sets up one, and its threads, every time."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Return the pixels of a decoded frame upright: uint8 (H, W, 3), a view."""
        orientation = orientation_of(frame)
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        lines = np.frombuffer(rgb.planes[0], np.uint8).reshape(-1, rgb.planes[0].line_size)
        return orientation.apply(lines[: rgb.height, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3))
