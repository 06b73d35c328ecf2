"""Frames of a video at the size a network wants, however large the video is."""

from collections.abc import Sequence

import torch

from nlvideo.data.transforms.augmentation import resize_short_side, resized_size
from nlvideo.data.video.base import Video
from nlvideo.data.video.pixels import DEFAULT_LIMITS, PixelLimits
from nlvideo.errors import VideoDecodeError

# Frames in their own size that are held at a time: a thousand of 340 x 256 pixels, ten of 4K, two of 8K.
MAX_HELD_BYTES = 256 * 2**20


def read_resized(
    video: Video,
    indices: Sequence[int],
    short_side: int,
    pixels: PixelLimits = DEFAULT_LIMITS,
) -> torch.Tensor:
    """Read frames and resize each by ``resize_short_side``; many or large frames are read in parts, to save memory.

    Args:
        video: from ``open_video``.
        indices: of the frames.
        short_side: pixels.
        pixels: how large all frames together may be, resized.

    Returns:
        uint8 (T, H, W, 3), RGB.

    Raises:
        VideoDecodeError: a frame cannot be decoded, the size changes, or the frames are too large.
    """
    held = max(1, MAX_HELD_BYTES // max(1, video.frame_bytes))
    parts: list[torch.Tensor] = []
    for first in range(0, len(indices), held):
        frames = torch.from_numpy(video.get_frames(indices[first : first + held]))
        height, width = frames.shape[1:3]
        pixels.check_clip(video.path, len(indices), *resized_size(height, width, short_side))
        parts.append(resize_short_side(frames, short_side))
        if parts[-1].shape[1:] != parts[0].shape[1:]:
            sizes = f"from {tuple(parts[0].shape[1:3])} to {tuple(parts[-1].shape[1:3])}, resized"
            raise VideoDecodeError(video.path, f"the frame size changes {sizes}")
    return parts[0] if len(parts) == 1 else torch.cat(parts)
