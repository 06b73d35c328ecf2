"""Frames in rows, and points in them."""

import numpy as np
import pytest

from nlvideo.visualization.drawing import FrameRows


@pytest.mark.parametrize("count, most, lengths", [(6, 4, [3, 3]), (8, 8, [8]), (7, 3, [3, 3, 1]), (1, 4, [1])])
def test_rows_have_one_length(count, most, lengths):
    rows = FrameRows(count, 10, 20, 2, most)
    tops = [rows.point(number)[1] for number in range(count)]
    assert [tops.count(top) for top in sorted(set(tops))] == lengths
    assert rows.size[0] == max(lengths) * 48 - 8


@pytest.mark.parametrize("place", [(0, 0, 0), (4, 9, 19), (5, 3, 7)])
def test_a_point_is_found_again(place):
    rows = FrameRows(6, 10, 20, 3, 4, corner=(12, 30))
    number, y, x = place
    assert rows.place(*rows.point(number, y, x)) == place
    assert rows.place(*rows.point(number, y + 0.99, x + 0.99)) == place


def test_between_frames_is_no_place():
    rows = FrameRows(5, 10, 20, 3, 4)
    assert rows.place(61, 5) is None and rows.place(5, 31) is None  # the gap, the label
    assert rows.place(*rows.point(5)) is None and rows.place(-1, 5) is None  # 5 frames in two rows of 3


def test_the_picture_holds_each_frame_enlarged():
    frames = np.arange(3 * 4 * 6 * 3, dtype=np.uint8).reshape(3, 4, 6, 3)
    rows = FrameRows(3, 4, 6, 5, 3)
    picture = np.asarray(rows.picture(frames, ["a", "b", "c"]))
    assert picture.shape[:2] == rows.size[::-1]
    for number, y, x in ((0, 0, 0), (1, 3, 5), (2, 2, 1)):
        left, top = rows.point(number, y + 0.5, x + 0.5)
        assert picture[int(top), int(left)].tolist() == frames[number, y, x].tolist()
