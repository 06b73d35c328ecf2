"""Pixels of videos: how large frames and clips may be, and decoded frames as upright RGB."""

import contextlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from nlvideo.errors import VideoDecodeError

# FFmpeg decodes into frames with margins. They have at most this many pixels.
_MARGINS = 2**16


@dataclass(frozen=True)
class PixelLimits:
    """The most pixels that are held at once, so that one giant video does not take all memory.

    A larger video counts as one that cannot be read.
    """

    #: of one frame; checked before the frame is decoded. Default: 8192 x 8192, above 8K.
    frame: int = 2**26
    #: of all frames of a clip together, decoded or resized. Default: no limit, as a caller without a config says how
    #: many frames it wants.
    clip: float = math.inf

    def check_frame(self, path: str, height: int, width: int) -> None:
        """Raise ``VideoDecodeError`` where a frame is larger than ``frame``."""
        if height * width > self.frame:
            size, most = f"frames of {height}x{width} pixels", f"{self.frame:,} pixels a frame"
            raise VideoDecodeError(path, f"{size}, allowed: {most} (DATALOADER.MAX_FRAME_PIXELS)")

    def check_clip(self, path: str, num_frames: int, height: int, width: int) -> None:
        """Raise ``VideoDecodeError`` where the frames of a clip are larger than ``clip`` together."""
        if num_frames * height * width > self.clip:
            size = f"{num_frames} frames of {height}x{width} pixels"
            raise VideoDecodeError(path, f"{size}, allowed: {self.clip:,} pixels a clip (DATALOADER.MAX_CLIP_PIXELS)")

    def apply(self, path: str, codec: av.VideoCodecContext) -> None:
        """Make a decoder that is not open yet refuse larger frames, also where the size changes within the stream.

        ``VideoDecodeError``: the header already says that they are larger.
        """
        self.check_frame(path, codec.height, codec.width)
        codec.options = codec.options | {"max_pixels": str(2 * self.frame + _MARGINS)}

    @contextlib.contextmanager
    def explained(self, path: str, codec: av.VideoCodecContext) -> Iterator[None]:
        """Raise ``VideoDecodeError``, which names the limit, where a decoder refuses a frame because of its size."""
        try:
            yield
        except av.FFmpegError as error:
            # FFmpeg forgets the size where it refuses one.
            if codec.width:
                raise
            reason = f"a frame of no size, or of more than {self.frame:,} pixels (DATALOADER.MAX_FRAME_PIXELS)"
            raise VideoDecodeError(path, reason) from error


#: The limits of a caller that names none.
DEFAULT_LIMITS = PixelLimits()


class Geometry(NamedTuple):
    """The size of upright frames, and how stored frames become upright."""

    height: int  #: of the upright frames, pixels
    width: int  #: of the upright frames, pixels
    rotation: int = 0  #: counter-clockwise degrees by which stored frames are turned: 0, 90, 180 or 270
    mirrored: bool = False  #: whether left and right change places after that

    def upright(self, image: np.ndarray) -> np.ndarray:
        """Return a stored image (H, W, 3) upright, as a view."""
        image = np.rot90(image, self.rotation // 90) if self.rotation else image
        return image[:, ::-1] if self.mirrored else image


def geometry_of(frame: av.VideoFrame) -> Geometry:
    """Return the geometry that the display matrix of a frame asks for, to the nearest quarter of a turn."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Geometry(frame.height, frame.width)
    # Rows of three numbers. A stored point (x, y), y downwards, is shown at (a x + c y, b x + d y).
    a, b, _, c, d = struct.unpack("5i", bytes(data)[:20])  # type: ignore[call-overload]  # PyAV gives bytes here
    mirrored = a * d - b * c < 0
    rotation = round(-math.degrees(math.atan2(b, -a if mirrored else a)) / 90) % 4 * 90
    height, width = (frame.width, frame.height) if rotation % 180 else (frame.height, frame.width)
    return Geometry(height, width, rotation, mirrored)


class RgbConverter:
    """Converts frames to RGB with one scaler for all. A frame's own method sets up a scaler and threads each time."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Return the upright pixels of a decoded frame: uint8 (H, W, 3), a view."""
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        plane = rgb.planes[0]
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        return geometry_of(frame).upright(lines[: rgb.height, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3))
