"""Cells of a map and the frames they stand for."""

import pytest
import torch

from nlvideo.visualization.grid import Grid, pooled

GRID = Grid((4, 3, 5), (2.0, 4.0, 4.0), (8, 12, 20))


def test_a_cell_is_the_window_of_its_stride():
    assert GRID.window((1, 2, 0)) == ((2, 8, 0), (4, 12, 4))
    assert GRID.centre((1, 2, 0)) == (3, 10, 2)
    assert [GRID.shown_frame(t) for t in range(4)] == [0, 2, 4, 6]
    assert [Grid((2, 1, 1), (stride, 1, 1), (9, 1, 1)).shown_frame(1) for stride in (1, 3, 4, 8)] == [1, 4, 5, 8]


def test_every_pixel_is_in_the_window_of_its_cell():
    for t in range(8):
        for y in range(12):
            for x in range(20):
                first, end = GRID.window(GRID.cell((t, y, x)))
                assert all(a <= p < b for a, p, b in zip(first, (t, y, x), end))


def test_cell_and_centre_are_inverse():
    for cell in [(0, 0, 0), (3, 2, 4), (2, 1, 3)]:
        assert GRID.cell(GRID.centre(cell)) == cell


def test_pixels_behind_the_last_window_belong_to_the_last_cell():
    # Pools without padding: 55 cells of 4 pixels for 224.
    grid = Grid((1, 55, 55), (1.0, 4.0, 4.0), (1, 224, 224))
    assert grid.cell((0, 223, 219)) == (0, 54, 54)
    # And a last window that the clip cuts off.
    assert Grid((1, 1, 2), (1.0, 4.0, 4.0), (1, 4, 6)).centre((0, 0, 1)) == (0.5, 2, 5)


@pytest.mark.parametrize("position", [(8, 0, 0), (0, 12, 0), (0, 0, 20), (-1, 0, 0), (0, 0)])
def test_a_position_outside_says_what_is_allowed(position):
    with pytest.raises(ValueError, match=r"outside the clip, allowed: t,y,x with t 0 to 7 .* y 0 to 11 and x 0 to 19"):
        GRID.cell(position)


def test_upsample_gives_every_pixel_its_cell():
    cells = torch.arange(60.0).view(4, 3, 5)
    pixels = GRID.upsample(cells)
    assert pixels.shape == (8, 12, 20)
    for place in [(0, 0, 0), (7, 11, 19), (3, 4, 7), (4, 3, 8)]:
        assert pixels[place] == cells[GRID.cell(place)]


def test_pooled_keys():
    assert pooled(GRID, (4, 1, 2)) == Grid((4, 1, 2), (2.0, 8.0, 8.0), GRID.clip)  # rounded down, as the pool does
    assert pooled(GRID, GRID.size) == GRID
    # A pool that is not by 2.
    assert pooled(Grid((1, 9, 9), (1.0, 2.0, 2.0), (1, 18, 18)), (1, 3, 3)).stride == (1.0, 6.0, 6.0)
