"""Curves before they are drawn: smoothed, thinned out, and broken where something is missing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# More points than a chart has pixels only make the page larger.
MAX_POINTS = 400
# A step this many times the usual one is a gap.
_GAP = 3.5


@dataclass(frozen=True)
class Series:
    """A curve: (N,) x, increasing, and (N,) y, NaN where a value is not finite."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.x)


def make_series(pairs: Sequence[tuple[float, float]]) -> Series:
    """Return the pairs (x, y) as a curve."""
    x = np.array([pair[0] for pair in pairs], float)
    y = np.array([pair[1] for pair in pairs], float)
    return Series(x, np.where(np.isfinite(y), y, np.nan))


def smoothed(series: Series, window: int) -> Series:
    """Return the mean of ``window`` values around each one; NaN stays where it is and counts in no mean.

    Unlike an exponential average it does not lag. At the ends the window is what is there of it.
    """
    if window <= 1 or len(series) < 3:
        return series
    kernel = np.ones(min(window, 2 * len(series) - 1))
    valid = np.isfinite(series.y)
    half = len(kernel) // 2
    sums = np.convolve(np.where(valid, series.y, 0), kernel)[half : half + len(series)]
    counts = np.convolve(valid.astype(float), kernel)[half : half + len(series)]
    mean = np.divide(sums, counts, out=np.full(len(series), np.nan), where=counts > 0)
    return Series(series.x, np.where(valid, mean, np.nan))


def smoothing_window(num_points: int) -> int:
    """Return the odd window for a curve of so many points: a twentieth of it, at most 101."""
    return min(101, num_points // 20 // 2 * 2 + 1)


def thinned(series: Series, max_points: int = MAX_POINTS) -> Series:
    """Return at most about ``max_points`` points of a curve without NaN; of neighbours the lowest and highest stay."""
    if len(series) <= max_points:
        return series
    keep = [0, len(series) - 1]
    for part in np.array_split(np.arange(len(series)), max(1, max_points // 2)):
        keep += [part[np.argmin(series.y[part])], part[np.argmax(series.y[part])]]
    index = np.unique(keep)
    return Series(series.x[index], series.y[index])


def pieces(series: Series, gaps: bool = True) -> list[Series]:
    """Return the parts without NaN.

    Args:
        series: any curve.
        gaps: also break it where a step is several times the usual one.
    """
    if not len(series):
        return []
    steps = np.diff(series.x)
    usual = np.median(steps) if len(steps) else 0.0
    gap = np.flatnonzero(gaps & (steps > _GAP * usual)) + 1
    valid = np.isfinite(series.y)
    change = np.flatnonzero(np.diff(valid.astype(int))) + 1
    bounds = [0, *np.unique(np.concatenate([gap, change])), len(series)]
    found = [Series(series.x[a:b], series.y[a:b]) for a, b in zip(bounds, bounds[1:])]
    return [piece for piece in found if np.isfinite(piece.y).all()]
