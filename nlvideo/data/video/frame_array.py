"""``FrameArray``: a video that is in memory already, with the interface of ``VideoReader``."""

from collections.abc import Sequence

import numpy as np

from nlvideo.data.video.constant_rate import ConstantRate
from nlvideo.data.video.video_reader import rows_by_index
from nlvideo.utils.closing import Closing


class FrameArray(ConstantRate, Closing):
    """The frames of an array by their index.

    Args:
        frames: uint8 (T, H, W, 3), RGB; kept, not copied.
        fps: frames per second; an array carries none. None: seconds cannot be turned into frames.
        path: what messages call it.

    Attributes:
        num_frames, fps: see ``ConstantRate``.
        height, width: pixels.
        frame_bytes: of a frame.
        rotation: 0; what is in memory is upright.

    Raises:
        ValueError: another type or shape, or no frames.
    """

    rotation = 0
    _frames_are = "arrays"

    def __init__(self, frames: np.ndarray, fps: float | None = None, path: str = "<frames>"):
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
            given = f"{frames.dtype} {tuple(frames.shape)}"
            raise ValueError(f"frames: got {given}, allowed: uint8 (T, H, W, 3), RGB, with a frame at least")
        self._frames = frames
        self.path = path
        self.fps = float(fps or 0)
        self.num_frames, self.height, self.width = frames.shape[:3]
        self.frame_bytes = 3 * self.height * self.width

    def get_frames(self, indices: Sequence[int]) -> np.ndarray:
        """Return frames by index, in the order given; an index may occur several times.

        Args:
            indices: of the frames.

        Returns:
            uint8 (T, H, W, 3), RGB, a copy.

        Raises:
            IndexError: an index is outside ``[0, num_frames)``.
        """
        rows_by_index(self.path, indices, self.num_frames)
        return self._frames[np.asarray(indices)]

    def check(self) -> None:
        """Do nothing: there is nothing to decode."""
