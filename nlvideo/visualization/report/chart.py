"""From curves to the geometry of a line chart; the templates draw it as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nlvideo.visualization.report.series import MAX_POINTS, Series, pieces, thinned

# Space around the plot, pixels: left for the numbers, below for numbers and the title of the axis.
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 22, 10, 46
# Values that are not finite get a mark; more of them than this would be a carpet.
_MAX_MARKS = 40


@dataclass(frozen=True)
class Line:
    """A curve and how it looks.

    Attributes:
        label: what the values are, for readers who hover or listen.
        series: the curve.
        run: the number of its run, which decides colour and dashes.
        style: "raw" (faint), "thin" or "bold" (with a dot at each value).
    """

    label: str
    series: Series
    run: int = 0
    style: str = "thin"


@dataclass(frozen=True)
class Chart:
    """What a line chart shows.

    Attributes:
        title: what it is about.
        x_label, y_label: of the axes, with their units.
        lines: in the order they are drawn.
        y_limits: what the y axis covers at most and at least, e.g. (0, 100) and None; None: what the values need.
        from_zero: whether the y axis starts at 0.
        note: how to read it, a sentence or two.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    y_limits: tuple[float, float] | None = None
    from_zero: bool = False
    note: str = ""

    @property
    def runs(self) -> list[int]:
        """The numbers of the runs that it shows."""
        return sorted({line.run for line in self.lines})


@dataclass(frozen=True)
class Drawing:
    """A chart at a size, in pixels of its view box.

    Attributes:
        width, height: of the whole.
        plot: (left, top, right, bottom) of the plot.
        x_domain, y_domain: the values at its edges.
        x_ticks, y_ticks: (pixel, text).
        paths: {"d", "label", "run", "style", "dots": [(x, y)]} for each line.
        marks: {"x", "run", "text"} where a value is not finite.
    """

    width: int
    height: int
    plot: tuple[int, int, int, int]
    x_domain: tuple[float, float]
    y_domain: tuple[float, float]
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    paths: list[dict] = field(default_factory=list)
    marks: list[dict] = field(default_factory=list)


def draw(chart: Chart, width: int = 420, height: int = 270) -> Drawing:
    """Lay out a chart.

    Args:
        chart: at least one of its lines has a finite value.
        width, height: pixels; text does not scale with them.
    """
    plot = (_LEFT, _TOP, width - _RIGHT, height - _BOTTOM)
    x_domain = _x_domain(chart)
    y_domain, y_steps = _y_domain(chart, max(3, (plot[3] - plot[1]) // 48))
    drawing = Drawing(width, height, plot, x_domain, y_domain)
    x_steps = ticks(*x_domain, max(3, (plot[2] - plot[0]) // 80))
    drawing.x_ticks.extend(zip([_place(x, x_domain, plot[0], plot[2]) for x in x_steps], tick_texts(x_steps)))
    drawing.y_ticks.extend(zip([_place(y, y_domain, plot[3], plot[1]) for y in y_steps], tick_texts(y_steps)))
    for line in chart.lines:
        drawing.paths.append(_path(line, drawing))
        drawing.marks.extend(_marks(line, drawing))
    return drawing


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


def tick_texts(values: Sequence[float]) -> list[str]:
    """Return numbers as an axis writes them: thousands as k, and no more digits than it takes.

    Args:
        values: increasing.
    """
    reach = max(map(abs, values))
    size, letter = next(((size, letter) for size, letter in ((1e6, "M"), (1e3, "k")) if reach >= 10 * size), (1.0, ""))
    # What is left of 0 after many additions.
    values = [0.0 if abs(value) < 1e-9 * reach else value / size for value in values]
    step = min((after - before for before, after in zip(values, values[1:])), default=reach / size)
    # Four digits keep 1000 from becoming 1e+03.
    for digits in range(4, 16):
        numbers = [f"{value:.{digits}g}" for value in values]
        if all(abs(float(number) - value) <= 0.01 * step for number, value in zip(numbers, values)):
            break
    return [f"{number}{letter}" if number != "0" else number for number in numbers]


def _x_domain(chart: Chart) -> tuple[float, float]:
    x = np.concatenate([line.series.x for line in chart.lines])
    return (0.0, float(x.max())) if x.max() > 0 else (0.0, 1.0)


def _y_domain(chart: Chart, count: int) -> tuple[tuple[float, float], list[float]]:
    """The values at the lower and upper edge, and those of the ticks, which the edges are among."""
    y = np.concatenate([line.series.y for line in chart.lines])
    y = y[np.isfinite(y)]
    low, high = float(y.min()), float(y.max())
    if chart.from_zero:
        low = min(0.0, low)
    if high - low <= 1e-9 * max(abs(high), abs(low)):
        # One value: something around it.
        pad = abs(high) / 2 or 1.0
        low, high = (low if chart.from_zero and low == 0 else low - pad), high + pad
    step = nice_step((high - low) / count)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    if chart.y_limits is not None:
        low, high = max(low, chart.y_limits[0]), min(high, chart.y_limits[1])
    return (low, high), ticks(low, high, round((high - low) / step))


def _place(value: float, domain: tuple[float, float], start: float, end: float) -> float:
    """The pixel of a value, between those of the ends of the domain."""
    return round(start + (end - start) * (value - domain[0]) / (domain[1] - domain[0]), 1)


def _points(series: Series, drawing: Drawing) -> list[tuple[float, float]]:
    left, top, right, bottom = drawing.plot
    return [
        (_place(x, drawing.x_domain, left, right), _place(y, drawing.y_domain, bottom, top))
        for x, y in zip(series.x.tolist(), series.y.tolist())
    ]


def _path(line: Line, drawing: Drawing) -> dict:
    found = pieces(line.series, gaps=line.style != "bold")
    # Each piece gets its share of the points.
    share = MAX_POINTS / max(1, len(line.series))
    parts = [_points(thinned(piece, max(4, int(share * len(piece)))), drawing) for piece in found]
    # A line of one point is invisible: it becomes a dot, in every style.
    dots = [point for part in parts for point in part if line.style == "bold" or len(part) == 1]
    d = "".join(f"M{'L'.join(f'{x:g},{y:g}' for x, y in part)}" for part in parts)
    return {"d": d, "label": line.label, "run": line.run, "style": line.style, "dots": dots}


def _marks(line: Line, drawing: Drawing) -> list[dict]:
    """Where the values of a line are not finite."""
    if line.style == "raw":
        # The line through its means says the same.
        return []
    left, _, right, _ = drawing.plot
    bad = line.series.x[~np.isfinite(line.series.y)].tolist()
    chosen = bad if len(bad) <= _MAX_MARKS else [bad[i * len(bad) // _MAX_MARKS] for i in range(_MAX_MARKS)]
    places = [(x, _place(x, drawing.x_domain, left, right)) for x in chosen]
    return [{"x": place, "run": line.run, "text": f"{line.label}: not finite at {x:,.0f}"} for x, place in places]
