"""Heat over frames."""

import numpy as np
import pytest
import torch

from nlvideo.visualization import heated_frames, overlay_frames
from nlvideo.visualization.drawing import add_heat


def test_heat_is_where_the_weight_is(make_maps):
    weights = torch.zeros(1, 4, 2, 2)
    weights[0, 2, 0, 1] = 0.25
    pictures = overlay_frames(make_maps(weights, [(0, 0, 0)]), 0)
    assert pictures.dtype == np.uint8 and pictures.shape == (4, 320 + 52, 320, 3)
    changed = (pictures[:, :320] != 100).any(-1)
    expected = np.zeros((4, 320, 320), bool)
    expected[2, :160, 160:] = True
    # The query, a box around its cell with a rim, stands in its own frame.
    assert changed[0, :84, :84].any() and not changed[0, 84:].any() and not changed[0, :, 84:].any()
    assert np.array_equal(changed[1:], expected[1:])


def test_heat_covers_the_window_of_its_key(make_maps):
    weights = torch.zeros(1, 4, 8, 8)
    frames = heated_frames(make_maps(weights, [(0, 0, 0)], clip=(8, 64, 64)), 0)
    weights[0, 1, 2, 3] = 0.5
    heated = heated_frames(make_maps(weights, [(0, 0, 0)], clip=(8, 64, 64)), 0)
    changed = np.argwhere((heated != frames).any(-1))
    assert changed.min(0).tolist() == [2, 16, 24] and changed.max(0).tolist() == [3, 23, 31]
    assert heated.shape == (8, 64, 64, 3) and heated.dtype == np.uint8


def test_the_query_stands_in_every_frame_of_its_cell(make_maps):
    maps = make_maps(torch.zeros(1, 4, 4, 4), [(5, 9, 9)], clip=(8, 16, 16))
    maps = type(maps)(**{**maps.__dict__, "queries": maps.keys})
    pictures = overlay_frames(maps, 0)
    assert [bool((picture[:320] != 100).any()) for picture in pictures] == [False] * 4 + [True] * 2 + [False] * 2
    # The dot marks the frame that was asked for.
    assert (pictures[5, 190, 190] == 255).all() and (pictures[4, 190, 190] == 100).all()


def test_negative_weights_are_blue():
    frame = np.full((1, 3, 3), 128, np.uint8)
    warm, cool, nothing = add_heat(frame, np.array([[0.5, -0.5, 0.0]]))[0].astype(int)
    assert warm[0] > 128 > warm[2] and cool[2] > 128 > cool[0] and nothing.tolist() == [128] * 3


def test_more_weight_is_more_heat():
    shares = np.linspace(-1, 1, 21)[None]
    black, white = (add_heat(np.full((1, 21, 3), grey, np.uint8), shares)[0].astype(int) for grey in (0, 255))
    opacity = 1 - (white - black)[:, 0] / 255
    assert (np.diff(opacity[10:]) > 0).all() and np.allclose(opacity, opacity[::-1], atol=0.01)
    assert opacity[10] == 0 and opacity.max() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("size", [(5, 7), (33, 401), (15, 2)])
def test_odd_sizes_become_even(make_maps, size):
    maps = make_maps(torch.rand(1, 2, 1, 1) - 0.5, [(0, 0, 0)], clip=(2, *size))
    pictures = overlay_frames(make_maps(maps.weights, [(0, 0, 0)], clip=(2, *size)), 0)
    assert pictures.shape[1] % 2 == pictures.shape[2] % 2 == 0


def test_a_query_that_is_not_there(make_maps):
    with pytest.raises(ValueError, match="index: got 2, allowed: 0 to 0"):
        overlay_frames(make_maps(torch.zeros(1, 4, 4, 4), [(0, 0, 0)]), 2)
