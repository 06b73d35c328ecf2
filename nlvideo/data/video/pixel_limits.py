"""``PixelLimits``: how large frames and clips may be, so that one giant video does not take all memory."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import av

from nlvideo.errors import VideoDecodeError

# Pixels around a frame of any size, at most.
_MARGINS = 2**16


@dataclass(frozen=True)
class PixelLimits:
    """The most pixels that are held at once; what is larger counts as a video that cannot be read.

    Attributes:
        frame: of one frame. It is checked before the frame is decoded. Default: 8192 x 8192, above 8K.
        clip: of all frames of a clip together, decoded or resized. Default: no limit, as a caller without a config
            says how many frames it wants.
    """

    frame: int = 2**26
    clip: float = math.inf

    def check_frame(self, path: str, height: int, width: int) -> None:
        """Check the size of one frame.

        Raises:
            VideoDecodeError: it is larger than ``frame``.
        """
        if height * width > self.frame:
            size = f"frames of {height}x{width} pixels"
            raise VideoDecodeError(
                path, f"{size}, allowed: {self.frame:,} pixels a frame (DATALOADER.MAX_FRAME_PIXELS)"
            )

    def check_clip(self, path: str, num_frames: int, height: int, width: int) -> None:
        """Check the size of all frames of a clip.

        Raises:
            VideoDecodeError: they are larger than ``clip`` together.
        """
        if num_frames * height * width > self.clip:
            size = f"{num_frames} frames of {height}x{width} pixels"
            raise VideoDecodeError(path, f"{size}, allowed: {self.clip:,} pixels a clip (DATALOADER.MAX_CLIP_PIXELS)")

    def apply(self, path: str, codec: av.VideoCodecContext) -> None:
        """Make a decoder that is not open yet refuse larger frames, also where the size changes within the stream.

        Raises:
            VideoDecodeError: the header says already that they are larger.
        """
        self.check_frame(path, codec.height, codec.width)
        # FFmpeg counts the margins that it decodes into as well.
        codec.options = codec.options | {"max_pixels": str(2 * self.frame + _MARGINS)}

    @contextlib.contextmanager
    def explained(self, path: str, codec: av.VideoCodecContext) -> Iterator[None]:
        """Say what it was where a decoder refuses a frame because of its size.

        Raises:
            VideoDecodeError: it was that.
        """
        try:
            yield
        except av.FFmpegError as error:
            # FFmpeg forgets the size where it refuses one.
            if codec.width:
                raise
            reason = f"a frame of no size, or of more than {self.frame:,} pixels (DATALOADER.MAX_FRAME_PIXELS)"
            raise VideoDecodeError(path, reason) from error
