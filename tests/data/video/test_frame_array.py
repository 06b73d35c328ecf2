"""Frames in memory with the interface of a video."""

import numpy as np
import pytest

from nlvideo.data import FrameArray, VideoDecodeError, open_video


@pytest.fixture()
def frames() -> np.ndarray:
    return np.arange(5, dtype=np.uint8).repeat(4 * 6 * 3).reshape(5, 4, 6, 3)


def test_frames_come_in_the_order_asked_for(frames):
    with open_video(frames) as video:
        assert isinstance(video, FrameArray)
        assert (video.num_frames, video.height, video.width, video.rotation, video.fps) == (5, 4, 6, 0, 0.0)
        video.check()
        given = video.get_frames([4, 0, 4])
    assert given[:, 0, 0, 0].tolist() == [4, 0, 4]
    given[:] = 99
    assert frames.max() == 4


def test_indices_are_checked(frames):
    with pytest.raises(IndexError, match="<frames>: frame 5 was asked for, the video has frames 0 to 4"):
        FrameArray(frames).get_frames([0, 5])
    with pytest.raises(ValueError, match="needs at least one index"):
        FrameArray(frames).get_frames([])


def test_seconds_need_a_rate(frames):
    video = open_video(frames, fps=10)
    assert [video.index_at(t) for t in (-1, 0, 0.1, 0.11, 0.3000000001, 9)] == [0, 0, 1, 2, 3, 5]
    with pytest.raises(VideoDecodeError, match="arrays carry none: add .fps."):
        FrameArray(frames).index_at(0.5)


@pytest.mark.parametrize(
    "shape, dtype", [((5, 4, 6, 3), "f4"), ((5, 3, 4, 6), "u1"), ((4, 6, 3), "u1"), ((0, 4, 6, 3), "u1")]
)
def test_what_is_no_video_is_refused(shape, dtype):
    with pytest.raises(ValueError, match=r"frames: got .*, allowed: uint8 \(T, H, W, 3\), RGB"):
        FrameArray(np.zeros(shape, dtype))
