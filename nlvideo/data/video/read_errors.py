"""Errors of PyAV and the system, said as VideoDecodeError."""

import os

import av

from nlvideo.errors import VideoDecodeError
from nlvideo.utils.files.file_kind import kind_of_file

#: What reading a video may raise: PyAV has ValueError and others of Python's for values that it cannot make sense of.
READ_ERRORS = (av.FFmpegError, OSError, ValueError, LookupError, ArithmeticError, MemoryError)


def unreadable(path: str, error: BaseException) -> VideoDecodeError:
    """Return the error for a video that FFmpeg, or the system, cannot read; it says what the file is instead of one.

    Args:
        path: the video.
        error: what was raised.
    """
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return VideoDecodeError(path, "the file is empty")
    kind = kind_of_file(path)
    return VideoDecodeError(path, f"{reason}; the file holds {kind}" if kind else reason)
