"""Small copies of videos to look at inside the page: an MP4 that plays, and a strip of frames for paper."""

import io
import os
import time
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
from PIL import Image

from nlvideo.data import open_video
from nlvideo.model_zoo import Predictor
from nlvideo.visualization import grad_cam, heated_frames, load_view
from nlvideo.visualization.video_file import data_uri, encode_video

# Enough to see what happens: the short side in pixels, and frames at most.
SHORT_SIDE, MAX_FRAMES = 128, 48
_STRIP_FRAMES, _STRIP_SIDE = 4, 72
_LONG_SIDE = 1024
# Frames per second where a folder of frames does not say, and the least at which a viewer sees movement.
_DEFAULT_FPS, _MIN_FPS = 10.0, 6.0


@dataclass
class Budget:
    """What the clips of a page may take; each clip subtracts its bytes."""

    num_bytes: int = 4_000_000  #: of the files, before base64 makes them a third larger
    seconds: float = 20.0  #: of work, from the first clip on
    _started: float | None = field(default=None, repr=False)

    def is_spent(self) -> bool:
        """Return whether nothing is left; starts the clock."""
        now = time.monotonic()
        self._started = now if self._started is None else self._started
        return self.num_bytes <= 0 or now - self._started > self.seconds


@dataclass(frozen=True)
class Clip:
    """A video as ``data:`` URIs."""

    video: str  #: H.264 in MP4; empty where this machine cannot encode it
    strip: str  #: frames from first to last beside each other, JPEG
    width: int  #: of the video, pixels
    height: int
    speed: float | None  #: 1.0 in real time, more for a time lapse; None where the rate is unknown


def make_clip(source: dict[str, Any], budget: Budget) -> Clip | None:
    """Decode a video, shrink it and encode it again; None where it does not fit into what is left of the budget.

    Up to MAX_FRAMES frames are shown, evenly spread. The source has "file_name", and "start_sec", "end_sec" and "fps"
    as in a dataset's record.

    Raises:
        VideoDecodeError: the video cannot be read any more.
    """
    with open_video(os.fspath(source["file_name"]), source.get("fps")) as video:
        first = video.index_at(source["start_sec"]) if "start_sec" in source else 0
        end = video.index_at(source["end_sec"]) if "end_sec" in source else video.num_frames
        first = min(first, video.num_frames - 1)
        end = max(end, first + 1)
        count = min(MAX_FRAMES, end - first)
        indices = [first + i * (end - first) // count for i in range(count)]
        # One at a time: 48 frames of 8K would take 5 GB.
        images = [_shrink(Image.fromarray(video.get_frames([index])[0]), SHORT_SIDE) for index in indices]
        return _encoded(images, (end - first) / video.fps if video.fps else 0.0, budget)


def make_heat(predictor: Predictor, source: dict[str, Any], predicted: int, budget: Budget) -> Clip | None:
    """The clip in the middle of a video as the network sees it, with what speaks for a class as heat (Grad-CAM).

    The class is a number. For the rest see `make_clip`.

    Raises:
        VideoDecodeError, ValueError, LookupError: as `load_view` and `grad_cam`.
    """
    view = load_view(predictor.cfg, source["file_name"], source.get("start_sec"), source.get("end_sec"))
    heated = heated_frames(grad_cam(predictor.model, view.video, predicted), 0)
    return _encoded([_shrink(Image.fromarray(frame), SHORT_SIDE) for frame in heated], 0.0, budget)


def _encoded(images: list[Image.Image], seconds: float, budget: Budget) -> Clip | None:
    """A clip of so many seconds; 0 where that is unknown."""
    fps = len(images) / seconds if seconds else _DEFAULT_FPS
    shown_fps = max(fps, _MIN_FPS)
    buffer = io.BytesIO()
    try:
        encode_video(buffer, map(np.asarray, images), shown_fps, crf=26, preset="veryfast")
        video = buffer.getvalue()
    except (av.FFmpegError, ValueError):
        # This FFmpeg has no encoder of H.264: the strip alone is shown.
        video = b""
    strip = _strip(images)
    if len(video) + len(strip) > budget.num_bytes:
        return None
    budget.num_bytes -= len(video) + len(strip)
    speed = shown_fps / fps if seconds else None
    video_uri = data_uri("video/mp4", video) if video else ""
    return Clip(video_uri, data_uri("image/jpeg", strip), *images[0].size, speed)


def _shrink(image: Image.Image, short_side: int) -> Image.Image:
    # Never larger than it was. Even sides: H.264 halves them for the colours.
    factor = min(1.0, short_side / min(image.size), _LONG_SIDE / max(image.size))
    size = [max(2, round(side * factor / 2) * 2) for side in image.size]
    return image.resize(size, Image.Resampling.BILINEAR) if tuple(size) != image.size else image


def _strip(images: list[Image.Image]) -> bytes:
    places = np.linspace(0, len(images) - 1, min(_STRIP_FRAMES, len(images))).round().astype(int)
    small = [np.asarray(_shrink(images[place], _STRIP_SIDE)) for place in places]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(small, axis=1)).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()
