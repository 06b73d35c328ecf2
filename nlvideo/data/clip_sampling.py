"""Which frames make a clip: pure functions of a video's length and a random generator. docs/data.md compares them.

A clip of L frames with stride s covers ``(L - 1) * s + 1`` frames from its first to its last::

    L = 4, s = 2      start
    frame       0  1  2  3  4  5  6  7  8  9
    clip              x  .  x  .  x  .  x
                      |<-- 7 frames -->|

What a clip does past the end of a video is its ``short_video`` policy, here for 5 frames and start 0::

    "wrap"      0  2  4  1      start again (authors)
    "clamp"     0  2  4  4      repeat the last frame
    "error"     VideoTooShort
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import ClassVar

import numpy as np

from nlvideo.config.validate import ALLOWED
from nlvideo.errors import VideoTooShort
from nlvideo.utils.messages import check_one_of
from nlvideo.utils.registry import Registry

CLIP_SAMPLER = Registry(
    "CLIP_SAMPLER",
    """Chooses the frames of the clips of a video.

    Created as ``cls(num_frames=, frame_stride=, short_video=, num_clips=)``, with INPUT.NUM_FRAMES, FRAME_STRIDE and
    SHORT_VIDEO; the clips are INPUT.REPEATED_CLIPS in training and TEST.NUM_CLIPS at test. Called as
    ``sampler(num_video_frames, rng)`` for a video of at least one frame. ``rng`` is a numpy Generator in training, and
    None at test, where a clip must not depend on chance (a sampler that cannot do without it raises ``ValueError``).
    With INPUT.FPS, frames of that rate are counted, except for a sampler whose attribute ``uses_stride`` is False.

    Returns ``num_clips`` lists of ``num_frames`` indices in ``[0, num_video_frames)``. Raises ``VideoTooShort`` where
    the video has too few frames and ``short_video`` is "error". ``ClipSampler`` is a base class that does so.
    """,
)


@dataclass(eq=False)
class ClipSampler(ABC):
    """Base of the samplers: holds the arguments and applies the policy for short videos.

    Raises:
        ValueError: a number is below 1 or the policy is unknown.
    """

    num_frames: int  #: of a clip
    frame_stride: int = 1  #: distance between them, in frames
    short_video: str = "wrap"  #: "wrap", "clamp" or "error"; see the top of this file
    num_clips: int = 1  #: clips per video

    #: False for a sampler that spreads frames over the video; it counts those of the file, whatever INPUT.FPS says.
    uses_stride: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_stride", "num_clips"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}: got {value}, allowed: 1 or more")
        check_one_of("short_video", self.short_video, ALLOWED["INPUT.SHORT_VIDEO"])

    @abstractmethod
    def __call__(self, num_video_frames: int, rng: np.random.Generator | None) -> list[list[int]]:
        """Return the indices of each clip, see ``CLIP_SAMPLER``."""

    @property
    def span(self) -> int:
        """Frames from the first to the last of a clip, both included."""
        return (self.num_frames - 1) * self.frame_stride + 1

    def expand(self, start: int, num_video_frames: int) -> list[int]:
        """Return the indices of the clip that begins at ``start``.

        Raises:
            VideoTooShort: the policy is "error" and the video has fewer frames than the span of a clip.
        """
        self.check_length(num_video_frames, self.span)
        indices = range(start, start + self.span, self.frame_stride)
        if self.short_video == "clamp":
            return [min(index, num_video_frames - 1) for index in indices]
        return [index % num_video_frames for index in indices]

    def check_length(self, num_video_frames: int, needed: int) -> None:
        """Raise ``VideoTooShort`` where the policy is "error" and the video has fewer frames than ``needed``."""
        if self.short_video == "error" and num_video_frames < needed:
            raise VideoTooShort(num_video_frames, needed)


@CLIP_SAMPLER.register()
class RandomClip(ClipSampler):
    """Clips from random places, for training (authors' code).

    With S = L * s: the start is uniform among the integers 0 to n - S, both included, where the video has n > S
    frames, and 0 otherwise.

    Raises:
        ValueError: called without a random generator.
        VideoTooShort: see ``ClipSampler.expand``.
    """

    def __call__(self, num_video_frames: int, rng: np.random.Generator | None) -> list[list[int]]:
        if rng is None:
            needs = "RandomClip needs a random generator and is for training"
            raise ValueError(f"{needs}; for test: 'UniformClips', 'AuthorsClips'")
        last_start = max(0, num_video_frames - self.num_frames * self.frame_stride)
        starts = rng.integers(0, last_start, size=self.num_clips, endpoint=True)
        return [self.expand(int(start), num_video_frames) for start in starts]


@CLIP_SAMPLER.register()
class UniformClips(ClipSampler):
    """Clips whose starts divide the video evenly, the first at its first frame and the last ending at its last.

    With ``m = max(0, n - span)``, clip j of K starts at ``j * m / (K - 1)`` rounded half up; a single clip starts at
    ``m // 2``, in the middle::

        n = 10, L = 4, s = 1, K = 3        0 1 2 3 . . . . . .
                                           . . . 3 4 5 6 . . .
                                           . . . . . . 6 7 8 9

    In videos shorter than a clip all clips start at 0.
    """

    def __call__(self, num_video_frames: int, rng: np.random.Generator | None = None) -> list[list[int]]:
        slack, gaps = max(0, num_video_frames - self.span), self.num_clips - 1
        # Rounded in integers, so that no float decides a frame.
        starts = [(2 * j * slack + gaps) // (2 * gaps) for j in range(self.num_clips)] if gaps else [slack // 2]
        return [self.expand(start, num_video_frames) for start in starts]


@CLIP_SAMPLER.register()
class AuthorsClips(ClipSampler):
    """Test clips where the authors' code puts them: clip j of K starts at ``int(n / K * j)``.

    The last clips run past the end and always wrap, whatever ``short_video`` says about videos shorter than a clip::

        n = 10, L = 4, s = 1, K = 4: starts 0 2 5 7, the last    0 . . . . . . 7 8 9
    """

    def __call__(self, num_video_frames: int, rng: np.random.Generator | None = None) -> list[list[int]]:
        self.check_length(num_video_frames, self.span)
        offsets = range(0, self.span, self.frame_stride)
        starts = [j * num_video_frames // self.num_clips for j in range(self.num_clips)]
        return [[(start + offset) % num_video_frames for offset in offsets] for start in starts]


@CLIP_SAMPLER.register()
class SegmentClip(ClipSampler):
    """One frame from each of L equal segments of the whole video; neither the stride nor INPUT.FPS is used.

    In training the frame is uniform within its segment. At test clip j of K takes the frame at ``(2 j + 1) / (2 K)``
    of every segment, so that a single clip takes the middles::

        n = 12, L = 4        | 0  1  2 | 3  4  5 | 6  7  8 | 9 10 11 |
        test, K = 1               x         x         x         x

    A video with fewer frames than segments repeats frames in order, or is an error under the policy "error".
    """

    uses_stride = False

    def __call__(self, num_video_frames: int, rng: np.random.Generator | None = None) -> list[list[int]]:
        self.check_length(num_video_frames, self.num_frames)
        n, length = num_video_frames, self.num_frames
        if rng is None:
            parts = 2 * self.num_clips
            middles = [2 * j + 1 for j in range(self.num_clips)]
            return [[(parts * i + middle) * n // (parts * length) for i in range(length)] for middle in middles]
        first = np.arange(length) * n // length
        end = np.maximum(first + 1, (np.arange(length) + 1) * n // length)
        return [rng.integers(first, end).tolist() for _ in range(self.num_clips)]


# Test clips where other libraries put them, so that their published numbers can be reproduced.


@CLIP_SAMPLER.register()
class SlowFastClips(ClipSampler):
    """Test clips where PySlowFast puts them by default.

    With S = L * s and d = max(0, n - S), clip j of K covers S frames from ``d * j / K``, so that the last d / K frames
    are never seen, and takes L of them at equal distances from the first to the last: frame i is ``d * j / K +
    i * (S - 1) / (L - 1)`` rounded down, at most n - 1. That distance is larger than s::

        L = 8, s = 8       0 9 18 27 36 45 54 63, and not 0 8 16 24 32 40 48 56

    Past the end the last frame repeats, whatever ``short_video`` says about videos shorter than a clip. Computed in
    exact fractions; where the exact position is a whole frame, their float32 may land on the one before.
    """

    def __call__(self, num_video_frames: int, rng: np.random.Generator | None = None) -> list[list[int]]:
        covered = self.num_frames * self.frame_stride
        self.check_length(num_video_frames, covered)
        step = Fraction(covered - 1, max(1, self.num_frames - 1))
        starts = self._starts(max(0, num_video_frames - covered))
        last = num_video_frames - 1
        return [[min(floor(start + i * step), last) for i in range(self.num_frames)] for start in starts]

    def _starts(self, slack: int) -> list[Fraction]:
        return [Fraction(slack * j, self.num_clips) for j in range(self.num_clips)]


@CLIP_SAMPLER.register()
class SlowFastOffsetClips(SlowFastClips):
    """The clips of ``SlowFastClips`` at the starts of PySlowFast's ``USE_OFFSET_SAMPLING``.

    Clip j of K > 1 starts at ``j * floor(d / (K - 1))``, a single one in the middle, at ``floor(d / 2)``.
    """

    def _starts(self, slack: int) -> list[Fraction]:
        gaps = self.num_clips - 1
        starts = [j * (slack // gaps) for j in range(self.num_clips)] if gaps else [slack // 2]
        return [Fraction(start) for start in starts]


@CLIP_SAMPLER.register()
class MMActionClips(ClipSampler):
    """Test clips where mmaction2's ``SampleFrames`` puts them.

    With ``m = max(0, n - span)``, clip j of K > 1 starts at ``j * (m / (K - 1))`` in float64, halves rounded to even;
    a single clip starts at ``m // 2``. In a video shorter than a clip, "wrap" is its "loop", and "clamp" its
    "repeat_last", which repeats the last frame that the clip itself has reached::

        n = 6, L = 4, s = 2      0 2 4 4, where UniformClips has 0 2 4 5
    """

    def __call__(self, num_video_frames: int, rng: np.random.Generator | None = None) -> list[list[int]]:
        slack, gaps = max(0, num_video_frames - self.span), self.num_clips - 1
        starts = np.rint(np.arange(self.num_clips) * (slack / gaps)).astype(int).tolist() if gaps else [slack // 2]
        return [self.expand(start, num_video_frames) for start in starts]

    def expand(self, start: int, num_video_frames: int) -> list[int]:
        """Return the indices of the clip that begins at ``start``; see the base class."""
        if self.short_video != "clamp":
            return super().expand(start, num_video_frames)
        reached = start + (num_video_frames - 1 - start) // self.frame_stride * self.frame_stride
        return [min(start + i * self.frame_stride, reached) for i in range(self.num_frames)]
