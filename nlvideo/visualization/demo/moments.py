"""What the page asks of a model: the classes of a video and of its moments, and what it looks at in one of them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nlvideo.model_zoo import Predictor
from nlvideo.modeling.nonlocal_block.summary import can_show_weights, nonlocal_modules
from nlvideo.visualization import chosen_positions, load_views
from nlvideo.visualization.blocks import short_name
from nlvideo.visualization.demo.uploads import VideoFacts

Scores = list[tuple[str, float]]
# A moment's clip stays in memory as long as the page shows it: at 32 frames of 224 x 224, 16 of them are 77 MB.
MAX_MOMENTS = 16
# Beside the names of blocks: what any network has.
GRAD_CAM = "Grad-CAM"


@dataclass(frozen=True)
class Moment:
    """One clip of a video, as the network sees it."""

    start_sec: float  #: where in the video the clip begins
    end_sec: float  #: where it ends
    top: Scores  #: the best classes with their scores, best first
    clip: torch.Tensor  #: uint8 (C, T, H, W)
    seconds: list[float]  #: when in the video each of its T frames is


class Inspector:
    """A predictor, and the short names of those non-local blocks that can show weights, in the order of the network.

    ``methods`` is what a clip can be looked at with: the blocks and Grad-CAM.
    """

    def __init__(self, predictor: Predictor):
        self.predictor = predictor
        blocks = nonlocal_modules(predictor.model)
        self.blocks = [short_name(name) for name, block in blocks.items() if can_show_weights(block)]
        self.methods = [*self.blocks, GRAD_CAM]

    def windows(self, facts: VideoFacts) -> list[tuple[float, float]]:
        """The (start_sec, end_sec) of the moments of a video: clip after clip, or spread over a long video."""
        clip = self.predictor.cfg.INPUT
        by_time = np.arange(0, facts.seconds - 1e-3, 1 / clip.FPS) if clip.FPS else None
        times = [*(facts.frame_seconds if by_time is None else by_time).tolist(), facts.seconds]
        n, length = len(times) - 1, clip.NUM_FRAMES * clip.FRAME_STRIDE
        # One clip is the whole video, even if its header does not say how long it is.
        if n <= length or facts.seconds <= 0:
            return [(0.0, facts.seconds)]
        count = min(MAX_MOMENTS, math.ceil(n / length))
        # The rate may change: each moment has the frames of one clip, however long that takes.
        firsts = [round(i * (n - length) / (count - 1)) for i in range(count)]
        return [(times[first], times[first + length]) for first in firsts]

    def moments(self, path: Path, facts: VideoFacts) -> Iterator[Moment]:
        """Yield the moments of a video file, each when it is scored.

        Raises:
            VideoDecodeError: the file cannot be read.
            ValueError: the video is too short and ``INPUT.SHORT_VIDEO`` is "error".
        """
        windows = self.windows(facts)
        parts = windows if len(windows) > 1 else [(None, None)]
        # One view for a moment, so that what is scored is what is shown.
        views = load_views(self.predictor.cfg, path, parts)
        for (start_sec, end_sec), view in zip(windows, views, strict=True):
            with torch.no_grad():
                scores = self.predictor.model([{"video": view.video[None], "video_id": path.name}])[0]["scores"]
            seconds = facts.frame_seconds[list(view.frames)].tolist()
            yield Moment(start_sec, end_sec, self.predictor.best(scores), view.video, seconds)

    def strongest_position(self, clip: torch.Tensor, block: str) -> tuple[int, int, int]:
        """The position (t, y, x) where a block changes the decision most; the middle if it adds nothing anywhere."""
        try:
            t, y, x = chosen_positions(self.predictor.model, clip, block, 1)[0]
        except ValueError:
            t, y, x = (length // 2 for length in clip.shape[1:])
        return int(t), int(y), int(x)
