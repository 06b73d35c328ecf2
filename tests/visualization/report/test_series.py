"""Curves: smoothing, thinning, gaps."""

import numpy as np
import pytest

from nlvideo.visualization.report.chart import Series, make_series, pieces, smoothed, smoothing_window, thinned


def curve(y, x=None):
    return make_series(list(zip(range(len(y)) if x is None else x, y)))


def test_what_is_not_finite_becomes_nan():
    assert np.isnan(curve([1, np.inf, -np.inf, np.nan]).y).tolist() == [False, True, True, True]
    assert len(make_series([])) == 0


@pytest.mark.parametrize("window", [3, 5, 7])
def test_smoothing_is_the_mean_of_the_neighbours(window):
    rng = np.random.default_rng(0)
    y = rng.normal(size=20)
    half = window // 2
    expected = [np.mean(y[max(0, i - half) : i + half + 1]) for i in range(20)]
    assert smoothed(curve(y), window).y == pytest.approx(expected)


def test_smoothing_keeps_constants_lines_and_nan():
    assert smoothed(curve([3.0] * 9), 5).y == pytest.approx(3.0)
    assert smoothed(curve(np.arange(9.0)), 3).y[1:-1] == pytest.approx(np.arange(1, 8))
    y = smoothed(curve([1, 1, np.nan, 5, 5]), 3).y
    assert y == pytest.approx([1, 1, np.nan, 5, 5], nan_ok=True)


def test_smoothing_of_a_curve_shorter_than_the_window():
    assert smoothed(curve([1.0, 2.0, 3.0]), 101).y == pytest.approx([2.0] * 3)
    assert smoothed(curve([1.0, 2.0]), 101).y == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize("points, window", [(1, 1), (39, 1), (40, 3), (400, 21), (10**6, 101)])
def test_the_window_grows_with_the_curve_and_is_odd(points, window):
    assert smoothing_window(points) == window


def test_thinning_keeps_peaks_and_ends():
    y = np.zeros(10_000)
    y[1234], y[7777] = 5, -5
    thin = thinned(curve(y), 100)
    assert len(thin) <= 104 and {1234.0, 7777.0, 0.0, 9999.0} <= set(thin.x)
    assert (thin.y.max(), thin.y.min()) == (5, -5) and (np.diff(thin.x) > 0).all()
    assert thinned(curve([1, 2, 3]), 3).x.tolist() == [0, 1, 2]


def test_nan_breaks_a_curve():
    found = pieces(curve([np.nan, 1, 2, np.nan, np.nan, 3, np.nan]))
    assert [piece.y.tolist() for piece in found] == [[1, 2], [3]]
    assert pieces(curve([np.nan])) == [] and pieces(Series(np.zeros(0), np.zeros(0))) == []


def test_a_gap_breaks_a_curve_where_asked_for():
    series = curve(range(6), x=[10, 20, 30, 200, 210, 220])
    assert [len(piece) for piece in pieces(series)] == [3, 3]
    assert [len(piece) for piece in pieces(series, gaps=False)] == [6]
    assert [len(piece) for piece in pieces(curve([1, 2], x=[0, 1000]))] == [2]
