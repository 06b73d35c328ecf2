"""What an upload may be, and what is said about one that is not."""

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from nlvideo.data import VideoDecodeError, VideoReader
from nlvideo.data.video.pixels import PixelLimits
from nlvideo.utils.console import format_seconds

# Demuxers of real containers. FFmpeg also opens images, subtitles, text and playlists. A playlist would make it read
# other files of this machine and addresses on the net.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg,gif"
KNOWN_AS = "MP4, MOV, MKV, WebM, AVI, MPEG, FLV, WMV, OGG or GIF"
# No camera is faster: a file with more frames in a second is made to keep a decoder busy.
_MAX_FPS = 1000


@dataclass(frozen=True)
class Limits:
    """The largest upload that the page takes.

    Attributes:
        max_megabytes: size of the file, in 2**20 bytes, as browsers and Gradio count.
        max_seconds: length of the video.
        max_frame_pixels: of a frame. Default: 4096 x 2304, which holds every kind of 4K.
        max_pixels: of all frames together, which is how long a video takes. Default: 2 minutes of 1920 x 1080 at 30
            frames a second, and 30 seconds of 4K.

    Raises:
        ValueError: a limit is not above 0.
    """

    max_megabytes: float = 100.0
    max_seconds: float = 120.0
    max_frame_pixels: int = 4096 * 2304
    max_pixels: int = 120 * 30 * 1920 * 1080

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, allowed: above 0")

    @property
    def max_bytes(self) -> int:
        """``max_megabytes`` in bytes."""
        return int(self.max_megabytes * 2**20)


@dataclass(frozen=True, eq=False)
class VideoFacts:
    """What the page says about a video.

    Attributes:
        name: of the file.
        seconds: how long it is; 0 where that is not known.
        frame_seconds: when each frame is shown: float64 (num_frames,).
        height: pixels.
        width: pixels.
    """

    name: str
    seconds: float
    frame_seconds: np.ndarray
    height: int
    width: int

    @property
    def num_frames(self) -> int:
        """Frames in the file."""
        return len(self.frame_seconds)


def check_upload(path: str | os.PathLike, limits: Limits) -> VideoFacts:
    """Return the facts of a video within the limits; one frame of it is decoded.

    Raises:
        ValueError: it is too large or too long, or not a video; the message is for the visitor who uploaded it.
    """
    name, size = Path(path).name, os.path.getsize(path)
    if size == 0:
        raise ValueError(f"{name}: the file is empty")
    if size > limits.max_bytes:
        raise ValueError(f"{name}: {size / 2**20:.3g} MB, allowed: up to {limits.max_megabytes:g} MB")
    _check_header(name, path, limits)
    try:
        with VideoReader(path, pixels=PixelLimits(limits.max_frame_pixels)) as video:
            # A header may say anything, so the frames are counted.
            seconds = video.duration_sec
            _check_length(name, max(seconds, video.num_frames / _MAX_FPS), limits)
            _check_pixels(name, video.num_frames, video.height, video.width, limits)
            return VideoFacts(name, seconds, video.frame_seconds, video.height, video.width)
    except VideoDecodeError as error:
        raise ValueError(f"{name} cannot be read: {error.reason}") from error


def _check_header(name: str, path: str | os.PathLike, limits: Limits) -> None:
    """Check what the header says, before anything of the video is decoded."""
    try:
        with av.open(os.fspath(path), metadata_errors="replace", options={"format_whitelist": CONTAINERS}) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise ValueError(f"{name} has no picture: it is not a video")
            _check_pixels(name, 1, stream.height, stream.width, limits)
            if container.duration:
                _check_length(name, float(Fraction(container.duration, av.time_base)), limits)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{name} is not a video that can be read here: expected {KNOWN_AS}") from error


def _check_pixels(name: str, num_frames: int, height: int, width: int, limits: Limits) -> None:
    size, area = f"of {width} x {height}", height * width
    if area > limits.max_frame_pixels:
        allowed = f"{limits.max_frame_pixels / 1e6:.3g} million pixels"
        raise ValueError(f"{name}: frames {size}, allowed: up to {allowed}; make it smaller and try again")
    most = limits.max_pixels // area
    if num_frames > most:
        raise ValueError(
            f"{name}: {num_frames} frames {size}, allowed: up to {most} of this size; make it smaller or shorter"
        )


def _check_length(name: str, seconds: float, limits: Limits) -> None:
    if seconds > limits.max_seconds:
        raise ValueError(f"{name}: {format_seconds(seconds)} long, allowed: up to {format_seconds(limits.max_seconds)}")
