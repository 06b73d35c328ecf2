"""INPUT.FPS: a clip covers the same seconds of a scene, whatever rate its file has."""

import itertools

import av
import numpy as np
import pytest
import torch

from nlvideo.config import load_cfg
from nlvideo.data import CLIP_SAMPLER, FrameArray, VideoDecodeError, VideoMapper, VideoTooShort, open_video
from nlvideo.data.checks import check_files
from nlvideo.data.dataset_mapper import nominal_frames

STRIDE_SAMPLERS = sorted(name for name in CLIP_SAMPLER if CLIP_SAMPLER.get(name).uses_stride)


@pytest.fixture(scope="module")
def scene(tmp_path_factory, make_video):
    """``scene(fps)``: 4 seconds of one scene; frame k shows what happens at k / fps seconds."""
    folder = tmp_path_factory.mktemp("scene")
    made = {}

    def make(fps, extension="mp4"):
        """Return a record of it."""
        if (fps, extension) not in made:
            codec = {"codec": "libx264", "pix_fmt": "yuv444p"} if extension == "mkv" else {}
            path = make_video(folder / f"{fps}.{extension}", num_frames=round(4 * fps), fps=fps, **codec)
            made[fps, extension] = {"file_name": path, "label": 0, "video_id": "a"}
        return made[fps, extension]

    return make


def cfg_of(*opts):
    """Clips of 4 frames, a quarter of a second apart."""
    return load_cfg(None, [
        "INPUT.NUM_FRAMES", "4", "INPUT.FRAME_STRIDE", "3", "INPUT.FPS", "12", "INPUT.SHORT_SIDE_RANGE", "[32, 32]",
        "INPUT.CROP_SIZE", "32", "TEST.SHORT_SIDE", "32", "TEST.CROP_SIZE", "32", "TEST.NUM_CLIPS", "3",
        "TEST.NUM_CROPS", "1", *opts,
    ])  # fmt: skip


def seconds_of(record, fps, frame_index, sampler, is_train, *opts):
    """When each frame of each clip of a mapper is: [[seconds]]."""
    part = "INPUT" if is_train else "TEST"
    mapper = VideoMapper(cfg_of(f"{part}.CLIP_SAMPLER", sampler, *opts), is_train)
    views = mapper(record, np.random.default_rng(3) if is_train else None)["video"]
    views = views[None] if is_train else views
    return [[frame_index(frame.permute(1, 2, 0).numpy()) / fps for frame in view.unbind(1)] for view in views]


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("name", STRIDE_SAMPLERS)
def test_two_encodings_of_one_scene_give_the_same_clips(scene, frame_index, name, is_train):
    if name == "RandomClip" and not is_train:
        pytest.skip("for training alone")
    slow, fast = (seconds_of(scene(fps), fps, frame_index, name, is_train) for fps in (25, 30))
    assert np.abs(np.array(slow) - np.array(fast)).max() <= 1 / 25
    # A clip is what the sampler makes of 12 frames a second, each no more than a frame late.
    sampler = CLIP_SAMPLER.get(name)(num_frames=4, frame_stride=3, short_video="wrap", num_clips=1 if is_train else 3)
    nominal = np.array(sampler(48, np.random.default_rng(3) if is_train else None)) / 12
    for seconds, fps in ((slow, 25), (fast, 30)):
        late = nominal - np.array(seconds)
        assert late.min() >= -1e-3 and late.max() < 1 / fps


def test_without_it_they_do_not(scene, frame_index):
    slow, fast = (seconds_of(scene(fps), fps, frame_index, "UniformClips", False, "INPUT.FPS", "0") for fps in (25, 30))
    assert slow[0] == [0, 3 / 25, 6 / 25, 9 / 25] and fast[0] == [0, 3 / 30, 6 / 30, 9 / 30]


@pytest.mark.parametrize("extension", ["mp4", "mkv"])  # mkv rounds timestamps to milliseconds
@pytest.mark.parametrize("fps", [10, 24, 30, 60])
def test_the_rate_of_the_file_is_the_file(scene, fps, extension):
    record = scene(fps, extension)
    with open_video(record["file_name"]) as video:
        assert nominal_frames(record, video) == range(4 * fps)
        assert nominal_frames(record, video, float(fps)) == list(range(4 * fps))
        assert nominal_frames(record, video, fps / 2) == list(range(0, 4 * fps, 2))
        assert nominal_frames(record, video, 2.0 * fps) == [k // 2 for k in range(8 * fps)]


def video_at(times):
    """A video without pixels whose frames are shown at chosen seconds."""

    class Timed(FrameArray):
        frame_seconds = np.array(times, float)

    return Timed(np.zeros((len(times), 2, 2, 3), np.uint8), fps=1.0)


def test_a_variable_rate():
    """A frame that stays for two seconds is what is seen for two seconds."""
    times = [0, 0.1, 0.2, 0.3, 2.3, 2.4, 2.5]
    found = nominal_frames({}, video_at(times), 5)
    assert found == [0, 2, *[3] * 10, 5][: len(found)] and len(found) == 13
    assert nominal_frames({}, video_at([0, 0.0333, 0.0667, 0.1]), 30) == [0, 1, 2, 3]
    # A jitter of a millisecond decides nothing.
    assert nominal_frames({}, video_at([0, 0.0334, 0.0674, 0.1008]), 30) == [0, 1, 2, 3]


@pytest.mark.parametrize("part, expected", [
    ({"start_sec": 1.0}, [10, 12, 14, 16, 18]),
    ({"start_sec": 0.95}, [10, 12, 14, 16, 18, 19]),
    ({"end_sec": 0.7}, [0, 2, 4, 6]),
    ({"start_sec": 0.5, "end_sec": 1.5}, [5, 7, 9, 11, 13]),
    ({"start_sec": 1.9, "end_sec": 9.0}, [19]),
    ({"start_sec": -3.0, "end_sec": 0.4}, [0, 2]),
])  # fmt: skip
def test_parts_of_a_video(part, expected):
    assert nominal_frames(part, video_at(np.arange(20) / 10), 5.0) == expected


def test_a_part_keeps_its_length_where_the_video_has_few_frames():
    """A clip of a third of a second: at 10 frames a second it has three or four of them, and never fewer than 12."""
    video = video_at(np.arange(40) / 10)
    for start in np.arange(0, 3, 0.07):
        part = {"start_sec": start, "end_sec": start + 12 / 36}
        found = nominal_frames(part, video, 36)
        assert len(found) == 12 and found == sorted(found)
        assert min(found) == video.index_at(start) and max(found) < video.index_at(part["end_sec"])


def test_segments_ignore_it(scene, frame_index):
    """They spread over the video: 2 frames a second would leave them nothing to choose from."""
    for is_train in (True, False):
        by_frame, by_time = (
            seconds_of(scene(10), 10, frame_index, "SegmentClip", is_train, "INPUT.NUM_FRAMES", "16", "INPUT.FPS", fps)
            for fps in ("0", "2")
        )
        assert by_time == by_frame and len(set(by_time[0])) == 16


def test_labels_of_spans_are_those_of_the_seconds_seen(scene):
    mapper = VideoMapper(cfg_of("MODEL.HEAD.LOSS", "sigmoid", "MODEL.HEAD.NUM_CLASSES", "4"), True)
    for fps in (10, 30):
        record = scene(fps) | {
            "label": [0],
            "label_spans": [(0, 0.0, 4.0), (1, 0.0, 0.1), (2, 2.6, 4.0), (3, 3.9, 4.0)],
        }
        record |= {"start_sec": 2.0, "end_sec": 3.0}
        sample = mapper(record, np.random.default_rng(0))
        assert torch.equal(sample["label"], torch.tensor([1.0, 0, 1, 0]))


def test_repeated_clips_and_test_clips_come_from_one_decode(scene, frame_index, monkeypatch):
    asked = []
    read = FrameArray.get_frames
    with open_video(scene(10)["file_name"]) as video:
        frames = video.get_frames(range(video.num_frames))
    monkeypatch.setattr(FrameArray, "get_frames", lambda self, indices: asked.append(indices) or read(self, indices))
    record = {"file_name": open_video(frames, fps=10), "label": 0, "video_id": "a"}
    samples = VideoMapper(cfg_of("INPUT.REPEATED_CLIPS", "4", "INPUT.FPS", "5"), True)(record, np.random.default_rng(0))
    assert len(samples) == 4 and len(asked) == 1
    for sample in samples:
        found = [frame_index(frame.permute(1, 2, 0).numpy()) for frame in sample["video"].unbind(1)]
        assert np.diff(found).tolist() == [6, 6, 6]  # 0.6 s


def test_a_folder_of_frames_has_the_rate_of_its_record(make_frames, frame_index, tmp_path):
    record = {"file_name": make_frames(tmp_path / "frames", 30), "label": 0, "video_id": "frames"}
    for rate in (6, 24):
        seconds = seconds_of(record | {"fps": rate}, rate, frame_index, "UniformClips", False, "TEST.NUM_CLIPS", "1")
        assert np.diff(seconds[0]) == pytest.approx([0.25] * 3, abs=1 / rate)
    check_files("mine", [record])
    check_files("mine", [record | {"fps": 6}], by_time=True)
    message = "mine: frames is a folder of frames with INPUT.FPS but without fps, allowed: frames per second above 0"
    with pytest.raises(ValueError, match=message):
        check_files("mine", [record], by_time=True)
    with pytest.raises(
        VideoDecodeError, match="the frame rate is not known, because images do not hold it; give 'fps'"
    ):
        VideoMapper(cfg_of(), False)(record, None)


def test_a_video_that_is_too_short(scene):
    mapper = VideoMapper(cfg_of("INPUT.FPS", "2", "INPUT.SHORT_VIDEO", "error"), False)
    with pytest.raises(VideoTooShort, match="the video has 8 frames at 2 per second, a clip needs 10"):
        mapper(scene(10), None)


def test_a_file_with_a_gap_in_its_timestamps(tmp_path, frame_index, make_video):
    """Real packets: 10 frames a second, then nothing for a second, then 10 frames a second again."""
    path = tmp_path / "gap.mp4"
    with av.open(make_video(tmp_path / "whole.mp4", num_frames=20)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                late = int(1 / packet.time_base) if packet.pts * packet.time_base >= 1 else 0
                packet.pts, packet.dts, packet.stream = packet.pts + late, packet.dts + late, stream
                target.mux(packet)
    record = {"file_name": str(path), "label": 0, "video_id": "a"}
    with open_video(path) as video:
        frames = nominal_frames(record, video, 10)
        assert frames == [*range(10), *itertools.repeat(9, 10), *range(10, 20)]
        assert [frame_index(frame) for frame in video.get_frames(frames[18:22])] == [9, 9, 10, 11]
