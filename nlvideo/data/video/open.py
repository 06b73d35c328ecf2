"""``open_video``: one call for every kind of video, and the readers of files by name."""

import os

import numpy as np

from nlvideo.config.validate import ALLOWED
from nlvideo.data.video.base import Video
from nlvideo.data.video.frames import FrameArray, FrameFolder
from nlvideo.data.video.paths import local_video_path
from nlvideo.data.video.pixels import DEFAULT_LIMITS, PixelLimits
from nlvideo.data.video.torchcodec_reader import TorchCodecReader
from nlvideo.data.video.video_reader import DEFAULT_TIMEOUT_SEC, VideoReader
from nlvideo.errors import VideoDecodeError
from nlvideo.utils.messages import one_of

#: What can read files, by the names that DATALOADER.READER may have.
READERS = dict(zip(ALLOWED["DATALOADER.READER"], (VideoReader, TorchCodecReader), strict=True))


def open_video(
    path: str | os.PathLike | np.ndarray | Video,
    fps: float | None = None,
    *,
    reader: str = "pyav",
    timeout_sec: float = DEFAULT_TIMEOUT_SEC,
    index_dir: str | os.PathLike | None = None,
    pixels: PixelLimits = DEFAULT_LIMITS,
) -> Video:
    """Open a video file, a folder of frames, or frames in memory; all are read alike.

    Args:
        path: a file or a folder (a remote file is fetched by its path handler); uint8 (T, H, W, 3), RGB; or a video
            that is open already, such as a window of a stream, which is returned.
        fps: frames per second of a folder or an array; the others know their own.
        reader: of files, a name in ``READERS``.
        timeout_sec, index_dir: of files, see ``VideoReader``.
        pixels: how large frames may be, of files and folders.

    Raises:
        ValueError: an unknown reader, or an array that is not frames.
        ImportError: torchcodec is asked for and missing.
        VideoDecodeError: the video cannot be read, see ``Video``.
    """
    if isinstance(path, np.ndarray):
        return FrameArray(path, fps)
    if isinstance(path, Video):
        return path
    if reader not in READERS:
        raise one_of("reader", reader, READERS)
    path = os.fspath(path)
    try:
        local = local_video_path(path)
    except OSError as error:
        raise VideoDecodeError(path, f"not fetched: {error}") from None
    if os.path.isdir(local):
        return FrameFolder(local, fps, pixels)
    return READERS[reader](local, timeout_sec, index_dir, pixels)
