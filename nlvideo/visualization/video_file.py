"""Writing frames as a video that every player and browser shows."""

import os
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np

from nlvideo.utils.file_io import atomic_write


def write_video(path: str | os.PathLike, frames: np.ndarray, fps: float) -> None:
    """Write an MP4 with H.264 in yuv420p, whole or not at all.

    Args:
        path: the file, which is replaced; its folder must exist.
        frames: uint8 (T, H, W, 3), RGB. An odd height or width loses its last row or column, as yuv420p halves them.
        fps: frames per second.

    Raises:
        ValueError: no frames, frames of another shape or type, or ``fps`` not above 0.
        OSError: the folder is missing or full.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or min(frames.shape[:3]) < 1:
        raise ValueError(f"frames: got {frames.dtype} {frames.shape}, allowed: uint8 (T, H, W, 3)")
    if frames.shape[1] < 2 or frames.shape[2] < 2:
        raise ValueError(f"frames: got {frames.shape[1]}x{frames.shape[2]} pixels, allowed: 2x2 or more")
    if fps <= 0:
        raise ValueError(f"fps: got {fps}, allowed: above 0")
    atomic_write(os.fspath(path), lambda file: _encode(file, frames, fps))


def _encode(file: BinaryIO, frames: np.ndarray, fps: float) -> None:
    height, width = (side // 2 * 2 for side in frames.shape[1:3])
    # The index in front of the frames: a browser starts before it has all of the file.
    with av.open(file, "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            pixels = np.ascontiguousarray(frame[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
