"""The test clips of other libraries: tables worked by hand from their formulas, and the formulas in floating point."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from nlvideo.data import MMActionClips, SlowFastClips, SlowFastOffsetClips, VideoTooShort
from nlvideo.data.clip_sampling import CLIP_SAMPLER, SegmentClip, UniformClips


def starts(sampler, n):
    """First frames of all clips."""
    return [clip[0] for clip in sampler(n, None)]


def test_slowfast_starts_leave_the_end_of_the_video_unseen():
    # d = 300 - 64 = 236, starts 23.6 j.
    clips = SlowFastClips(32, 2, num_clips=10)(300, None)
    assert [clip[0] for clip in clips] == [0, 23, 47, 70, 94, 118, 141, 165, 188, 212]
    assert max(max(clip) for clip in clips) == 275


def test_slowfast_frames_inside_a_clip():
    # Distance 63 / 31 = 2 + 1 / 31: frame i of clip 1 is 23.6 + 2 i + i / 31, which gains a frame from i = 13 on.
    clips = SlowFastClips(32, 2, num_clips=10)(300, None)
    assert clips[0] == [2 * i for i in range(31)] + [63]
    assert clips[1] == [23 + 2 * i for i in range(13)] + [24 + 2 * i for i in range(13, 32)]
    assert clips[9] == [212 + 2 * i for i in range(19)] + [213 + 2 * i for i in range(19, 32)]


@pytest.mark.parametrize(
    "n, length, stride, clips, expected",
    [
        (300, 8, 8, 2, [[0, 9, 18, 27, 36, 45, 54, 63], [118, 127, 136, 145, 154, 163, 172, 181]]),
        (64, 8, 8, 2, [[0, 9, 18, 27, 36, 45, 54, 63]] * 2),
        (
            66,
            8,
            8,
            4,
            [
                [0, 9, 18, 27, 36, 45, 54, 63],
                [0, 9, 18, 27, 36, 45, 54, 63],
                [1, 10, 19, 28, 37, 46, 55, 64],
                [1, 10, 19, 28, 37, 46, 55, 64],
            ],
        ),
        (10, 4, 4, 2, [[0, 5, 9, 9]] * 2),
        (1, 4, 4, 1, [[0, 0, 0, 0]]),
        (10, 1, 4, 3, [[0], [2], [4]]),
        (10, 4, 1, 3, [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]),
    ],
)
def test_slowfast_tables(n, length, stride, clips, expected):
    for policy in ("wrap", "clamp"):
        assert SlowFastClips(length, stride, short_video=policy, num_clips=clips)(n, None) == expected


@pytest.mark.parametrize("length, stride", [(32, 2), (8, 8), (16, 4), (5, 3), (64, 1)])
def test_slowfast_is_their_linspace_but_for_the_rounding_of_whole_frames(length, stride):
    covered, differs = length * stride, 0
    for n in range(1, 320, 3):
        for num_clips in (1, 3, 10):
            slack = max(0, n - covered)
            for j, clip in enumerate(SlowFastClips(length, stride, num_clips=num_clips)(n, None)):
                start = slack * j / num_clips
                theirs = torch.linspace(start, start + covered - 1, length).clamp(0, n - 1).long().tolist()
                for i in np.flatnonzero(np.array(clip) != theirs):
                    exact = Fraction(slack * j, num_clips) + Fraction(int(i) * (covered - 1), length - 1)
                    assert exact.denominator == 1 and clip[i] == theirs[i] + 1 == exact
                    differs += 1
    assert differs < 100


def test_slowfast_offset_starts():
    assert starts(SlowFastOffsetClips(32, 2, num_clips=10), 300) == [0, 26, 52, 78, 104, 130, 156, 182, 208, 234]
    assert starts(SlowFastOffsetClips(32, 2, num_clips=1), 301) == [118]
    assert starts(SlowFastOffsetClips(32, 2, num_clips=10), 72) == [0] * 10  # 8 frames of slack, 9 gaps
    assert SlowFastOffsetClips(8, 8, num_clips=1)(300, None) == [[118 + 9 * i for i in range(8)]]


@pytest.mark.parametrize(
    "n, length, stride, clips, expected",
    [
        (300, 32, 2, 10, [0, 26, 53, 79, 105, 132, 158, 184, 211, 237]),
        (10, 4, 1, 1, [3]),
        (9, 4, 1, 3, [0, 2, 5]),  # 2.5 goes to the even 2
        (7, 4, 1, 3, [0, 2, 3]),  # 1.5 goes to the even 2
        (5, 4, 1, 3, [0, 0, 1]),
        (3, 4, 1, 3, [0, 0, 0]),
    ],
)
def test_mmaction_starts(n, length, stride, clips, expected):
    sampled = MMActionClips(length, stride, num_clips=clips)(n, None)
    assert sampled == [[(start + i * stride) % n for i in range(length)] for start in expected]


@pytest.mark.parametrize("n", [1, 7, 8, 9, 100, 299, 300])
def test_frames_of_segments_are_those_of_mmaction(n):
    """Clips of one frame there: the middle of each of 8 equal parts, rounded down."""
    step = n / 8.0
    assert SegmentClip(8)(n) == [(np.arange(8) * step + step / 2.0).astype(int).tolist()]


def test_mmaction_and_uniform_clips_differ_by_the_rounding_of_halves_alone():
    for n in range(1, 200):
        for clips in (1, 2, 3, 5, 10):
            slack = max(0, n - 13)
            ours, theirs = (starts(cls(5, 3, num_clips=clips), n) for cls in (UniformClips, MMActionClips))
            for j, (a, b) in enumerate(zip(ours, theirs)):
                half = clips > 1 and 2 * j * slack % (2 * (clips - 1)) == clips - 1
                assert a == b or (half and a == b + 1 and b % 2 == 0), (n, clips, j)


@pytest.mark.parametrize(
    "n, policy, expected",
    [
        (6, "wrap", [0, 2, 4, 0]),
        (6, "clamp", [0, 2, 4, 4]),  # the last frame of the clip, not the last of the video
        (5, "clamp", [0, 2, 4, 4]),
        (3, "clamp", [0, 2, 2, 2]),
        (1, "clamp", [0, 0, 0, 0]),
        (7, "clamp", [0, 2, 4, 6]),
    ],
)
def test_mmaction_short_videos(n, policy, expected):
    assert MMActionClips(4, 2, short_video=policy, num_clips=2)(n, None) == [expected] * 2


@pytest.mark.parametrize("name, needed", [("SlowFastClips", 8), ("SlowFastOffsetClips", 8), ("MMActionClips", 7)])
def test_error_policy(name, needed):
    sampler = CLIP_SAMPLER.get(name)(num_frames=4, frame_stride=2, short_video="error", num_clips=2)
    assert [max(clip) for clip in sampler(needed, None)] == [needed - 1] * 2
    with pytest.raises(VideoTooShort, match=f"the video has {needed - 1} frames, a clip needs {needed}"):
        sampler(needed - 1, None)
