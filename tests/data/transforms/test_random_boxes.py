"""Boxes of random size and place: where they may lie, and that all frames get the same."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from nlvideo.data.transforms.augmentation import draw_box, random_resized_crop
from nlvideo.data.transforms.clip_augmentations import RandomErasing

RNG = np.random.default_rng


def frames_of(height=40, width=60, num_frames=3):
    """Random frames, all the same."""
    frame = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return frame.expand(num_frames, -1, -1, -1)


def test_boxes_stay_in_the_frame_and_in_their_ranges():
    rng = RNG(0)
    boxes = np.array([draw_box(80, 120, (0.1, 0.4), (0.5, 2.0), rng) for _ in range(500)])
    top, left, height, width = boxes.T
    assert top.min() == 0 and left.min() == 0
    assert (top + height).max() <= 80 and (left + width).max() <= 120
    shares, aspects = height * width / (80 * 120), width / height
    assert 0.09 < shares.min() < 0.12 and 0.37 < shares.max() < 0.41 and shares.mean() == pytest.approx(0.25, abs=0.02)
    assert 0.48 < aspects.min() < 0.55 and 1.8 < aspects.max() < 2.1
    assert np.median(np.log(aspects)) == pytest.approx(0, abs=0.1), "the logarithm of the aspect ratio is uniform"


def test_a_box_that_cannot_fit_is_none():
    assert draw_box(10, 100, (1.0, 1.0), (1.0, 1.0), RNG(0)) is None
    assert draw_box(10, 10, (1.0, 1.0), (1.0, 1.0), RNG(0)) == (0, 0, 10, 10)


def test_the_crop_is_the_resized_box_and_one_for_all_frames():
    for seed in range(20):
        crop = random_resized_crop(frames_of(), 24, (0.2, 1.0), (0.75, 1.3333), RNG(seed))
        top, left, height, width = draw_box(40, 60, (0.2, 1.0), (0.75, 1.3333), RNG(seed))
        box = frames_of()[:, top : top + height, left : left + width].permute(0, 3, 1, 2)
        exact = torch.nn.functional.interpolate(box.double(), size=(24, 24), mode="bilinear").permute(0, 2, 3, 1)
        assert crop.dtype == torch.uint8 and crop.shape == (3, 24, 24, 3)
        # Fixed-point weights on bytes.
        assert (crop.double() - exact).abs().max() <= 1.5
        assert torch.equal(crop[0], crop[1]) and torch.equal(crop[0], crop[2])


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(20, 100, (20, 27)), (100, 20, (27, 20)), (30, 30, (30, 30))]
)
def test_where_nothing_fits_the_largest_box_is_cut_from_the_middle(height, width, expected, monkeypatch):
    monkeypatch.setattr("nlvideo.data.transforms.augmentation.draw_box", lambda *arguments: None)
    frames = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    top, left = (height - expected[0]) // 2, (width - expected[1]) // 2
    frames[:, top : top + expected[0], left : left + expected[1]] = 200
    assert (random_resized_crop(frames, 16, (0.5, 1.0), (3 / 4, 4 / 3), RNG(0)) == 200).all()
    # torchvision's fallback, which it takes where no area is allowed that fits.
    image = torch.zeros(3, height, width)
    assert RandomResizedCrop.get_params(image, (9.0, 9.0), (3 / 4, 4 / 3)) == (top, left, *expected)


def test_a_box_of_the_right_size_is_only_cut():
    frames = frames_of(16, 16)
    assert random_resized_crop(frames, 16, (1.0, 1.0), (1.0, 1.0), RNG(0)).data_ptr() == frames.data_ptr()


def test_erasing_covers_one_box_with_the_same_noise_in_all_frames():
    frames, shares = frames_of(), []
    for seed in range(100):
        erased = RandomErasing(1.0)(frames, RNG(seed))
        assert torch.equal(erased[0], erased[1]) and torch.equal(erased[0], erased[2])
        rows, columns = (erased[0] != frames[0]).any(dim=2).nonzero().T
        shares.append((rows.max() - rows.min() + 1).item() * (columns.max() - columns.min() + 1).item() / (40 * 60))
    assert 0.015 < min(shares) and 0.25 < max(shares) < 0.35
    assert torch.equal(frames, frames_of()), "the frames given are left alone"


def test_erasing_by_its_probability():
    frames, rng = frames_of(), RNG(0)
    assert 15 < sum(RandomErasing(0.25)(frames, rng) is not frames for _ in range(100)) < 36
    assert RandomErasing(0.0)(frames, rng) is frames


def test_a_cuboid_covers_consecutive_frames():
    frames, lengths, firsts = frames_of(num_frames=10), set(), set()
    erase = RandomErasing(1.0, length_range=(0.2, 0.5))
    for seed in range(60):
        changed = (erase(frames, RNG(seed)) != frames).flatten(1).any(dim=1).nonzero().flatten().tolist()
        assert changed == list(range(changed[0], changed[-1] + 1))
        lengths.add(len(changed))
        firsts.add(changed[0])
    assert lengths == {2, 3, 4, 5} and {0, 8} <= firsts


def test_a_box_that_never_fits_erases_nothing():
    frames = frames_of()
    assert RandomErasing(1.0, area_range=(1.0, 1.0), aspect_range=(9.0, 9.0))(frames, RNG(0)) is frames
    assert math.isclose(RandomErasing().area_range[1], 1 / 3)
