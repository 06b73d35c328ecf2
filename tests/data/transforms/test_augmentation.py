"""Sizes and places of resizes, crops and flips."""

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import ten_crop

from nlvideo.data.transforms import augmentation as aug


def grid(height, width, num_frames=2):
    """Frames whose pixels say where they are: red the row, green the column, blue the frame."""
    frames = torch.zeros(num_frames, height, width, 3, dtype=torch.uint8)
    frames[..., 0] = torch.arange(height, dtype=torch.uint8)[:, None]
    frames[..., 1] = torch.arange(width, dtype=torch.uint8)
    frames[..., 2] = torch.arange(num_frames, dtype=torch.uint8)[:, None, None]
    return frames


def corner(crop):
    """Row and column where a crop of ``grid`` was cut."""
    return int(crop[0, 0, 0, 0]), int(crop[0, 0, 0, 1])


@pytest.mark.parametrize(
    "size, short_side, expected",
    [
        ((256, 340), 256, (256, 340)),
        ((240, 320), 256, (256, 341)),
        ((340, 256), 224, (297, 224)),
        ((100, 100), 37, (37, 37)),
        ((7, 9), 5, (5, 6)),
    ],
)
def test_resize_to_the_exact_size(size, short_side, expected):
    resized = aug.resize_short_side(grid(*size), short_side)
    assert resized.shape == (2, *expected, 3) and resized.dtype == torch.uint8


def test_resize_is_exact_for_every_size():
    for short in range(8, 200, 7):
        for target in (8, 31, 112, 255, 256):
            frames = torch.zeros(1, short, short + 3, 3, dtype=torch.uint8)
            assert min(aug.resize_short_side(frames, target).shape[1:3]) == target


def test_right_size_is_left_alone():
    frames = grid(20, 30)
    assert aug.resize_short_side(frames, 20) is frames


@pytest.mark.parametrize("short_side", [9, 40])
def test_resize_is_bilinear_without_antialiasing(short_side):
    frames = torch.randint(0, 256, (3, 20, 26, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    resized = aug.resize_short_side(frames, short_side)
    size = resized.shape[1:3]
    exact = torch.nn.functional.interpolate(frames.permute(0, 3, 1, 2).double(), size=size, mode="bilinear")
    assert (resized.permute(0, 3, 1, 2).double() - exact).abs().max() <= 1
    assert torch.equal(resized, aug.resize_short_side(frames, short_side))


def test_jitter_draws_all_integers_of_the_range():
    rng, frames = np.random.default_rng(0), grid(10, 12)
    assert {min(aug.jitter_short_side(frames, (8, 11), rng).shape[1:3]) for _ in range(100)} == {8, 9, 10, 11}


def test_random_crop_reaches_every_place_and_is_one_for_all_frames():
    rng, places = np.random.default_rng(0), set()
    for _ in range(200):
        crop = aug.random_crop(grid(6, 7), 5, rng)
        assert crop.shape == (2, 5, 5, 3) and torch.equal(crop[0, ..., :2], crop[1, ..., :2])
        places.add(corner(crop))
    assert places == {(y, x) for y in range(2) for x in range(3)}


@pytest.mark.parametrize(
    "size, num_crops, corners",
    [
        ((8, 13), 1, [(0, 2)]),
        ((8, 13), 3, [(0, 0), (0, 2), (0, 5)]),
        ((13, 8), 3, [(0, 0), (2, 0), (5, 0)]),
        ((10, 13), 3, [(1, 0), (1, 2), (1, 5)]),
        ((8, 8), 3, [(0, 0)] * 3),
        # Ten-crop: corner() reads the top left pixel, of a mirror image the top right one of its crop.
        ((10, 13), 10, [(0, 0), (0, 7), (0, 5), (0, 12), (2, 0), (2, 7), (2, 5), (2, 12), (1, 2), (1, 9)]),
        ((13, 8), 10, [(0, 0), (0, 7), (0, 0), (0, 7), (5, 0), (5, 7), (5, 0), (5, 7), (2, 0), (2, 7)]),
    ],
)
def test_uniform_crops(size, num_crops, corners):
    crops = aug.uniform_crops(grid(*size), 8, num_crops)
    assert [corner(crop) for crop in crops] == corners
    assert all(crop.shape == (2, 8, 8, 3) for crop in crops)


def test_ten_crop_alternates_crops_and_their_mirror_images():
    crops = aug.uniform_crops(grid(20, 31), 16, 10)
    for crop, mirrored in zip(crops[::2], crops[1::2]):
        assert torch.equal(mirrored, crop.flip(2))
    boxes = [(y, x, int(c[0, -1, 0, 0]) + 1, int(c[0, 0, -1, 1]) + 1) for c in crops[::2] for y, x in [corner(c)]]
    assert boxes == [(0, 0, 16, 16), (0, 15, 16, 31), (4, 0, 20, 16), (4, 15, 20, 31), (2, 7, 18, 23)]


def test_ten_crop_is_that_of_torchvision():
    frames = grid(20, 30)
    theirs = [crop.permute(0, 2, 3, 1) for crop in ten_crop(frames.permute(0, 3, 1, 2), 16)]
    ours = aug.uniform_crops(frames, 16, 10)
    # They list crops first, then crops of the mirrored frame, whose left is our right.
    expected = [*theirs[:5], *(theirs[5 + k] for k in (1, 0, 3, 2, 4))]
    for crop, other in zip([*ours[::2], *ours[1::2]], expected, strict=True):
        assert torch.equal(crop, other)


def test_crop_size_zero_is_the_whole_frame():
    frames = grid(8, 13)
    assert [crop is frames for crop in aug.uniform_crops(frames, 0, 1)] == [True]


def test_clear_errors():
    with pytest.raises(ValueError, match="a crop of 9x9 px does not fit into frames of 8x13 px"):
        aug.random_crop(grid(8, 13), 9, np.random.default_rng(0))
    with pytest.raises(ValueError, match="a crop of 9x9 px does not fit into frames of 8x13 px"):
        aug.uniform_crops(grid(8, 13), 9, 3)
    with pytest.raises(ValueError, match="num_crops for crop size 8: got 2, allowed: 1, 3, 10"):
        aug.uniform_crops(grid(8, 13), 8, 2)
    with pytest.raises(ValueError, match="num_crops for crop size 0: got 3, allowed: 1"):
        aug.uniform_crops(grid(8, 13), 0, 3)


def test_flip_and_its_probability():
    frames, rng = grid(4, 6), np.random.default_rng(0)
    assert torch.equal(aug.flip(frames)[..., 1], frames[..., 1].flip(2))
    flipped = [corner(aug.random_flip(frames, 0.5, rng))[1] == 5 for _ in range(200)]
    assert 70 < sum(flipped) < 130
    assert corner(aug.random_flip(frames, 0.0, rng)) == (0, 0) and corner(aug.random_flip(frames, 1.0, rng)) == (0, 5)


def test_to_clip():
    clip = aug.to_clip(grid(4, 6))
    assert clip.shape == (3, 2, 4, 6) and clip.is_contiguous() and clip[0, 1, 3, 2] == 3 and clip[1, 1, 3, 2] == 2
