"""Samples of the mapper: shapes, exact frames, one decode for all views."""

import pickle

import numpy as np
import pytest
import torch

from nlvideo.config import get_cfg, load_cfg
from nlvideo.data.catalog import label_target
from nlvideo.data.clip_sampling import RandomClip, SegmentClip, UniformClips
from nlvideo.data.dataset_mapper import MAPPER, VideoMapper
from nlvideo.data.video.pixels import PixelLimits
from nlvideo.data.video.video_reader import VideoReader
from nlvideo.errors import VideoDecodeError, VideoTooShort


@pytest.fixture()
def record(tmp_path, make_video):
    """A video of 40 frames at 10 fps."""
    return {"file_name": make_video(tmp_path / "a.mp4", num_frames=40), "label": 2, "video_id": "a"}


def train_mapper(**options):
    """A mapper of clips of 4 x 3 frames, crop 24."""
    options = {"clip_sampler": RandomClip(4, 3), "short_side_range": (24, 40), "crop_size": 24} | options
    return VideoMapper(is_train=True, **options)


def test_mapper(**options):
    """A mapper of 2 clips of 4 x 3 frames, crop 32."""
    options = {"clip_sampler": UniformClips(4, 3, num_clips=2), "short_side_range": (32, 32), "crop_size": 32} | options
    return VideoMapper(is_train=False, **options)


test_mapper.__test__ = False


def indices_of(clip, frame_index):
    """Indices of the frames of a clip (C, T, H, W)."""
    return [frame_index(frame) for frame in clip.permute(1, 2, 3, 0).numpy()]


def test_train_sample(record, frame_index):
    sample = train_mapper()(record, np.random.default_rng(0))
    video = sample["video"]
    assert video.shape == (3, 4, 24, 24) and video.dtype == torch.uint8 and video.is_contiguous()
    assert (sample["label"], sample["video_id"]) == (2, "a")
    start, *rest = indices_of(video, frame_index)
    assert rest == [start + 3, start + 6, start + 9]


def test_train_sample_depends_on_the_generator_alone(record):
    mapper = pickle.loads(pickle.dumps(train_mapper()))
    samples = [mapper(record, np.random.default_rng(seed))["video"] for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(samples[0], samples[1]) and not all(torch.equal(samples[0], s) for s in samples[2:])


def test_flip_probability(record):
    def rising(probability):
        sample = train_mapper(flip_prob=probability)(record, np.random.default_rng(0))["video"]
        return bool(sample[2, 0, 0, -1] > sample[2, 0, 0, 0])

    assert rising(0.0) and not rising(1.0)


def test_views_are_ordered_clip_crop_flip(record, frame_index):
    sample = test_mapper(num_crops=3, flip_views=True)(record, None)
    video = sample["video"]
    assert video.shape == (12, 3, 4, 32, 32) and video.is_contiguous() and sample["label"] == 2
    for view in range(12):
        start = 0 if view < 6 else 30
        assert indices_of(video[view], frame_index) == [start, start + 3, start + 6, start + 9]
    with VideoReader(record["file_name"]) as reader:
        frame = torch.from_numpy(reader.get_frames([33])[0]).permute(2, 0, 1)
    for crop, left in enumerate((0, 8, 16)):
        assert torch.equal(video[6 + 2 * crop, :, 1], frame[:, :, left : left + 32])
        assert torch.equal(video[7 + 2 * crop], video[6 + 2 * crop].flip(-1))


def test_all_views_come_from_one_decode(record, monkeypatch):
    asked, read = [], VideoReader.get_frames
    monkeypatch.setattr(VideoReader, "get_frames", lambda self, wanted: asked.append(wanted) or read(self, wanted))
    test_mapper(clip_sampler=UniformClips(4, 3, num_clips=10), num_crops=3)(record, None)
    (indices,) = asked
    assert indices == sorted(set(indices)) and len(indices) < 40


def test_whole_frames(record):
    assert test_mapper(crop_size=0)(record, None)["video"].shape == (2, 3, 4, 32, 48)
    assert test_mapper(crop_size=0, short_side_range=(16, 16))(record, None)["video"].shape == (2, 3, 4, 16, 24)


def test_interval_of_a_video(record, frame_index):
    record |= {"start_sec": 1.0, "end_sec": 2.0}
    mapper = train_mapper(clip_sampler=RandomClip(3, 2))
    for seed in range(20):
        indices = indices_of(mapper(record, np.random.default_rng(seed))["video"], frame_index)
        assert 10 <= min(indices) and max(indices) < 20
    video = test_mapper(clip_sampler=SegmentClip(5))(record, None)["video"]
    assert indices_of(video[0], frame_index) == [11, 13, 15, 17, 19]
    del record["end_sec"]
    assert indices_of(test_mapper(clip_sampler=SegmentClip(3))(record, None)["video"][0], frame_index) == [15, 25, 35]


def test_interval_of_a_folder_of_frames(tmp_path, make_frames, frame_index):
    folder = make_frames(tmp_path / "v", num_frames=40)
    record = {"file_name": folder, "label": 2, "video_id": "v", "fps": 10.0, "start_sec": 1.0, "end_sec": 2.0}
    video = test_mapper(clip_sampler=SegmentClip(5))(record, None)["video"]
    assert indices_of(video[0], frame_index) == [11, 13, 15, 17, 19]
    with pytest.raises(VideoDecodeError, match="the frame rate is not known"):
        test_mapper()({**record, "fps": None}, None)


def test_a_folder_of_frames_gives_the_samples_of_the_video(record, tmp_path, make_frames, frame_index):
    folder = record | {"file_name": make_frames(tmp_path / "v", num_frames=40)}
    for seed in range(5):
        samples = [train_mapper()(r, np.random.default_rng(seed)) for r in (record, folder)]
        (first, second), video = [indices_of(sample["video"], frame_index) for sample in samples], samples[1]["video"]
        assert first == second and video.shape == (3, 4, 24, 24) and video.dtype == torch.uint8


@pytest.mark.parametrize("as_folder", [False, True])
def test_labels_of_a_training_clip_are_those_active_in_it(record, tmp_path, make_frames, frame_index, as_folder):
    spans = [(0, 0.0, 1.0), (1, 1.5, 2.5), (3, 3.95, 9.0), (4, 2.01, 2.02)]
    record = {**record, "label": [0, 1, 3, 4], "label_spans": spans}
    if as_folder:
        record |= {"file_name": make_frames(tmp_path / "v", num_frames=40), "fps": 10}
    mapper, seen = train_mapper(clip_sampler=RandomClip(2, 2), num_classes=5), set()
    # Frames, at 10 fps, in which each label is active. The last span lies between two frames and counts as one.
    active = {0: range(10), 1: range(15, 25), 3: range(40, 41), 4: range(21, 22)}
    for seed in range(60):
        sample = mapper(record, np.random.default_rng(seed))
        first, last = indices_of(sample["video"], frame_index)
        expected = {label for label, frames in active.items() if set(frames) & set(range(first, last + 1))}
        assert set(sample["label"].nonzero().flatten().tolist()) == expected
        seen.add(frozenset(expected))
    assert {frozenset(), frozenset({0}), frozenset({1}), frozenset({1, 4})} <= seen
    tested = test_mapper(num_classes=5)(record, None)
    assert tested["label"].tolist() == [1, 1, 0, 1, 1]


def test_interval_without_frames(record):
    with pytest.raises(VideoDecodeError, match="no frames from 9 s to the end among 40 at 10 fps"):
        test_mapper()(record | {"start_sec": 9}, None)


def test_too_short_an_interval_under_the_error_policy(record):
    mapper = test_mapper(clip_sampler=UniformClips(4, 3, short_video="error"))
    with pytest.raises(VideoTooShort, match="the video has 9 frames, a clip needs 10"):
        mapper(record | {"end_sec": 0.9}, None)


def test_several_labels_become_a_vector(record):
    mapper = train_mapper(num_classes=5)
    target = mapper(record | {"label": [0, 3]}, np.random.default_rng(0))["label"]
    assert target.dtype == torch.float32 and target.tolist() == [1, 0, 0, 1, 0]
    assert label_target(2, 5).tolist() == [0, 0, 1, 0, 0] and label_target(2, None) == 2


def test_from_config():
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            "INPUT.NUM_FRAMES",
            8,
            "INPUT.FRAME_STRIDE",
            3,
            "INPUT.SHORT_VIDEO",
            "clamp",
            "TEST.NUM_CLIPS",
            4,
            "TEST.SHORT_SIDE",
            300,
            "INPUT.FLIP_PROB",
            0.0,
            "TEST.FLIP",
            True,
        ]
    )
    train, test = (MAPPER.get("VideoMapper")(cfg, is_train) for is_train in (True, False))
    assert isinstance(train.clip_sampler, RandomClip) and isinstance(test.clip_sampler, UniformClips)
    for sampler, num_clips in ((train.clip_sampler, 1), (test.clip_sampler, 4)):
        values = sampler.num_frames, sampler.frame_stride, sampler.short_video, sampler.num_clips
        assert values == (8, 3, "clamp", num_clips)
    assert (train.short_side_range, train.crop_size, train.flip_prob, train.num_classes) == ((256, 320), 224, 0.0, None)
    assert (test.short_side_range, test.crop_size, test.num_crops, test.flip_views) == ((300, 300), 256, 3, True)
    cfg.MODEL.HEAD.LOSS = "sigmoid"
    assert VideoMapper(cfg, True).num_classes == 400


def test_config_says_how_files_are_read(tmp_path):
    options = ["DATALOADER.VIDEO_TIMEOUT_SEC", "7", "DATALOADER.INDEX_DIR", str(tmp_path / "index")]
    options += ["DATALOADER.MAX_FRAME_PIXELS", "1000", "DATALOADER.MAX_CLIP_PIXELS", "9000"]
    mapper = VideoMapper(load_cfg(None, options), True)
    pixels = PixelLimits(1000, 9000)
    expected = {"reader": "pyav", "timeout_sec": 7.0, "index_dir": str(tmp_path / "index"), "pixels": pixels}
    assert mapper.reading == expected
    assert VideoMapper(load_cfg(None, []), False).reading["index_dir"] is None
