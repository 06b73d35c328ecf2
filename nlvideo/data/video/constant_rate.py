"""``ConstantRate``: when the frames of a video are shown that has no timestamps of its own."""

import math

import numpy as np

from nlvideo.errors import VideoDecodeError


class ConstantRate:
    """The times of ``VideoReader`` for frames that follow each other at one rate; a base class.

    Attributes:
        path: what messages call the video.
        num_frames: frames.
        fps: frames per second; 0.0 where unknown.
    """

    path: str
    num_frames: int
    fps: float
    # What the frames are, for the message.
    _frames_are = "images"

    def index_at(self, seconds: float) -> int:
        """Return the index of the first frame shown at or after ``seconds`` from the start of the video.

        Past the end it is ``num_frames``.

        Raises:
            VideoDecodeError: the frame rate is not known.
        """
        if self.fps <= 0:
            carry = f"{self._frames_are} carry none: add 'fps'"
            raise VideoDecodeError(self.path, f"seconds need the frame rate, and {carry}")
        # Seconds are rounded to some decimals: what is within a millionth of a frame is that frame.
        return min(self.num_frames, max(0, math.ceil(seconds * self.fps - 1e-6)))

    @property
    def frame_seconds(self) -> np.ndarray:
        """When each frame is shown, from the start: float64 (num_frames,), seconds; all zero where ``fps`` is unknown."""
        return np.arange(self.num_frames) / (self.fps or np.inf)

    @property
    def duration_sec(self) -> float:
        """How long all frames are shown, seconds; 0.0 where unknown."""
        return self.num_frames / self.fps if self.fps > 0 else 0.0
