"""Colours: torchvision's values, measured over the clip, drawn once per clip."""

import pickle

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from nlvideo.data.transforms.photometric import ColorJitter, per_clip, per_frame

RNG = np.random.default_rng


def clip(num_frames=6, height=12, width=18):
    """Random frames (T, H, W, 3), darker from frame to frame."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (num_frames, height, width, 3), generator=generator)
    fade = torch.linspace(1.0, 0.4, num_frames).view(-1, 1, 1, 1)
    return (frames * fade).to(torch.uint8)


def images(frames):
    """(T, H, W, 3) as the (T, 3, H, W) of torchvision."""
    return frames.permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("num_frames", [1, 4, 6])
@pytest.mark.parametrize(
    "kernel, amount", [(F.adjust_brightness, 1.3), (F.adjust_saturation, 0.4), (F.adjust_hue, 0.1)]
)
def test_frame_by_frame_is_torchvisions(kernel, amount, num_frames):
    frames = clip(num_frames)
    done = per_frame(kernel, frames, amount)
    assert done.dtype == torch.uint8 and done.shape == frames.shape
    assert torch.equal(images(done), kernel(images(frames), amount))


@pytest.mark.parametrize("kernel", [F.autocontrast, F.equalize, lambda image: F.adjust_contrast(image, 1.5)])
def test_what_is_measured_is_measured_over_the_clip(kernel):
    frames = clip()
    done = per_clip(kernel, frames)
    assert done.dtype == torch.uint8 and done.shape == frames.shape
    tall = frames.reshape(-1, frames.shape[2], 3).permute(2, 0, 1).contiguous()
    assert torch.equal(done.reshape(tall.shape[1], -1, 3).permute(2, 0, 1), kernel(tall))
    # One and the same map for all frames, where a kernel for images would lift the dark ones.
    for channel in range(3):
        values, mapped = frames[..., channel].flatten(), done[..., channel].flatten()
        for value in values.unique()[:40]:
            assert len(mapped[values == value].unique()) == 1
    assert not torch.equal(images(done), kernel(images(frames)))


def test_a_still_stays_a_still():
    still = clip(1).expand(5, -1, -1, -1)
    for seed in range(5):
        done = ColorJitter(0.4, 0.4, 0.4, 0.1)(still, RNG(seed))
        assert all(torch.equal(done[0], frame) for frame in done) and not torch.equal(done, still)


def test_factors_cover_their_range_and_do_not_touch_torchs_generator():
    grey, factors = torch.full((1, 2, 2, 3), 100, dtype=torch.uint8), []
    state = torch.get_rng_state()
    for seed in range(300):
        factors.append(ColorJitter(brightness=0.4)(grey, RNG(seed))[0, 0, 0, 0].item() / 100)
    assert torch.equal(torch.get_rng_state(), state)
    assert 0.58 < min(factors) < 0.63 and 1.37 < max(factors) < 1.41 and np.mean(factors) == pytest.approx(1, abs=0.05)
    assert min(ColorJitter(brightness=3.0)(grey, RNG(seed)).min().item() for seed in range(50)) >= 0


def test_the_order_is_random_and_part_of_the_chance():
    frames = clip()
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1)
    rng = RNG(3)
    order = rng.permutation(4)
    expected = frames
    kernels = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
    for index in order:
        amount = rng.uniform(-0.1, 0.1) if index == 3 else rng.uniform(0.6, 1.4)
        expected = (per_clip if index == 1 else per_frame)(kernels[index], expected, amount)
    assert torch.equal(jitter(frames, RNG(3)), expected)
    assert torch.equal(pickle.loads(pickle.dumps(jitter))(frames, RNG(3)), expected)
    assert len({tuple(RNG(seed).permutation(4)) for seed in range(50)}) > 10


def test_what_is_zero_is_left_out():
    frames = clip()
    assert ColorJitter()(frames, RNG(0)) is frames
    assert [step[1] for step in ColorJitter(contrast=0.2).steps] == [F.adjust_contrast]
    done = ColorJitter(saturation=0.5)(frames, RNG(1))
    assert torch.equal(done, per_frame(F.adjust_saturation, frames, RNG_after_permutation(1).uniform(0.5, 1.5)))


def RNG_after_permutation(seed):
    """The generator after the draw of the order of one step."""
    rng = RNG(seed)
    rng.permutation(1)
    return rng
