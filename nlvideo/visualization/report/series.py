"""Curves before they are drawn: smoothed, thinned out, and broken where something is missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# More points than a chart has pixels make the page larger and show nothing more.
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
    x, y = np.array(pairs, float).reshape(-1, 2).T
    return Series(x, np.where(np.isfinite(y), y, np.nan))


def smoothed(series: Series, window: int) -> Series:
    """Return the mean of ``window`` values around each one, or of those that there are at the ends.

    Unlike an exponential average it does not lag. NaN stays where it is and counts in no mean.
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
    """Return about ``max_points`` points of a curve without NaN: of neighbours, the lowest and the highest stay."""
    if len(series) <= max_points:
        return series
    keep = [0, len(series) - 1]
    for part in np.array_split(np.arange(len(series)), max(1, max_points // 2)):
        keep += [part[np.argmin(series.y[part])], part[np.argmax(series.y[part])]]
    index = np.unique(keep)
    return Series(series.x[index], series.y[index])


def pieces(series: Series, gaps: bool = True) -> list[Series]:
    """Return the parts of a curve without NaN; with ``gaps``, also break it where a step is much larger than usual."""
    valid, steps = np.isfinite(series.y), np.diff(series.x)
    ends = valid[1:] != valid[:-1]
    if gaps and len(steps):
        ends |= steps > _GAP * np.median(steps)
    bounds = [0, *np.flatnonzero(ends) + 1, len(series)]
    return [Series(series.x[a:b], series.y[a:b]) for a, b in pairwise(bounds) if valid[a:b].any()]
