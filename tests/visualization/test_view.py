"""The view of a video that is drawn on, and its way back to the file."""

import av
import numpy as np
import pytest
import torch
from PIL import Image

from nlvideo.config import load_cfg
from nlvideo.data import VideoDecodeError, VideoMapper, VideoReader
from nlvideo.visualization import attend, describe, load_view, top_keys

OPTS = ["INPUT.NUM_FRAMES", "4", "INPUT.FRAME_STRIDE", "2", "TEST.NUM_CLIPS", "3", "TEST.NUM_CROPS", "3",
        "TEST.SHORT_SIDE", "40", "TEST.CROP_SIZE", "36", "TEST.FLIP", "True"]  # fmt: skip


def cfg_with(*opts):
    """The config of the view's tests."""
    return load_cfg(None, [*OPTS, *opts])


@pytest.mark.parametrize("height, width", [(32, 48), (80, 60)])
@pytest.mark.parametrize("sampler", ["UniformClips", "SegmentClip", "AuthorsClips"])
@pytest.mark.parametrize("crop", ["36", "0"])
def test_it_is_what_the_mapper_gives(make_video, frame_index, tmp_path, height, width, sampler, crop):
    path = make_video(tmp_path / "a.mp4", num_frames=23, height=height, width=width)
    cfg = cfg_with("TEST.CLIP_SAMPLER", sampler, "TEST.CROP_SIZE", crop, "TEST.NUM_CROPS", "1", "TEST.NUM_CLIPS", "1",
                   "TEST.FLIP", "False")  # fmt: skip
    view = load_view(cfg, path)
    expected = VideoMapper(cfg, False)({"file_name": path, "label": 0, "video_id": "a"}, None)["video"]
    assert torch.equal(view.video, expected[0])
    assert [frame_index(frame.permute(1, 2, 0)) for frame in view.video.unbind(1)] == list(view.frames)
    # Several views in the config: the one in the middle.
    many = load_view(cfg_with("TEST.CLIP_SAMPLER", sampler, "TEST.CROP_SIZE", crop,
                              "TEST.NUM_CROPS", "1" if crop == "0" else "3"), path)  # fmt: skip
    assert torch.equal(many.video, view.video) and many.frames == view.frames


def test_a_point_of_the_file_is_where_the_view_shows_it(tmp_path):
    # White squares on black, one a frame, of every place: their centres of gravity are where to_view says.
    places = [(20, 40), (44, 52), (60, 90), (36, 72)]
    frames = np.zeros((4, 96, 128, 3), np.uint8)
    for frame, (y, x) in zip(frames, places):
        frame[y - 8 : y + 8, x - 8 : x + 8] = 255
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{index}.png")
    view = load_view(cfg_with("INPUT.FRAME_STRIDE", "1", "TEST.SHORT_SIDE", "72", "TEST.CROP_SIZE", "70"), folder)
    assert view.frames == (0, 1, 2, 3) and view.scale == (0.75, 0.75) and view.corner == (1, 13)
    grid = np.arange(70) + 0.5
    for clip, (y, x) in zip(view.video[0].double().numpy(), places):
        seen = (clip.sum(1) @ grid / clip.sum(), clip.sum(0) @ grid / clip.sum())
        assert view.to_view(y, x) == pytest.approx(seen, abs=0.02)
        assert view.to_file(*view.to_view(y, x)) == pytest.approx((y, x))


def test_from_the_file_to_the_key_and_back(pool_net, tmp_path):
    """A lamp in a video, an arrow to it, and the arrow's place in the video's own pixels."""
    frames = np.full((8, 96, 128, 3), 30, np.uint8)
    frames[5, 30:38, 80:88] = 255
    path = tmp_path / "lamp.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24").reformat(format="bgr0")))
        container.mux(stream.encode(None))
    cfg = cfg_with("INPUT.NUM_FRAMES", "4", "INPUT.FRAME_STRIDE", "2", "TEST.SHORT_SIDE", "48", "TEST.CROP_SIZE", "48")
    view = load_view(cfg, path, start_sec=1 / 8)
    assert view.frames == (1, 3, 5, 7)
    network = pool_net(pool=(1, 2, 2), scale=False)
    network.nl.theta = torch.nn.Conv3d(3, 3, 1, bias=False)
    torch.nn.init.constant_(network.nl.theta.weight, 10.0)
    report = describe(attend(network, view.video, None, [(0, 2, 3)]), view, k=1)
    (query,) = report["queries"]
    assert query["shown"] == [0, 2, 3] and query["video"] == [1, 4, 22]
    (key,) = query["keys"]
    assert key["video"][0] == 5 and abs(key["video"][1] - 34) <= 8 and abs(key["video"][2] - 84) <= 8
    assert report["num_keys"] == 4 * 12 * 12 and 0 < key["weight"] <= 1
    assert len(top_keys(attend(network, view.video, None, [(0, 2, 3)]), 7)[0].weights) == 7


def test_only_the_frames_of_the_clip_are_decoded(make_video, tmp_path, monkeypatch):
    path = make_video(
        tmp_path / "long.mp4", num_frames=1000, gop=10, height=16, width=16, codec="libx264", pix_fmt="yuv420p", crf="5"
    )
    decoded = []
    get_frames = VideoReader.get_frames

    def count(self, indices):
        frames = get_frames(self, indices)
        decoded.append(self.num_decoded)
        return frames

    monkeypatch.setattr(VideoReader, "get_frames", count)
    view = load_view(cfg_with("INPUT.FRAME_STRIDE", "200", "TEST.SHORT_SIDE", "16", "TEST.CROP_SIZE", "16"), path)
    assert view.frames == (199, 399, 599, 799) and len(decoded) == 1 and 4 <= decoded[0] <= 4 * 10


def test_parts_of_a_video(make_video, tmp_path):
    path = make_video(tmp_path / "a.mp4", num_frames=40, fps=10)
    assert load_view(cfg_with(), path).frames == (16, 18, 20, 22)
    assert load_view(cfg_with(), path, start_sec=2).frames == (26, 28, 30, 32)
    assert load_view(cfg_with(), path, 1, 1.7).frames == (10, 12, 14, 16)
    # Four frames, a fifth of a second apart, whatever the rate.
    by_time = cfg_with("INPUT.FPS", "10", "INPUT.FRAME_STRIDE", "2")
    for fps, frames in ((10, (12, 14, 16, 18)), (20, (24, 28, 32, 36)), (5, (6, 7, 8, 9))):
        other = make_video(tmp_path / f"{fps}.mp4", num_frames=4 * fps, fps=fps)
        assert load_view(by_time, other, start_sec=1, end_sec=2.1).frames == frames
    with pytest.raises(VideoDecodeError, match="a.mp4: no frames from 4 s to the end"):
        load_view(cfg_with(), path, 4)
    with pytest.raises(VideoDecodeError, match="a.mp4: no frames from 3 s to 2 s"):
        load_view(cfg_with(), path, 3, 2)


def test_not_a_video(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(VideoDecodeError, match=name):
            load_view(cfg_with(), tmp_path / name)
