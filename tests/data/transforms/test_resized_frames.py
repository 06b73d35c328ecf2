"""Frames of large videos are read and resized in parts, to the same pixels."""

import numpy as np
import pytest
import torch

from nlvideo.data import FrameArray, FrameFolder, VideoDecodeError, VideoReader
from nlvideo.data.transforms import augmentation
from nlvideo.data.transforms.augmentation import read_resized, resize_short_side


def test_parts_give_the_same_pixels_and_hold_no_more_than_allowed(make_video, make_frames, tmp_path, monkeypatch):
    make_video(tmp_path / "a.mp4", num_frames=12, width=64, height=48)
    make_frames(tmp_path / "frames", num_frames=12)
    array = np.random.default_rng(0).integers(0, 255, (12, 30, 40, 3), np.uint8)
    readers = [VideoReader(tmp_path / "a.mp4"), FrameFolder(tmp_path / "frames"), FrameArray(array)]
    for video in readers:
        indices = [0, 1, 2, 5, 9, 11, 4]
        frames = video.get_frames(indices)
        assert video.frame_bytes == frames[0].size
        whole = read_resized(video, indices, 24)
        assert torch.equal(whole, resize_short_side(torch.from_numpy(frames), 24))
        sizes = []

        def get_part(part, sizes=sizes, get_frames=video.get_frames):
            sizes.append(len(part))
            return get_frames(part)

        with monkeypatch.context() as patch:
            patch.setattr(augmentation, "MAX_HELD_BYTES", 2 * frames[0].size + 1)
            patch.setattr(video, "get_frames", get_part)
            assert torch.equal(read_resized(video, indices, 24), whole)
        assert sizes == [2, 2, 2, 1]
        video.close()


def test_a_damaged_first_image_that_nobody_wants(make_frames, tmp_path):
    folder = make_frames(tmp_path / "frames", num_frames=4)
    (tmp_path / "frames" / "00001.jpg").write_bytes(b"no image")
    assert read_resized(FrameFolder(folder), [1, 3], 24).shape == (2, 24, 36, 3)


def test_a_size_that_changes_between_parts(monkeypatch):
    class Changing(FrameArray):
        def get_frames(self, indices):
            return super().get_frames(indices)[:, :, : 40 - indices[0]]

    monkeypatch.setattr(augmentation, "MAX_HELD_BYTES", 1)
    with pytest.raises(VideoDecodeError, match=r"the frame size changes from \(30, 40\) to \(30, 39\), resized"):
        read_resized(Changing(np.zeros((2, 30, 40, 3), np.uint8)), [0, 1], 30)
