"""Exact frames of every sampler."""

import math
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from nlvideo.data.clip_sampling import CLIP_SAMPLER, AuthorsClips, RandomClip, SegmentClip, UniformClips
from nlvideo.errors import VideoTooShort

RNG = np.random.default_rng
DOCS = Path(__file__).resolve().parents[2] / "docs" / "data.md"


@pytest.mark.parametrize(
    "n, length, stride, clips, starts",
    [
        (300, 32, 2, 10, [0, 26, 53, 79, 105, 132, 158, 184, 211, 237]),
        (10, 4, 1, 3, [0, 3, 6]),
        (10, 4, 1, 1, [3]),
        (11, 4, 1, 1, [3]),
        (10, 4, 1, 2, [0, 6]),
        (7, 4, 2, 3, [0, 0, 0]),
        (8, 4, 2, 3, [0, 1, 1]),
        (3, 4, 2, 2, [0, 0]),
    ],
)
def test_uniform_clips(n, length, stride, clips, starts):
    sampled = UniformClips(length, stride, num_clips=clips)(n, None)
    assert [clip[0] for clip in sampled] == starts
    assert sampled == [[(start + i * stride) % n for i in range(length)] for start in starts]


@pytest.mark.parametrize(
    "n, length, stride, clips, expected",
    [
        (300, 2, 2, 10, [[k, k + 2] for k in range(0, 300, 30)]),
        (10, 4, 1, 4, [[0, 1, 2, 3], [2, 3, 4, 5], [5, 6, 7, 8], [7, 8, 9, 0]]),
        (10, 4, 3, 2, [[0, 3, 6, 9], [5, 8, 1, 4]]),
        (3, 4, 2, 2, [[0, 2, 1, 0], [1, 0, 2, 1]]),
    ],
)
def test_authors_clips_wrap(n, length, stride, clips, expected):
    assert AuthorsClips(length, stride, num_clips=clips)(n, None) == expected
    assert AuthorsClips(length, stride, short_video="clamp", num_clips=clips)(n, None) == expected


@pytest.mark.parametrize(
    "n, length, clips, expected",
    [
        (12, 4, 1, [[1, 4, 7, 10]]),
        (12, 4, 3, [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]),
        (10, 4, 1, [[1, 3, 6, 8]]),
        (4, 4, 1, [[0, 1, 2, 3]]),
        (2, 4, 1, [[0, 0, 1, 1]]),
        (1, 3, 2, [[0, 0, 0], [0, 0, 0]]),
    ],
)
def test_segment_clip_at_test(n, length, clips, expected):
    assert SegmentClip(length, num_clips=clips)(n, None) == expected


def test_segment_clip_in_training_covers_each_segment():
    sampler, seen = SegmentClip(4), [set() for _ in range(4)]
    rng = RNG(0)
    for _ in range(200):
        (clip,) = sampler(10, rng)
        for segment, index in zip(seen, clip):
            segment.add(index)
    assert seen == [{0, 1}, {2, 3, 4}, {5, 6}, {7, 8, 9}]
    assert sampler(2, rng) == [[0, 0, 1, 1]]


def test_random_clip_follows_the_authors_rule():
    sampler, rng = RandomClip(4, 2), RNG(0)
    starts = [sampler(13, rng)[0][0] for _ in range(600)]
    counts = np.bincount(starts)
    assert sorted(set(starts)) == [0, 1, 2, 3, 4, 5]  # 13 - 4 * 2, included
    assert counts.min() > 60
    assert {tuple(sampler(8, rng)[0]) for _ in range(20)} == {(0, 2, 4, 6)}
    assert {tuple(sampler(7, rng)[0]) for _ in range(20)} == {(0, 2, 4, 6)}


@pytest.mark.parametrize("policy, expected", [("wrap", [0, 2, 4, 1]), ("clamp", [0, 2, 4, 4])])
@pytest.mark.parametrize("sampler", [RandomClip, UniformClips])
def test_short_videos(sampler, policy, expected):
    assert sampler(4, 2, short_video=policy)(5, RNG(0)) == [expected]


@pytest.mark.parametrize(
    "name, needed", [("RandomClip", 7), ("UniformClips", 7), ("AuthorsClips", 7), ("SegmentClip", 4)]
)
def test_error_policy(name, needed):
    sampler = CLIP_SAMPLER.get(name)(num_frames=4, frame_stride=2, short_video="error", num_clips=1)
    sampler(needed, RNG(0))
    with pytest.raises(VideoTooShort, match=f"the video has {needed - 1} frames, a clip needs {needed}") as caught:
        sampler(needed - 1, RNG(0))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.num_video_frames, copy.needed) == (needed - 1, needed) and isinstance(copy, ValueError)


@pytest.mark.parametrize("name", list(CLIP_SAMPLER))
@pytest.mark.parametrize("policy", ["wrap", "clamp"])
def test_every_sampler_keeps_its_contract(name, policy):
    sampler = CLIP_SAMPLER.get(name)(num_frames=5, frame_stride=3, short_video=policy, num_clips=3)
    sampler = pickle.loads(pickle.dumps(sampler))
    for n in (1, 2, 12, 13, 14, 40):
        clips = sampler(n, RNG(n))
        assert clips == sampler(n, RNG(n)), "not a function of its arguments"
        assert [len(clip) for clip in clips] == [5, 5, 5]
        assert all(type(index) is int and 0 <= index < n for clip in clips for index in clip)


def test_clear_errors():
    with pytest.raises(ValueError, match="num_frames: got 0, allowed: 1 or more"):
        RandomClip(0)
    with pytest.raises(ValueError, match="short_video: got 'loop', allowed: 'wrap', 'clamp', 'error'"):
        UniformClips(4, short_video="loop")
    with pytest.raises(ValueError, match="RandomClip .* is for training; for test: 'UniformClips'"):
        RandomClip(4)(10, None)


def documented():
    """Name and indices of each row of the table in docs/data.md that has some."""
    rows = re.findall(r"^\| `(\w+)`[^|]* \| [^|]* \| ([\d ]+) \|$", DOCS.read_text(), re.MULTILINE)
    return [(name, [int(index) for index in indices.split()]) for name, indices in rows]


def test_every_sampler_is_documented():
    table = DOCS.read_text().split("## Clips")[1].split("## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(CLIP_SAMPLER)
    assert {name for name, _ in documented()} == set(CLIP_SAMPLER) - {"RandomClip"}


@pytest.mark.parametrize("name, expected", documented())
def test_documented_indices(name, expected):
    clips = CLIP_SAMPLER.get(name)(num_frames=32, frame_stride=2, short_video="wrap", num_clips=10)(300, None)
    assert [clip[0] for clip in clips] == expected


@pytest.mark.parametrize("n, length, stride, clips", [(300, 32, 2, 10), (97, 8, 8, 5), (250, 16, 4, 3), (64, 32, 2, 2)])
def test_the_formulas_of_the_documents(n, length, stride, clips):
    m, js = max(0, n - (length - 1) * stride - 1), range(clips)
    formulas = {
        "UniformClips": [math.floor(j * m / (clips - 1) + 0.5) for j in js],
        "AuthorsClips": [math.floor(n * j / clips) for j in js],
        "SegmentClip": [math.floor((2 * j + 1) * n / (2 * clips * length)) for j in js],
        "SlowFastClips": [math.floor(max(0, n - length * stride) * j / clips) for j in js],
        "SlowFastOffsetClips": [j * (max(0, n - length * stride) // (clips - 1)) for j in js],
        "MMActionClips": [round(j * m / (clips - 1)) for j in js],
    }
    for name, starts in formulas.items():
        sampled = CLIP_SAMPLER.get(name)(num_frames=length, frame_stride=stride, short_video="wrap", num_clips=clips)(
            n, None
        )
        assert [clip[0] for clip in sampled] == starts, name


@pytest.mark.parametrize("n, length", [(12, 4), (10, 4), (33, 8)])
def test_segment_clip_draws_from_the_documented_segments(n, length):
    rng = RNG(0)
    drawn = np.array([SegmentClip(length)(n, rng)[0] for _ in range(400)])
    for i in range(length):
        assert set(drawn[:, i]) == set(range(i * n // length, (i + 1) * n // length))


def test_random_clip_starts_at_the_documented_places():
    for n, length, stride in ((300, 32, 2), (65, 32, 2), (64, 32, 2), (70, 8, 8)):
        rng = RNG(0)
        starts = {RandomClip(length, stride)(n, rng)[0][0] for _ in range(3000)}
        assert starts == set(range(max(0, n - length * stride) + 1))
