"""Writing frames as a video that every player and browser shows."""

import base64
import os
from collections.abc import Iterable
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np

from nlvideo.utils.files.file_io import atomic_write


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
    atomic_write(os.fspath(path), lambda file: encode_video(file, frames, fps, crf=16))


def encode_video(file: BinaryIO, frames: Iterable[np.ndarray], fps: float, crf: int, preset: str = "medium") -> None:
    """Encode frames into an open file; arguments beside ``crf`` and ``preset``, which are x264's, as for `write_video`.

    Raises:
        av.FFmpegError, ValueError: this FFmpeg has no encoder of H.264.
    """
    with open_mp4(file) as container:
        stream = None
        for frame in frames:
            if stream is None:
                height, width = (side // 2 * 2 for side in frame.shape[:2])
                stream = add_h264(container, height, width, Fraction(fps).limit_denominator(1000), crf, preset)
            pixels = np.ascontiguousarray(frame[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def open_mp4(file: str | BinaryIO) -> av.container.OutputContainer:
    """Open an MP4 to write. On disk, the index is in front: a browser starts before it has all of the file."""
    # FFmpeg opens the file once more to move the index, which one in memory does not allow.
    on_disk = isinstance(file, str) or hasattr(file, "name")
    return av.open(file, "w", format="mp4", options={"movflags": "faststart"} if on_disk else {})


def add_h264(
    container: av.container.OutputContainer, height: int, width: int, rate: Fraction, crf: int, preset: str
) -> av.VideoStream:
    """Add the one stream that every player and browser shows: H.264 in yuv420p.

    Args:
        container: from `open_mp4`.
        height: of the frames, pixels, even.
        width: likewise.
        rate: frames per second.
        crf: constant rate factor of x264, 0 (lossless) to 51.
        preset: speed of x264.
    """
    stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": preset})
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    return stream


def data_uri(kind: str, content: bytes) -> str:
    """A file as an address that holds it, for pages that need nothing beside them; ``kind`` as in ``image/png``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
