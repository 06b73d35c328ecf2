"""RandAugment: torchvision's operations, drawn once per clip."""

import pickle

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, v2

from nlvideo.data.transforms.photometric import MAX_MAGNITUDE, OPERATIONS, RandAugment

RNG = np.random.default_rng
FILL = [115.0, 115.0, 115.0]


def clip(num_frames=5, height=24, width=30):
    """Smooth random frames (T, H, W, 3)."""
    small = torch.rand(num_frames, 3, 6, 8, generator=torch.Generator().manual_seed(0)) * 255
    frames = torch.nn.functional.interpolate(small, size=(height, width), mode="bilinear")
    return frames.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def theirs(name, frames, magnitude, sign):
    """What torchvision makes of a single frame."""
    image = frames.permute(0, 3, 1, 2).contiguous()
    augment = v2.RandAugment(interpolation=InterpolationMode.BILINEAR, fill=FILL)
    magnitudes, signed = augment._AUGMENTATION_SPACE[name]
    values = magnitudes(MAX_MAGNITUDE + 1, image.shape[2], image.shape[3])
    amount = 0.0 if values is None else float(values[magnitude]) * (sign if signed else 1)
    fill = {torch.Tensor: FILL}
    done = augment._apply_image_or_video_transform(image, name, amount, InterpolationMode.BILINEAR, fill)
    return done.permute(0, 2, 3, 1)


def test_the_operations_are_those_of_torchvision():
    assert set(OPERATIONS) == set(v2.RandAugment._AUGMENTATION_SPACE)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("magnitude, sign", [(9, 1), (9, -1), (30, 1), (0, 1)])
def test_a_frame_comes_out_as_torchvisions(name, magnitude, sign):
    frame = clip(1)
    ours = OPERATIONS[name](frame, sign * magnitude / MAX_MAGNITUDE, FILL)
    assert ours.dtype == torch.uint8 and ours.shape == frame.shape
    assert (ours.int() - theirs(name, frame, magnitude, sign).int()).abs().max() <= 1


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_frame_gets_the_same(name):
    still = clip(1).expand(6, -1, -1, -1)
    done = OPERATIONS[name](still, -0.5, FILL)
    assert done.shape == still.shape and all(torch.equal(done[0], frame) for frame in done)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in ("Identity", "AutoContrast", "Equalize")])
def test_two_directions_differ_and_nothing_is_nothing(name):
    frames = clip()
    one, other = (OPERATIONS[name](frames, amount, FILL) for amount in (0.7, -0.7))
    assert not torch.equal(one, frames)
    assert torch.equal(one, other) == (name in ("Posterize", "Solarize"))
    assert (OPERATIONS[name](frames, 0.0, FILL).int() - frames.int()).abs().max() <= (name == "Solarize") * 255


def test_what_comes_in_from_outside_is_filled():
    white = torch.full((2, 20, 20, 3), 255, dtype=torch.uint8)
    moved = OPERATIONS["TranslateX"](white, 1.0, [10.0, 20.0, 30.0])
    assert moved[1, 5, 0].tolist() == [10, 20, 30] and moved[1, 5, -1].tolist() == [255] * 3


def test_draws():
    frames, augment = clip(), RandAugment(2, 12, FILL)
    assert torch.equal(augment(frames, RNG(0)), pickle.loads(pickle.dumps(augment))(frames, RNG(0)))
    rng, expected = RNG(4), frames
    for _ in range(2):
        name, sign = list(OPERATIONS)[rng.integers(14)], 1 if rng.random() < 0.5 else -1
        expected = OPERATIONS[name](expected, sign * 0.4, FILL)
    assert torch.equal(augment(frames, RNG(4)), expected)
    assert len({augment(frames, RNG(seed)).numpy().tobytes() for seed in range(20)}) > 12
    state = torch.get_rng_state()
    augment(frames, RNG(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_every_operation_is_drawn(monkeypatch):
    seen = []
    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, lambda frames, amount, fill, name=name: seen.append(name) or frames)
    RandAugment(500)(clip(1), RNG(0))
    assert set(seen) == set(OPERATIONS) and len(seen) == 500
