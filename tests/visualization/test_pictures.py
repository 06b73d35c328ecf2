"""The film strip: what is drawn, and where."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nlvideo.visualization import ClassMaps, draw_film_strip, draw_heat_strip, heated_frames, overlay_frames
from nlvideo.visualization.drawing import ARROW_COLOUR, LineLayer, enlarge, enlargement
from nlvideo.visualization.grid import Grid
from nlvideo.visualization.pictures import _MARGIN, _Layout


def yellow(strip):
    """Where a strip is the colour of arrows: (y, x) of every such pixel."""
    difference = np.abs(np.asarray(strip).astype(int) - ARROW_COLOUR).max(-1)
    return np.argwhere(difference < 12)


def test_an_arrow_ends_at_the_key(make_maps):
    weights = torch.zeros(1, 4, 4, 4)
    weights[0, 3, 1, 2] = 0.9
    maps = make_maps(weights, [(0, 9, 5)])
    strip = draw_film_strip(maps, 0)
    layout = _Layout(maps.queries, 0, 0)
    tip = layout.point(3, 6, 10)  # the centre of the key's window
    marks = yellow(strip)
    assert np.abs(marks - (tip[1], tip[0])).max(1).min() <= 2
    start = layout.point(0, 9.5, 5.5)
    # All of it between the query and the window of the key, across all frames.
    x0, x1 = marks[:, 1].min(), marks[:, 1].max()
    assert start[0] <= x0 < start[0] + 20 and tip[0] < x1 <= layout.point(3, 8, 12)[0]
    for t in (1, 2):
        left, _ = layout.point(t)
        assert ((marks[:, 1] >= left) & (marks[:, 1] < left + layout.width)).sum() > layout.width


def test_a_higher_weight_is_a_wider_arrow(make_maps):
    def area(weight):
        """Yellow pixels with an arrow of weight 1 and one of ``weight``."""
        weights = torch.zeros(1, 4, 4, 4)
        weights[0, 1, 3, 0], weights[0, 3, 0, 3] = 1.0, weight
        return len(yellow(draw_film_strip(make_maps(weights, [(0, 0, 0)]), 0)))

    assert area(0.9) > 1.2 * area(0.01)


def test_no_arrows(make_maps):
    negative = make_maps(-torch.ones(1, 4, 4, 4), [(1, 8, 8)])
    strip = draw_film_strip(negative, 0)
    assert len(yellow(strip)) == 0
    # The query is marked all the same: white in the grey frame.
    left, top = map(int, _Layout(negative.queries, 1, 1).point(1))
    frame = np.asarray(strip)[top : top + 200, left : left + 200]
    assert (frame == 255).all(-1).any()


def test_an_arrow_to_itself_is_no_arrow():
    layer = LineLayer((10, 10))
    layer.arrow((5, 5), (5.5, 5), 2, 1.0)
    assert np.asarray(layer.over(Image.new("RGB", (10, 10), "white"))).min() == 255
    layer.arrow((5, 5), (8, 5), 2, 1.0)
    assert np.asarray(layer.over(Image.new("RGB", (10, 10), "white"))).min() < 255


@pytest.mark.parametrize("num_frames, query, shown", [(16, 11, [1, 5, 11, 13]), (8, 5, list(range(8)))])
def test_frames_are_those_of_the_map_and_the_query_or_all_of_few(make_maps, num_frames, query, shown):
    frames = np.zeros((num_frames, 16, 16, 3), np.uint8)
    frames[..., 0] = 10 * np.arange(num_frames)[:, None, None]
    maps = make_maps(torch.zeros(1, 4, 4, 4), [(query, 0, 0)], clip=(num_frames, 16, 16), frames=frames)
    maps = type(maps)(**{**maps.__dict__, "queries": maps.keys})
    layout = _Layout(maps.queries, maps.queries.cell((query, 0, 0))[0], query)
    assert layout.shown == shown and shown[layout.query] == query
    strip = np.asarray(draw_film_strip(maps, 0))
    for t, frame in enumerate(layout.shown):
        x, y = map(int, layout.point(t))
        assert strip[y + 100, x + 150].tolist() == [10 * frame, 0, 0]


def test_a_key_is_marked_in_all_its_frames(make_maps):
    weights = torch.zeros(1, 4, 4, 4)
    weights[0, 2, 3, 3] = 1.0
    maps = make_maps(weights, [(0, 0, 0)], clip=(8, 16, 16))
    layout = _Layout(maps.queries, 0, 0)
    assert [layout.places(maps.keys.window((t, 0, 0))) for t in range(4)] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    strip = np.asarray(draw_film_strip(maps, 0)).astype(int)
    for place in range(8):
        x0, y0, x1, y1 = (int(v) for v in layout.box(place, maps.keys.window((2, 3, 3))))
        edge = np.abs(strip[y1 - 1, x0 + 2 : x1 - 2] - ARROW_COLOUR).max()
        assert (edge < 12) == (place in (4, 5)), place
    # A query in the first frame of its window has an arrow to the first frame of the key's window.
    # One in the second frame has it to the second.
    for query, ends in ((0, 4), (1, 5)):
        maps = make_maps(weights, [(query, 0, 0)], clip=(8, 16, 16))
        maps = type(maps)(**{**maps.__dict__, "queries": maps.keys})
        x0, y0, x1, y1 = (int(v) for v in layout.box(ends, maps.keys.window((2, 3, 3))))
        marks = np.asarray(draw_film_strip(maps, 0)).astype(int)[y0 + 3 : y1 - 3, x0 + 3 : x1 - 3]
        assert (np.abs(marks - ARROW_COLOUR).max(-1) < 12).any()
    # The last frame of nine is after the windows of four cells, and belongs to the last of them.
    nine, grid = make_maps(weights, [(8, 0, 0)], clip=(9, 16, 16)), Grid((4, 4, 4), (2, 4, 4), (9, 16, 16))
    draw_film_strip(replace(nine, queries=grid, keys=grid), 0)
    # A key none of whose frames is shown is marked in the nearest one.
    layout.shown = [1, 7]
    assert layout.places(maps.keys.window((2, 0, 0))) == [0] and layout.places(maps.keys.window((3, 0, 0))) == [1]


@pytest.mark.parametrize("num_frames, rows", [(4, 1), (8, 2), (10, 3), (16, 4)])
def test_many_frames_are_several_rows(make_maps, num_frames, rows):
    clip = (num_frames, 224, 224)
    maps = make_maps(torch.zeros(1, num_frames, 7, 7), [(0, 0, 0)], clip=clip)
    layout = _Layout(maps.queries, 0, 0)
    assert layout.factor == 1 and len({layout.point(t)[1] for t in range(num_frames)}) == rows
    assert draw_film_strip(maps, 0).size == (layout.size[0] + 2 * _MARGIN, layout.bottom + 43)


def test_a_frame_wider_than_the_strip(make_maps):
    maps = make_maps(torch.zeros(1, 2, 5, 50), [(0, 0, 0)], clip=(2, 240, 2400))
    assert draw_film_strip(maps, 0).width == 2400 + 2 * _MARGIN


def test_small_frames_grow_by_whole_factors():
    assert [enlargement(side, 99, 224) for side in (16, 64)] == [14, 4] and enlargement(1080, 1920, 224) == 1
    frame = np.arange(6).reshape(2, 3)
    assert enlarge(frame, 2).tolist() == [[0, 0, 1, 1, 2, 2]] * 2 + [[3, 3, 4, 4, 5, 5]] * 2


def test_a_query_that_is_not_there(make_maps):
    for index in (-1, 1):
        with pytest.raises(ValueError, match=f"index: got {index}, allowed: 0 to 0, the queries of the maps"):
            draw_film_strip(make_maps(torch.zeros(1, 4, 4, 4), [(0, 0, 0)]), index)


@pytest.fixture()
def class_maps():
    """``class_maps(num_frames)``: two views of grey frames, with weight 1 and 4 in one cell each, of stride 2, 4, 4."""

    def build(num_frames: int) -> ClassMaps:
        weights = torch.zeros(2, num_frames // 2, 4, 4)
        weights[0, 0, 1, 2], weights[1, 1, 3, 0] = 1.0, 4.0
        frames = np.full((2, num_frames, 16, 16, 3), 100, np.uint8)
        return ClassMaps(
            "res4", 3, weights, frames, Grid((num_frames // 2, 4, 4), (2.0, 4.0, 4.0), (num_frames, 16, 16))
        )

    return build


def test_heat_of_a_class_lies_in_its_cell_and_is_relative_to_all_views(class_maps):
    maps = class_maps(4)
    for view, (t, y, x) in enumerate(((0, 4, 8), (2, 12, 0))):
        changed = (heated_frames(maps, view) != 100).any(axis=-1)
        expected = np.zeros((4, 16, 16), bool)
        expected[t : t + 2, y : y + 4, x : x + 4] = True
        assert (changed == expected).all()
    # A quarter of the largest weight is less warm than the largest.
    warmth = [np.abs(heated_frames(maps, view).astype(int) - 100).max() for view in (0, 1)]
    assert warmth[0] < warmth[1]
    shown = overlay_frames(maps, 1)
    assert shown.shape[0] == 4 and shown.shape[1] > 320 == shown.shape[2]
    for index in (2, -1):
        with pytest.raises(ValueError, match=f"index: got {index}, allowed: 0 to 1, the views of the maps"):
            overlay_frames(maps, index)


@pytest.mark.parametrize("num_frames, shown", [(4, [0, 1, 2, 3]), (12, [0, 2, 4, 6, 8, 10])])
def test_a_strip_of_heat_has_every_frame_or_one_for_each_of_the_map(class_maps, num_frames, shown):
    maps = class_maps(num_frames)
    layout = _Layout(maps.grid)
    assert layout.shown == shown
    strip = np.asarray(draw_heat_strip(maps, 1, "what speaks for a class"))
    heated = heated_frames(maps, 1)
    for place, frame in enumerate(shown):
        x, y = map(int, layout.point(place))
        side = 16 * layout.factor
        assert (strip[y : y + side, x : x + side] == enlarge(heated[frame], layout.factor)).all()
    assert (strip[:25] < 128).any()  # the title
