"""The geometry of charts."""

import re
from itertools import pairwise

import numpy as np
import pytest

from nlvideo.visualization.report.chart import Chart, Line, draw, make_series, nice_step, tick_texts, ticks


def chart(*curves, style="thin", **options):
    lines = [Line(f"run {i}", make_series(list(zip(range(1, len(y) + 1), y))), i, style) for i, y in enumerate(curves)]
    return Chart("Title", "iterations", "things (u)", lines, **options)


def points(path):
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path["d"])]
    return list(zip(numbers[::2], numbers[1::2]))


def test_points_stand_where_the_axes_say():
    drawing = draw(chart([0.0, 50.0, 100.0]), 420, 270)
    left, top, right, bottom = drawing.plot
    assert drawing.x_domain == (0.0, 3.0) and drawing.y_domain == (0.0, 100.0)
    for (x, y), (at, value) in zip(points(drawing.paths[0]), [(1, 0), (2, 50), (3, 100)]):
        assert x == pytest.approx(left + (right - left) * at / 3, abs=0.06)
        assert y == pytest.approx(bottom - (bottom - top) * value / 100, abs=0.06)
    ticks_at = {text: place for place, text in drawing.y_ticks}
    assert ticks_at["0"] == bottom and ticks_at["100"] == top


@pytest.mark.parametrize("curve", [[1e-9, 2e-9], [0.0003, 0.002], [5.0] * 3, [0.0], [-3, 8], [1e7, 3e7], [99.999, 100]])
@pytest.mark.parametrize("from_zero", [True, False])
def test_everything_lies_inside_and_ticks_are_few_and_distinct(curve, from_zero):
    drawing = draw(chart(curve, from_zero=from_zero))
    left, top, right, bottom = drawing.plot
    assert all(left <= x <= right and top <= y <= bottom for x, y in points(drawing.paths[0]))
    texts = [text for _, text in drawing.y_ticks]
    assert 2 <= len(texts) <= 9 and len(set(texts)) == len(texts)
    places = [place for place, _ in drawing.y_ticks]
    # Room for a line of text between two of them.
    assert all(14 < before - after for before, after in pairwise(places))
    assert not from_zero or min(curve) < 0 or drawing.y_domain[0] == 0


@pytest.mark.parametrize("number", [1, 3, 17, 999, 2_000, 15_000, 400_000, 3_000_000])
def test_numbers_of_iterations_do_not_overlap(number):
    series = make_series([(number // 2, 1.0), (number, 2.0)])
    drawing = draw(Chart("t", "iterations", "y (u)", [Line("a", series)]))
    texts = [text for _, text in drawing.x_ticks]
    assert len(set(texts)) == len(texts) >= 2 and max(map(len, texts)) <= 5
    places = [place for place, _ in drawing.x_ticks]
    assert all(8 * 5 < after - before for before, after in pairwise(places))


def test_limits_hold():
    drawing = draw(chart([3.0, 98.0], y_limits=(0.0, 100.0)))
    assert drawing.y_domain[0] >= 0 and drawing.y_domain[1] <= 100


def test_nan_is_a_hole_and_a_mark():
    drawing = draw(chart([1, 2, np.nan, 4, 5]))
    assert drawing.paths[0]["d"].count("M") == 2
    (mark,) = drawing.marks
    assert "run 0: not finite at 3" == mark["text"]
    assert mark["x"] == pytest.approx(drawing.plot[0] + (drawing.plot[2] - drawing.plot[0]) * 3 / 5, abs=0.1)


def test_a_single_point_is_a_dot():
    (path,) = draw(chart([5.0])).paths
    assert len(path["dots"]) == 1 and path["dots"][0] == points(path)[0]
    assert len(draw(chart([1, np.nan, 3, 4])).paths[0]["dots"]) == 1


def test_bold_lines_have_a_dot_at_each_value_and_no_gaps():
    series = make_series([(1, 1.0), (2, 2.0), (3, 3.0), (90, 1.0)])
    (path,) = draw(Chart("t", "x", "y", [Line("a", series, 0, "bold")])).paths
    assert len(path["dots"]) == 4 and path["d"].count("M") == 1
    (thin,) = draw(Chart("t", "x", "y", [Line("a", series, 0, "thin")])).paths
    assert thin["d"].count("M") == 2


def test_long_curves_are_thinned_to_what_a_chart_can_show():
    long = [float(i % 7) for i in range(20_000)]
    assert len(points(draw(chart(long)).paths[0])) < 450
    broken = [np.nan if i % 1000 == 0 else i for i in range(20_000)]
    drawing = draw(chart(broken))
    assert len(points(drawing.paths[0])) < 600 and len(drawing.marks) <= 40


@pytest.mark.parametrize("size, step", [(1, 1), (1.1, 2), (2, 2), (3, 5), (5.01, 10), (0.03, 0.05), (1200, 2000)])
def test_steps_are_round(size, step):
    assert nice_step(size) == pytest.approx(step)


def test_ticks_and_their_texts():
    assert ticks(0, 100, 5) == [0, 20, 40, 60, 80, 100]
    assert ticks(3, 3, 5) == [3]
    assert tick_texts([0, 1e5, 2.5e5]) == [(0, "0"), (1e5, "100k"), (2.5e5, "250k")]

    def texts(*values):
        return [text for _, text in tick_texts(values)]

    assert texts(0, 1e7, 2e7) == ["0", "10M", "20M"] and texts(0) == ["0"]
    assert texts(0.0015, 0.002) == ["0.0015", "0.002"] and texts(99.9995, 100) == ["99.9995", "100"]
    assert texts(-1, 1e-17, 1) == ["-1", "0", "1"]
