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
_MAX_WIDTH = 1900
_GAP, _MARGIN, _TEXT = 8, 12, 19
_PAPER = (255, 255, 255)


class _Layout:
    """Where on the strip the frames are: one for each frame of the map, in rows that are not too wide."""

    def __init__(self, maps: AttentionMaps, query: tuple[int, int, int], frame: int):
        T, H, W = maps.queries.clip
        self.factor = enlargement(H, W, _SHORT_SIDE)
        self.shown = [maps.queries.shown_frame(t) for t in range(maps.queries.size[0])]
        # The query's own frame is shown, which need not be the one in the middle.
        self.shown[query[0]] = frame
        self.height, self.width = H * self.factor, W * self.factor
        per_row = max(1, min(len(self.shown), (_MAX_WIDTH - 2 * _MARGIN + _GAP) // (self.width + _GAP)))
        rows = -(-len(self.shown) // per_row)
        # Rows of one length: 10 frames are 5 and 5, not 8 and 2.
        self.per_row = -(-len(self.shown) // rows)
        self.top = _MARGIN + round(1.6 * _TEXT)
        self.row_height = self.height + round(1.5 * _TEXT)
        self.frames_width = self.per_row * (self.width + _GAP) - _GAP
        self.bottom = self.top + rows * (self.row_height + _GAP)

    def corner(self, t: int) -> tuple[int, int]:
        """(x, y) of a frame of the map."""
        row, column = divmod(t, self.per_row)
        return _MARGIN + column * (self.width + _GAP), self.top + row * (self.row_height + _GAP)

    def point(self, t: int, y: float, x: float) -> tuple[float, float]:
        """(x, y) on the strip of a point in a frame of the map."""
        left, top = self.corner(t)
        return left + x * self.factor, top + y * self.factor

    def box(self, t: int, window: tuple) -> Box:
        """(x0, y0, x1, y1) on the strip of a cell's window."""
        (_, y0, x0), (_, y1, x1) = window
        return (*self.point(t, y0, x0), *self.point(t, y1, x1))


def draw_film_strip(maps: AttentionMaps, index: int, k: int = NUM_ARROWS) -> Image.Image:
    """Draw the arrows of one query (Fig. 3): from it to the ``k`` keys of the highest weights, across frames.

    Shown is one frame for each frame of the map. The query is a white box, its cell, with a dot; every key is a yellow
    box, the window of its cell, at the head of its arrow; the higher the weight, the wider and the more opaque. Keys of
    weight 0 or less have no arrow, see `top_keys`.

    Args:
        maps: from `attend`.
        index: which of its queries.
        k: arrows.

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
    weights = f"weights {keys.weights[0]:.2g} to {keys.weights[-1]:.2g}"
    above = f"{int((keys.weights > row.mean()).sum())} above the mean"
    return title, f"white: query; yellow: its {len(keys.weights)} highest of {row.numel()} keys, {weights}, {above}"


def _draw_frames(strip: Image.Image, maps: AttentionMaps, layout: _Layout) -> None:
    draw = ImageDraw.Draw(strip)
    for t, frame in enumerate(layout.shown):
        x, y = layout.corner(t)
        pixels = enlarge(maps.frames[frame], layout.factor)
        strip.paste(Image.fromarray(np.ascontiguousarray(pixels)), (x, y))
        first, behind = (int(point[0]) for point in maps.queries.window((t, 0, 0)))
        label = f"frame {frame}" if behind - first <= 1 else f"frame {frame} (of {first} to {behind - 1})"
        draw.text((x, y + layout.height + 2), label, fill=DARK, font=font(_TEXT - 3))


def _draw_arrows(
    layer: LineLayer, maps: AttentionMaps, layout: _Layout, position: list[float], query: tuple, keys: TopKeys
) -> None:
    # The middle of the pixel that was named.
    start = layout.point(query[0], position[1] + 0.5, position[2] + 0.5)
    largest = float(keys.weights[0]) if len(keys.weights) else 1.0
    found = list(zip(keys.cells.tolist(), keys.centres.tolist(), (keys.weights / largest).tolist()))
    for cell, _, share in reversed(found):
        layer.box(layout.box(cell[0], maps.keys.window(cell)), ARROW_COLOUR, 1, 0.4 + 0.6 * share)
    for cell, (_, y, x), share in reversed(found):
        layer.arrow(start, layout.point(cell[0], y, x), 1 + 2.5 * share, 0.4 + 0.6 * share)
    layer.box(layout.box(query[0], maps.queries.window(query)), QUERY_COLOUR, 2)
    layer.dot(*start, 3.5, QUERY_COLOUR)
