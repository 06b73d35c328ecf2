"""From curves, smoothed and thinned out, to the geometry of a line chart; the templates draw it as SVG."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# Space around the plot, pixels: left for the numbers, below for numbers and the title of the axis.
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 22, 10, 46
# A value that is not finite gets a mark, up to this many in a line.
_MAX_MARKS = 40
# More points than a chart has pixels make the page larger and show nothing more.
MAX_POINTS = 400
# A step this many times the usual one is a gap.
_GAP = 3.5

Domain = tuple[float, float]
Point = tuple[float, float]


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


@dataclass(frozen=True)
class Line:
    """A curve and how it looks."""

    label: str  #: what the values are
    series: Series
    run: int = 0  #: the number of its run, which decides colour and dashes
    style: str = "thin"  #: or "raw" (faint), or "bold" (with a dot at each value)


@dataclass(frozen=True)
class Chart:
    """What a line chart shows; the labels of the axes have their units."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]  #: in the order they are drawn
    y_limits: tuple[float, float] | None = None  #: what the y axis covers at most; None: what the values need
    from_zero: bool = False  #: whether the y axis starts at 0
    note: str = ""  #: how to read it, a sentence or two

    @property
    def runs(self) -> list[int]:
        """The numbers of the runs that it shows."""
        return sorted({line.run for line in self.lines})


@dataclass(frozen=True)
class Drawing:
    """A chart at a size, in pixels of its view box."""

    width: int
    height: int
    plot: tuple[int, int, int, int]  #: (left, top, right, bottom) of the plot
    x_domain: Domain  #: the values at its edges
    y_domain: Domain
    x_ticks: list[tuple[float, str]]  #: (pixel, text)
    y_ticks: list[tuple[float, str]]
    paths: list[dict]  #: {"d", "label", "run", "style", "dots": [(x, y)]} for each line
    marks: list[dict]  #: {"x", "run", "text"} where a value is not finite


def draw(chart: Chart, width: int = 420, height: int = 270) -> Drawing:
    """Lay out a chart, of whose values one or more are finite. Width and height are pixels; text does not scale."""
    left, top, right, bottom = plot = (_LEFT, _TOP, width - _RIGHT, height - _BOTTOM)
    x_domain = 0.0, max(float(line.series.x.max()) for line in chart.lines) or 1.0
    y_domain, y_steps = _y_domain(chart, max(3, (bottom - top) // 48))
    x_steps = ticks(*x_domain, max(3, (right - left) // 80))

    def _place(x: float, y: float) -> Point:
        return _along(x, x_domain, left, right), _along(y, y_domain, bottom, top)

    return Drawing(
        width, height, plot, x_domain, y_domain,
        x_ticks=[(_along(x, x_domain, left, right), text) for x, text in tick_texts(x_steps)],
        y_ticks=[(_along(y, y_domain, bottom, top), text) for y, text in tick_texts(y_steps)],
        paths=[_path(line, _place) for line in chart.lines],
        # The line through the means of a faint one has the same marks.
        marks=[mark for line in chart.lines if line.style != "raw" for mark in _marks(line, _place, y_domain[0])],
    )  # fmt: skip


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about ``count`` round values, 1, 2 or 5 times a power of ten apart, from ``low`` to ``high``."""
    if not high > low:
        return [low]
    step = nice_step((high - low) / max(1, count))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def nice_step(size: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is at least ``size``."""
    power = 10.0 ** math.floor(math.log10(size))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= size * (1 - 1e-9)), 10 * power)


def tick_texts(values: Sequence[float]) -> list[tuple[float, str]]:
    """Return increasing numbers, each with its text on an axis: thousands as k, and no more digits than needed."""
    reach = max(map(abs, values))
    size, letter = next(((size, letter) for size, letter in ((1e6, "M"), (1e3, "k")) if reach >= 10 * size), (1.0, ""))
    # A sum of steps may miss 0 by a little.
    scaled = [0.0 if abs(value) < 1e-9 * reach else value / size for value in values]
    step = min((after - before for before, after in pairwise(scaled)), default=reach / size)
    # Four digits keep 1000 from becoming 1e+03.
    for digits in range(4, 16):
        numbers = [f"{value:.{digits}g}" for value in scaled]
        if all(abs(float(number) - value) <= 0.01 * step for number, value in zip(numbers, scaled, strict=True)):
            break
    texts = [f"{number}{letter}" if number != "0" else number for number in numbers]
    return list(zip(values, texts, strict=True))


def _y_domain(chart: Chart, count: int) -> tuple[Domain, list[float]]:
    """The values at the lower and upper edge, and those of the ticks, which include the edges."""
    y = np.concatenate([line.series.y for line in chart.lines])
    y = y[np.isfinite(y)]
    low, high = float(y.min()), float(y.max())
    if chart.from_zero:
        low = min(0.0, low)
    if high - low <= 1e-9 * max(abs(high), abs(low)):
        # There is one value: the axis shows something around it.
        pad = abs(high) / 2 or 1.0
        low, high = (low if chart.from_zero and low == 0 else low - pad), high + pad
    step = nice_step((high - low) / count)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    if chart.y_limits is not None:
        low, high = max(low, chart.y_limits[0]), min(high, chart.y_limits[1])
    return (low, high), ticks(low, high, round((high - low) / step))


def _along(value: float, domain: Domain, start: float, end: float) -> float:
    """The pixel of a value, between those of the ends of the domain."""
    return round(start + (end - start) * (value - domain[0]) / (domain[1] - domain[0]), 1)


def _path(line: Line, place: Callable[[float, float], Point]) -> dict:
    # Each piece gets its share of the points.
    share = MAX_POINTS / max(1, len(line.series))
    thin = [thinned(piece, max(4, int(share * len(piece)))) for piece in pieces(line.series, line.style != "bold")]
    parts = [list(map(place, piece.x.tolist(), piece.y.tolist())) for piece in thin]
    # A line of one point is invisible, so it becomes a dot in every style.
    dots = [point for part in parts for point in part if line.style == "bold" or len(part) == 1]
    d = "".join(f"M{'L'.join(f'{x:g},{y:g}' for x, y in part)}" for part in parts)
    return {"d": d, "label": line.label, "run": line.run, "style": line.style, "dots": dots}


def _marks(line: Line, place: Callable[[float, float], Point], low: float) -> list[dict]:
    """Where the values of a line are not finite."""
    bad = line.series.x[~np.isfinite(line.series.y)].tolist()
    chosen = bad if len(bad) <= _MAX_MARKS else [bad[i * len(bad) // _MAX_MARKS] for i in range(_MAX_MARKS)]
    return [{"x": place(x, low)[0], "run": line.run, "text": f"{line.label}: not finite at {x:,.0f}"} for x in chosen]
