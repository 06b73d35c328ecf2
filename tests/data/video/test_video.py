"""What ``Video`` promises, asked of every kind of video, and of one that is written from its docstring alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nlvideo.config import load_cfg
from nlvideo.data import (
    FrameArray,
    FrameFolder,
    FrameStream,
    TorchCodecReader,
    Video,
    VideoDecodeError,
    VideoMapper,
    VideoReader,
    open_video,
    slide,
)
from nlvideo.data.video.pixels import Geometry
from nlvideo.data.video.video_reader import READERS

NUM_FRAMES, HEIGHT, WIDTH, FPS = 12, 32, 48, 10


class FakeTorchCodec:
    """Torchcodec's decoder as far as it is used, so that the reader is tested without its package."""

    def __init__(self, path, **options):
        with VideoReader(path) as video:
            self.frames = video.get_frames(range(video.num_frames))
        self.metadata = SimpleNamespace(height=HEIGHT, width=WIDTH)

    def __len__(self):
        return len(self.frames)

    def get_frames_at(self, indices):
        return SimpleNamespace(data=torch.from_numpy(self.frames[indices]))


class Own(Video):
    """A kind of a user: it has what the docstring of ``Video`` asks for."""

    def __init__(self, frames):
        super().__init__("own")
        self.num_frames, self.fps, self.frames = len(frames), FPS, frames

    @property
    def geometry(self):
        return Geometry(*self.frames.shape[1:3])

    @property
    def frame_seconds(self):
        return np.arange(self.num_frames) / FPS

    def _read(self, indices):
        for index in indices:
            yield index, self.frames[index]


@pytest.fixture(params=["file", "torchcodec", "folder", "array", "window", "own"])
def video(request, tmp_path, make_video, make_frames, monkeypatch):
    """A video of each kind with the same frames."""
    size = {"num_frames": NUM_FRAMES, "height": HEIGHT, "width": WIDTH}
    path = make_video(tmp_path / "a.mp4", fps=FPS, codec="libx264", pix_fmt="yuv420p", crf="5", **size)
    with VideoReader(path) as reader:
        frames = reader.get_frames(range(NUM_FRAMES))
    monkeypatch.setattr("nlvideo.data.video.video_reader.load_video_decoder", lambda: FakeTorchCodec)
    with FrameStream(path) as stream:
        kinds = {
            "file": (VideoReader, lambda: open_video(path)),
            "torchcodec": (TorchCodecReader, lambda: open_video(path, reader="torchcodec")),
            "folder": (FrameFolder, lambda: open_video(make_frames(tmp_path / "frames", **size), FPS)),
            "array": (FrameArray, lambda: open_video(frames, FPS)),
            "window": (Video, lambda: next(iter(slide(stream, 60, 60)))),
            "own": (Own, lambda: open_video(Own(frames))),
        }
        kind, make = kinds[request.param]
        with make() as video:
            assert isinstance(video, kind) and isinstance(video, Video)
            yield video


def test_facts(video):
    assert isinstance(video.path, str) and video.path
    assert (video.num_frames, video.height, video.width) == (NUM_FRAMES, HEIGHT, WIDTH)
    assert (video.rotation, video.mirrored) == (0, False) and video.geometry == Geometry(HEIGHT, WIDTH)
    assert video.fps == pytest.approx(FPS) and video.frame_bytes == 3 * HEIGHT * WIDTH


def test_frames_in_the_order_asked_for(video, frame_index):
    wanted = [11, 0, 7, 7, 2, 11]
    frames = video.get_frames(wanted)
    assert frames.shape == (6, HEIGHT, WIDTH, 3) and frames.dtype == np.uint8 and frames.flags.c_contiguous
    assert [frame_index(frame) for frame in frames] == wanted
    frames[:] = 0  # a copy
    assert [frame_index(frame) for frame in video.get_frames(np.array([3, 1]))] == [3, 1]
    assert [frame_index(frame) for frame in video.get_frames(range(12))] == list(range(12))


def test_wrong_indices_are_errors_of_the_caller(video):
    for index in (-1, NUM_FRAMES):
        with pytest.raises(IndexError, match=f"frame {index} was asked for, the video has frames 0 to 11"):
            video.get_frames([0, index])
    with pytest.raises(ValueError, match="needs at least one index"):
        video.get_frames([])


def test_seconds(video):
    assert video.frame_seconds.dtype == np.float64
    np.testing.assert_allclose(video.frame_seconds, np.arange(NUM_FRAMES) / FPS, atol=1e-9)
    expected = {-1: 0, 0: 0, 0.1: 1, 0.15: 2, 0.3: 3, 1.0: 10, 1.1: 11, 1.15: 12, 100: 12}
    assert {seconds: video.index_at(seconds) for seconds in expected} == expected
    assert video.duration_sec == pytest.approx(NUM_FRAMES / FPS)


def test_a_closed_video_opens_again(video, frame_index):
    video.check()
    for wanted in ([3, 9], [10], [0]):
        video.close()
        video.close()
        assert [frame_index(frame) for frame in video.get_frames(wanted)] == wanted


def test_an_open_video_and_a_mapper_take_every_kind(video):
    assert open_video(video) is video
    options = ["INPUT.NUM_FRAMES", "4", "TEST.NUM_CLIPS", "2", "TEST.NUM_CROPS", "1", "TEST.SHORT_SIDE", "32"]
    mapper = VideoMapper(load_cfg(None, [*options, "TEST.CROP_SIZE", "32", "INPUT.FRAME_STRIDE", "1"]), False)
    record = {"file_name": video, "label": 0, "video_id": "a", "start_sec": 0.2, "end_sec": 1.0}
    assert mapper(record, None)["video"].shape == (2, 3, 4, 32, 32)


def test_a_frame_of_another_size_is_named():
    class Grows(Own):
        def _read(self, indices):
            for index in indices:
                yield index, np.zeros((4 + index, 6, 3), np.uint8)

    video = Grows(np.zeros((2, 4, 6, 3), np.uint8))
    for read in (lambda: video.get_frames([1, 0]), video.check):
        with pytest.raises(VideoDecodeError, match="own: the frame size changes from 4x6 to 5x6 in frame 1"):
            read()


def test_a_kind_that_lacks_a_part_cannot_be_made():
    class Incomplete(Video):
        """Has no frames and no times."""

    with pytest.raises(TypeError, match="abstract"):
        Incomplete("a")


def test_the_readers_are_those_that_a_config_may_name(tmp_path, make_video, monkeypatch):
    monkeypatch.setattr("nlvideo.data.video.video_reader.load_video_decoder", lambda: FakeTorchCodec)
    path = make_video(tmp_path / "a.mp4", num_frames=2)
    assert READERS == {"pyav": VideoReader, "torchcodec": TorchCodecReader}
    for name, kind in READERS.items():
        assert load_cfg(None, ["DATALOADER.READER", name]).DATALOADER.READER == name
        with open_video(path, reader=name) as video:
            assert type(video) is kind
