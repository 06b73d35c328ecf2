"""Frames one after the other: the same pixels and times as random access gives."""

import errno
import os
from fractions import Fraction

import numpy as np
import pytest

from nlvideo.data import FrameStream, VideoDecodeError, VideoReader, open_camera
from nlvideo.data.video import frame_stream

LIVE = {"path": "testsrc=size=64x48:rate=10:duration=1", "format": "lavfi"}


@pytest.mark.parametrize(
    "options", [{}, {"codec": "libx264", "pix_fmt": "yuv420p", "bf": "2"}], ids=["plain", "b-frames"]
)
def test_frames_are_those_of_the_reader(make_video, tmp_path, options):
    path = make_video(tmp_path / "a.mp4", num_frames=20, fps=10, **options)
    with VideoReader(path) as reader, FrameStream(path) as stream:
        assert stream.fps == 10 and stream.duration_sec == pytest.approx(2.0, abs=0.15) and stream.path == path
        expected = reader.get_frames(range(20))
        for index, frame in enumerate(stream):
            assert frame.seconds == Fraction(index, 10) and reader.index_at(float(frame.seconds)) == index
            assert np.array_equal(frame.to_rgb(), expected[index])
        assert index == 19


def test_a_closed_stream_gives_no_frames(make_video, tmp_path):
    with FrameStream(make_video(tmp_path / "a.mp4", num_frames=3)) as stream:
        frames = iter(stream)
        next(frames)
    assert stream.fps == 10
    for rest in (frames, iter(stream)):
        with pytest.raises(VideoDecodeError, match="a.mp4: the stream is closed"):
            list(rest)


def test_a_live_source_has_frames_and_times():
    with FrameStream(**LIVE) as stream:
        times = [frame.seconds for frame in stream]
    assert times == [Fraction(k, 10) for k in range(10)]


def test_what_is_no_video_says_so(make_frames, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(VideoDecodeError, match="text.mp4: ."):
        FrameStream(tmp_path / "text.mp4")
    with pytest.raises(VideoDecodeError, match="nowhere.mp4: no such file"):
        FrameStream("nowhere.mp4")
    with pytest.raises(VideoDecodeError, match="a folder of frames has no times"):
        FrameStream(make_frames(tmp_path / "frames", num_frames=1))
    with pytest.raises(VideoDecodeError, match="no video stream"):
        FrameStream("sine=duration=0.1", format="lavfi")


def test_a_camera_is_a_device(monkeypatch):
    opened = []
    monkeypatch.setattr(frame_stream, "FrameStream", lambda *args, **kwargs: opened.append((args, kwargs)))
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/dev/video1")
    monkeypatch.setattr(os, "listdir", lambda path: ["null", "video1"])
    open_camera(1)
    assert opened == [(("/dev/video1",), {"format": "v4l2"})]
    with pytest.raises(ValueError, match="camera 0: there is no /dev/video0; cameras of this machine: video1$"):
        open_camera(0)


def test_a_device_that_is_busy_says_so(monkeypatch):
    def busy(*args, **kwargs):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(frame_stream.av, "open", busy)
    with pytest.raises(VideoDecodeError, match="/dev/video0: Device or resource busy"):
        FrameStream("/dev/video0", format="v4l2")
