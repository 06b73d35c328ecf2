"""Test clips where other libraries put them, so that their published numbers can be tested as they were made.

The starts of ten clips of 32 frames with stride 2 in a video of 300 frames::

    UniformClips          0 26 53 79 105 132 158 184 211 237
    MMActionClips         the same; differs in the rounding of halves and in short videos
    AuthorsClips          0 30 60 90 120 150 180 210 240 270         the last clips wrap
    SlowFastClips         0 23.6 47.2 70.8 ... 212.4                 frames 276 to 299 are never seen
    SlowFastOffsetClips   0 26 52 78 104 130 156 182 208 234         the same clips of 64 frames, other starts
"""

from fractions import Fraction
from math import floor

import numpy as np

from nlvideo.data.clip_sampling import CLIP_SAMPLER, ClipSampler


@CLIP_SAMPLER.register()
class SlowFastClips(ClipSampler):
    """Test clips where PySlowFast puts them by default.

    With S = L * s and d = max(0, n - S), clip j of K covers S frames from ``d * j / K``, so that the last d / K frames
    are never seen, and takes L of them with equal distances from the first to the last: frame i is ``d * j / K +
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
