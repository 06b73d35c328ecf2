"""Clips inside the page: they play, they are small, and they keep to the budget."""

import base64
import io

import av
import numpy as np
import pytest
from PIL import Image

from nlvideo.data import VideoDecodeError, VideoReader
from nlvideo.model_zoo import Predictor
from nlvideo.visualization import grad_cam, heated_frames, load_view
from nlvideo.visualization.demo import write_examples
from nlvideo.visualization.report import clips
from nlvideo.visualization.report.clips import MAX_FRAMES, Budget, make_clip, make_heat


def decode(clip):
    content = base64.b64decode(clip.video.removeprefix("data:video/mp4;base64,"))
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], float(rate), stream.codec.name


def strip_of(clip):
    return Image.open(io.BytesIO(base64.b64decode(clip.strip.removeprefix("data:image/jpeg;base64,"))))


def make(path, **more):
    return make_clip({"file_name": path, **more}, Budget())


def test_a_short_video_is_whole(make_video, frame_index, tmp_path):
    clip = make(make_video(tmp_path / "a.mp4", num_frames=12, height=64, width=96, fps=10))
    frames, rate, codec = decode(clip)
    assert codec == "h264" and rate == 10 and clip.speed == pytest.approx(1.0)
    assert [frame_index(frame) for frame in frames] == list(range(12))
    assert frames[0].shape == (64, 96, 3) and (clip.width, clip.height) == (96, 64)
    assert strip_of(clip).size == (4 * 96, 64)


def test_a_long_video_is_thinned_and_keeps_its_duration(make_video, frame_index, tmp_path):
    clip = make(make_video(tmp_path / "a.mp4", num_frames=96, height=32, width=32, fps=24))
    frames, rate, _ = decode(clip)
    assert len(frames) == MAX_FRAMES and rate == 12 and clip.speed == pytest.approx(1.0)
    assert [frame_index(frame) for frame in frames] == list(range(0, 96, 2))
    # 200 frames in 20 seconds: 2.4 a second would be a slide show.
    slow = make(make_video(tmp_path / "b.mp4", num_frames=200, height=32, width=32, fps=10))
    assert decode(slow)[1] == 6 and slow.speed == pytest.approx(2.5)


def test_a_part_of_a_video(make_video, frame_index, tmp_path):
    path = make_video(tmp_path / "a.mp4", num_frames=40, height=32, width=32, fps=10)
    frames, _, _ = decode(make(path, start_sec=1.0, end_sec=2.0))
    assert [frame_index(frame) for frame in frames] == list(range(10, 20))
    frames, _, _ = decode(make(path, start_sec=99.0))
    assert [frame_index(frame) for frame in frames] == [39]


def test_a_folder_of_frames(make_frames, tmp_path):
    folder = make_frames(tmp_path / "frames", num_frames=5)
    assert len(decode(make(folder))[0]) == 5 and make(folder).speed is None
    assert make(folder, fps=25).speed == pytest.approx(1.0)


@pytest.mark.parametrize("size, shown", [((240, 320), (128, 170)), ((33, 61), (32, 60)), ((500, 129), (496, 128)),
                                         ((8, 6000), (2, 1024))])  # fmt: skip
def test_large_videos_shrink_and_sides_are_even(size, shown):
    image = clips._shrink(Image.new("RGB", size[::-1]), 128)
    assert image.size == shown[::-1]


def test_heat_is_that_of_the_class(tmp_path):
    (path,) = write_examples(tmp_path, count=1)[:1]
    predictor, budget = Predictor("quickstart", device="cpu"), Budget()
    shown = {target: decode(make_heat(predictor, {"file_name": path}, target, budget))[0] for target in (0, 7)}
    view = load_view(predictor.cfg, path)
    for target, frames in shown.items():
        expected = heated_frames(grad_cam(predictor.model, view.video, target), 0)
        # H.264 is not exact.
        assert np.abs(np.stack(frames).astype(float) - expected).mean() < 8
    assert np.abs(np.stack(shown[0]).astype(float) - np.stack(shown[7])).mean() > 20
    assert make_heat(predictor, {"file_name": path}, 0, Budget(num_bytes=10)) is None


def test_the_budget_of_bytes(make_video, tmp_path):
    path = make_video(tmp_path / "a.mp4")
    budget = Budget(num_bytes=10**6)
    assert make_clip({"file_name": path}, budget) is not None
    used = 10**6 - budget.num_bytes
    assert 500 < used < 50_000
    small = Budget(num_bytes=used - 1)
    assert make_clip({"file_name": path}, small) is None and small.num_bytes == used - 1


def test_the_budget_of_seconds(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(clips.time, "monotonic", lambda: now[0])
    budget = Budget(seconds=2)
    assert not budget.is_spent()
    now[0] = 101.9
    assert not budget.is_spent()
    now[0] = 102.1
    assert budget.is_spent() and Budget(num_bytes=0).is_spent()


def test_without_an_encoder_the_strip_remains(make_video, tmp_path, monkeypatch):
    path = make_video(tmp_path / "a.mp4")

    def refuse(*_, **__):
        raise av.codec.codec.UnknownCodecError("libx264")

    monkeypatch.setattr(clips, "encode_video", refuse)
    clip = make(path)
    assert clip.video == "" and strip_of(clip).width > 0


def test_a_video_that_cannot_be_read(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(VideoDecodeError):
        make(str(tmp_path / "a.mp4"))


def test_frames_are_read_one_at_a_time(make_video, tmp_path, monkeypatch):
    """Of a large video the frames of a clip would take gigabytes together."""
    sizes, get_frames = [], VideoReader.get_frames
    monkeypatch.setattr(VideoReader, "get_frames", lambda *args: sizes.append(len(args[1])) or get_frames(*args))
    clips.make_clip({"file_name": make_video(tmp_path / "a.mp4", num_frames=30)}, Budget())
    assert set(sizes) == {1}
