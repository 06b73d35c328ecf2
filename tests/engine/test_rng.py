"""Random states: what is drawn after a restore is what was drawn before."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from nlvideo.engine.rng import get_rng_state, preserved_rng, set_rng_state


def _draw() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(()).item()]


def test_restored_generators_repeat_themselves() -> None:
    random.gauss(0, 1), np.random.randn()  # leave half of a pair of normal numbers
    state = get_rng_state()
    first = _draw()
    assert _draw() != first
    set_rng_state(state)
    assert _draw() == first


def test_the_state_survives_a_safe_file(tmp_path: Path) -> None:
    state = get_rng_state()
    torch.save(state, tmp_path / "state.pth")
    first = _draw()
    set_rng_state(torch.load(tmp_path / "state.pth", weights_only=True))
    assert _draw() == first


def test_preserved_also_after_an_error() -> None:
    state = get_rng_state()
    expected = _draw()
    set_rng_state(state)
    with pytest.raises(ZeroDivisionError), preserved_rng():
        _draw()
        _ = 1 / 0
    assert _draw() == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_generator() -> None:
    state = get_rng_state()
    first = torch.rand(3, device="cuda")
    set_rng_state(state)
    assert torch.equal(first, torch.rand(3, device="cuda"))
