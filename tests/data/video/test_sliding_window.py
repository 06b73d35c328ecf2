"""Windows of a stream: which frames, and never more than one window's."""

import gc
import weakref
from fractions import Fraction

import numpy as np
import pytest

from nlvideo.data import FrameStream, VideoDecodeError, VideoReader, open_video, slide
from nlvideo.data.video.pixels import Geometry, PixelLimits


class Frame:
    """A frame that knows its number."""

    def __init__(self, number, seconds, size=(2, 2)):
        self.number, self.seconds, self.geometry = number, seconds, Geometry(*size)

    def to_rgb(self):
        return np.full((*self.geometry[:2], 3), self.number, np.uint8)


class Stream:
    """A stream of such frames at given tenths of a second, which remembers who is still alive."""

    path, fps, tick, pixels = "stream", 10.0, Fraction(1, 1000), PixelLimits(clip=60)

    def __init__(self, tenths):
        self.tenths = tenths
        self.alive = weakref.WeakSet()

    def __iter__(self):
        for number, tenth in enumerate(self.tenths):
            frame = Frame(number, Fraction(tenth, 10))
            self.alive.add(frame)
            yield frame


def numbers(window):
    return [frame.number for frame in window.frames]


def test_windows_until_one_reaches_the_end():
    windows = list(slide(Stream(range(12)), 0.5, 0.3))
    # The last one begins earlier, so that it is a whole one.
    assert [numbers(w) for w in windows] == [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7], [6, 7, 8, 9, 10], [7, 8, 9, 10, 11]]
    assert [(w.start_sec, w.end_sec) for w in windows] == [(0.0, 0.5), (0.3, 0.8), (0.6, 1.1), (0.7, 1.2)]
    # Each frame belongs to one window alone.
    assert [frame.number for w in windows for frame in w.own] == list(range(12))


def test_a_window_that_ends_with_the_video_is_the_last():
    assert [numbers(w) for w in slide(Stream(range(8)), 0.4, 0.4)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [numbers(w) for w in slide(Stream(range(6)), 0.4, 0.2)] == [[0, 1, 2, 3], [2, 3, 4, 5]]
    (only,) = slide(Stream(range(3)), 60, 1)
    assert (numbers(only), only.start_sec, only.end_sec, only.own) == ([0, 1, 2], 0.0, 0.3, only.frames)
    assert list(slide(Stream([]), 1, 1)) == []


def test_gaps_have_no_windows_and_cost_no_time():
    windows = list(slide(Stream([0, 1, 30, 31, 10**12]), 0.5, 0.5))
    assert [(numbers(w), w.start_sec) for w in windows] == [([0, 1], 0.0), ([2, 3], 3.0), ([4], 1e11 - 0.4)]
    windows = list(slide(Stream([0, 1, 30]), 1.0, 0.4))
    assert [(numbers(w), w.start_sec) for w in windows] == [([0, 1], 0.0), ([2], pytest.approx(2.1))]


@pytest.mark.parametrize("window_sec, stride_sec", [(0.9, 0.9), (1.0, 0.35), (0.7, 0.1), (2.5, 2.0)])
def test_a_window_has_the_frames_of_its_seconds(make_video, frame_index, tmp_path, window_sec, stride_sec):
    path = make_video(tmp_path / "a.mp4", num_frames=40, fps=12)
    with FrameStream(path) as stream, VideoReader(path) as reader:
        for number, window in enumerate(slide(stream, window_sec, stride_sec)):
            first, end = reader.index_at(window.start_sec), reader.index_at(window.end_sec)
            assert window.start_sec == pytest.approx(min(number * stride_sec, 40 / 12 - window_sec))
            assert [frame_index(image) for image in window.get_frames(range(window.num_frames))] == list(
                range(first, end)
            )
        assert end == 40


def test_no_more_than_a_window_is_kept():
    stream = Stream(range(1000))
    for _ in slide(stream, 1.0, 0.5):
        assert len(stream.alive) <= 12
    del _
    gc.collect()
    assert len(stream.alive) == 0


def test_a_window_is_a_video():
    window = next(iter(slide(Stream(range(9)), 0.6, 0.6)))
    with open_video(window) as video:
        assert video is window and (video.num_frames, video.fps, video.path) == (6, 10.0, "stream")
        assert video.get_frames([5, 0, 5])[:, 0, 0, 0].tolist() == [5, 0, 5]
        assert [video.index_at(t) for t in (-1, 0, 0.2, 0.21, 7)] == [0, 0, 2, 3, 6]
        with pytest.raises(IndexError, match="frame 6 was asked for, the video has frames 0 to 5"):
            video.get_frames([6])
    window.frames[1].geometry = Geometry(2, 4)
    with pytest.raises(VideoDecodeError, match=r"the frame size changes from 2x2 to 2x4 in frame 1"):
        window.get_frames([0, 1])


@pytest.mark.parametrize(
    "window_sec, stride_sec, message",
    [(0, 1, "window_sec: got 0"), (-1, 1, "window_sec: got -1"), (float("nan"), 1, "window_sec: got nan"),
     (float("inf"), 1, "window_sec: got inf"), (1, 0, "stride_sec: got 0"),
     (1, 1.5, "stride_sec: got 1.5, allowed: more than 0 and up to window_sec = 1")],
)  # fmt: skip
def test_wrong_lengths_are_refused_at_once(window_sec, stride_sec, message):
    with pytest.raises(ValueError, match=message):
        slide(Stream([]), window_sec, stride_sec)


def test_a_window_that_is_too_large_is_an_error():
    assert len(list(slide(Stream(range(20)), 1.5, 1.5))) == 2  # 15 frames of 2 x 2 pixels
    with pytest.raises(VideoDecodeError, match="stream: 16 frames of 2x2 pixels, allowed: 60 pixels a clip"):
        list(slide(Stream(range(20)), 1.6, 1.6))


def test_a_rest_of_one_frame_is_seen_with_the_frames_before_it():
    stream = Stream(range(21))
    windows = []
    for window in slide(stream, 1.0, 1.0):
        assert len(stream.alive) <= 12
        windows.append((numbers(window), window.start_sec, window.end_sec, len(window.own)))
        del window
        gc.collect()
    assert windows[2] == (list(range(11, 21)), 1.1, 2.1, 1)
