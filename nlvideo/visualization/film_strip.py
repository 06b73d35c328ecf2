"""The film strip of the paper's Figure 3: frames side by side, and arrows from a query to what it attends to most."""

import numpy as np
from PIL import Image, ImageDraw

from nlvideo.visualization.attention import NUM_ARROWS, AttentionMaps, TopKeys, top_keys
from nlvideo.visualization.drawing import (
    ARROW_COLOUR,
    DARK,
    QUERY_COLOUR,
    Box,
    LineLayer,
    enlarge,
    enlargement,
    font,
)

_SHORT_SIDE = 224
_MAX_WIDTH = 1100
# Of a clip of up to so many frames all are shown, of a longer one a frame for each frame of the map.
_SHOW_ALL = 10
_GAP, _MARGIN, _TEXT = 8, 12, 19
_PAPER = (255, 255, 255)


class _Layout:
    """Where on the strip the frames are, in rows that are not too wide."""

    def __init__(self, maps: AttentionMaps, query: tuple[int, int, int], frame: int):
        T, H, W = maps.queries.clip
        self.factor = enlargement(H, W, _SHORT_SIDE)
        self.shown = list(range(T))
        if T > _SHOW_ALL:
            self.shown = [maps.queries.shown_frame(t) for t in range(maps.queries.size[0])]
            # The query's own frame is shown, which need not be the one in the middle.
            self.shown[query[0]] = frame
        self.query = self.shown.index(frame)
        self.height, self.width = H * self.factor, W * self.factor
        per_row = max(1, min(len(self.shown), (_MAX_WIDTH - 2 * _MARGIN + _GAP) // (self.width + _GAP)))
        rows = -(-len(self.shown) // per_row)
        # Rows of one length: 6 frames are 3 and 3, not 4 and 2.
        self.per_row = -(-len(self.shown) // rows)
        self.top = _MARGIN + round(1.6 * _TEXT)
        self.row_height = self.height + round(1.5 * _TEXT)
        self.frames_width = self.per_row * (self.width + _GAP) - _GAP
        self.bottom = self.top + rows * (self.row_height + _GAP)

    def places(self, window: tuple) -> list[int]:
        """Which of the frames shown are in a cell's window; where none is, the one that is nearest."""
        (first, _, _), (end, _, _) = window
        inside = [place for place, frame in enumerate(self.shown) if int(first) <= frame < end]
        return inside or [min(range(len(self.shown)), key=lambda place: abs(self.shown[place] - first))]

    def corner(self, place: int) -> tuple[int, int]:
        """(x, y) of a frame shown."""
        row, column = divmod(place, self.per_row)
        return _MARGIN + column * (self.width + _GAP), self.top + row * (self.row_height + _GAP)

    def point(self, place: int, y: float, x: float) -> tuple[float, float]:
        """(x, y) on the strip of a point in a frame shown."""
        left, top = self.corner(place)
        return left + x * self.factor, top + y * self.factor

    def box(self, place: int, window: tuple) -> Box:
        """(x0, y0, x1, y1) of a cell's window in a frame shown."""
        (_, y0, x0), (_, y1, x1) = window
        return (*self.point(place, y0, x0), *self.point(place, y1, x1))


def draw_film_strip(maps: AttentionMaps, index: int, k: int = NUM_ARROWS) -> Image.Image:
    """Draw the arrows of one query (Fig. 3): from it to the keys of the highest weights, across frames, see `top_keys`.

    Shown are all frames of a short clip, of one longer than 10 frames one for each frame of the map. The query is a white
    box, its cell, with a dot. Every key is a yellow box, the window of its cell, in all its frames that are shown, and the
    arrow ends in the one that lies in its window as the query's frame does in its own; the higher the weight, the wider and
    the more opaque. Keys of weight 0 or less have no arrow, see `top_keys`.

    Args:
        maps: from `attend`.
        index: which of its queries.
        k: arrows, at most.

    Raises:
        ValueError: there is no such query, or ``k`` is below 1.
    """
    check_index(maps, index)
    keys = top_keys(maps, k)[index]
    position = maps.positions[index].tolist()
    query = maps.queries.cell(position)
    layout = _Layout(maps, query, int(position[0]))
    texts = _texts(maps, index, keys)
    width = max(layout.frames_width, *(int(font(_TEXT).getlength(text)) for text in texts)) + 2 * _MARGIN
    strip = Image.new("RGB", (width, layout.bottom + _TEXT + 2 * _MARGIN), _PAPER)
    _draw_frames(strip, maps, layout)
    layer = LineLayer(strip.size)
    _draw_arrows(layer, maps, layout, position, query, keys)
    strip = layer.over(strip)
    draw = ImageDraw.Draw(strip)
    draw.text((_MARGIN, _MARGIN - 4), texts[0], fill=DARK, font=font(_TEXT))
    draw.text((_MARGIN, layout.bottom), texts[1], fill=DARK, font=font(_TEXT))
    return strip


def check_index(maps: AttentionMaps, index: int) -> None:
    """Raise ``ValueError`` where the maps have no such query."""
    if not 0 <= index < len(maps.positions):
        raise ValueError(f"index: got {index}, allowed: 0 to {len(maps.positions) - 1}, the queries of the maps")


def _texts(maps: AttentionMaps, index: int, keys: TopKeys) -> tuple[str, str]:
    t, y, x = maps.positions[index].tolist()
    form = f" ({maps.pairwise.replace('_', ' ')})" if maps.pairwise else ""
    title = f"{maps.block}{form}, query: frame {t:g}, y {y:g}, x {x:g}"
    if not len(keys.weights):
        return title, "no key has a weight above 0"
    row = maps.weights[index]
    found = f"{len(keys.weights)} of {row.numel()} keys, with {100 * keys.share:.0f} % of the weight"
    weights = f"weights {keys.weights[0]:.2g} to {keys.weights[-1]:.2g}"
    above = f"{int((keys.weights > row.mean()).sum())} above the mean"
    return title, f"white: query; yellow: {found}; {weights}, {above}"


def _draw_frames(strip: Image.Image, maps: AttentionMaps, layout: _Layout) -> None:
    draw = ImageDraw.Draw(strip)
    windows = {}
    if len(layout.shown) < len(maps.frames):
        cells = [maps.queries.window((t, 0, 0)) for t in range(maps.queries.size[0])]
        windows = {place: (int(first[0]), int(end[0])) for place, (first, end) in enumerate(cells)}
    for place, frame in enumerate(layout.shown):
        x, y = layout.corner(place)
        pixels = enlarge(maps.frames[frame], layout.factor)
        strip.paste(Image.fromarray(np.ascontiguousarray(pixels)), (x, y))
        first, end = windows.get(place, (frame, frame + 1))
        label = f"frame {frame}" if end - first <= 1 else f"frame {frame} (of {first} to {end - 1})"
        draw.text((x, y + layout.height + 2), label, fill=DARK, font=font(_TEXT - 3))


def _draw_arrows(
    layer: LineLayer, maps: AttentionMaps, layout: _Layout, position: list[float], query: tuple, keys: TopKeys
) -> None:
    # The middle of the pixel that was named.
    start = layout.point(layout.query, position[1] + 0.5, position[2] + 0.5)
    largest = float(keys.weights[0]) if len(keys.weights) else 1.0
    # A query in the last frame of its window points to the last frames of other windows.
    # One after all windows belongs to the last.
    phase = sum(place < layout.query for place in layout.places(maps.queries.window(query)))
    # The smallest first: larger ones cover them.
    found = list(zip(keys.cells.tolist(), keys.centres.tolist(), (keys.weights / largest).tolist()))[::-1]
    for cell, _, share in found:
        window = maps.keys.window(cell)
        for place in layout.places(window):
            layer.box(layout.box(place, window), ARROW_COLOUR, 1, 0.3 + 0.7 * share)
    for cell, (_, y, x), share in found:
        places = layout.places(maps.keys.window(cell))
        layer.arrow(start, layout.point(places[min(phase, len(places) - 1)], y, x), 1 + 2.5 * share, 0.3 + 0.7 * share)
    layer.box(layout.box(layout.query, maps.queries.window(query)), QUERY_COLOUR, 2)
    layer.dot(*start, 3.5, QUERY_COLOUR)
