"""The pictures of attention and of Grad-CAM: the film strip of the paper's Figure 3, and heat over every frame."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from nlvideo.visualization import drawing
from nlvideo.visualization.attention import NUM_ARROWS, AttentionMaps, TopKeys, top_keys
from nlvideo.visualization.gradcam import ClassMaps
from nlvideo.visualization.grid import Grid, Size, Window

# The film strip, pixels: short side of a frame, width of the strip, and the margin around it.
_STRIP_SIDE, _MAX_WIDTH, _MARGIN = 224, 1100, 12
# All frames of a clip of up to so many are shown; of a longer clip, a frame for each frame of the map.
_SHOW_ALL = 10
# Heat over frames, pixels: short side of a frame; text, height of its caption, height of the bar of colours.
_HEAT_SIDE, _TEXT, _CAPTION, _BAR_HEIGHT = 320, 15, 52, 10


class _Layout(drawing.FrameRows):
    """The frames of a film strip: which of the clip, and where."""

    def __init__(self, grid: Grid, cell: int = 0, frame: int | None = None):
        """Lay out the frames of a map; ``frame``, which is in the window of ``cell``, is one of them."""
        T, H, W = grid.clip
        self.shown = list(range(T))
        if T > _SHOW_ALL:
            self.shown = [grid.shown_frame(t) for t in range(grid.size[0])]
            # The query's own frame need not be the middle one of its window. It is shown.
            self.shown[cell] = self.shown[cell] if frame is None else frame
        self.query = 0 if frame is None else self.shown.index(frame)
        factor = drawing.enlargement(H, W, _STRIP_SIDE)
        most = max(1, (_MAX_WIDTH - 2 * _MARGIN + self.GAP) // (W * factor + self.GAP))
        super().__init__(len(self.shown), H, W, factor, most, (_MARGIN, _MARGIN + round(1.6 * self.TEXT)))
        self.bottom = _MARGIN + round(1.6 * self.TEXT) + self.size[1]

    def places(self, window: Window) -> list[int]:
        """Which of the frames shown are in a cell's window; if none is, the nearest one."""
        (first, _, _), (end, _, _) = window
        inside = [place for place, frame in enumerate(self.shown) if int(first) <= frame < end]
        return inside or [min(range(len(self.shown)), key=lambda place: abs(self.shown[place] - first))]

    def box(self, place: int, window: Window) -> drawing.Box:
        """(x0, y0, x1, y1) of a cell's window in a frame shown."""
        (_, y0, x0), (_, y1, x1) = window
        return (*self.point(place, y0, x0), *self.point(place, y1, x1))


def draw_film_strip(maps: AttentionMaps, index: int, k: int = NUM_ARROWS) -> Image.Image:
    """Draw the arrows of one query (Fig. 3): from it to the keys of the highest weights, see `top_keys`.

    A clip of up to 10 frames is shown whole, and a longer one by one frame for each frame of the map. The query is a
    white box, its cell, with a dot. Every key is a yellow box, the window of its cell, in all its frames that are
    shown. Its arrow ends in the frame whose place in the key's window is that of the query's frame in the query's
    window. The higher the weight, the wider and the more opaque the arrow. There are at most ``k``; keys of weight 0 or
    less have none.

    Raises:
        ValueError: there is no such query, or ``k`` is below 1.
    """
    _check_index(maps, index)
    keys = top_keys(maps, k)[index]
    position = maps.positions[index].tolist()
    query = maps.queries.cell(position)
    layout = _Layout(maps.queries, query[0], int(position[0]))
    return _strip(
        layout, maps.frames[layout.shown], _labels(maps.queries, layout), _texts(maps, index, keys),
        lambda layer: _draw_arrows(layer, maps, layout, position, query, keys),
    )  # fmt: skip


def _strip(
    layout: _Layout, frames: np.ndarray, labels: Sequence[str], texts: Sequence[str],
    lines: Callable[[drawing.LineLayer], None] = lambda layer: None,
) -> Image.Image:  # fmt: skip
    """The frames, lines over them, and one text above them and one below."""
    letters = drawing.font(layout.TEXT)
    width = max(layout.size[0], *(int(letters.getlength(text)) for text in texts)) + 2 * _MARGIN
    strip = Image.new("RGB", (width, layout.bottom + (len(texts) > 1) * layout.TEXT + 2 * _MARGIN), (255, 255, 255))
    layout.paste(strip, frames, labels)
    lines(layer := drawing.LineLayer(strip.size))
    strip = layer.over(strip)
    draw = ImageDraw.Draw(strip)
    for text, y in zip(texts, (_MARGIN - 4, layout.bottom), strict=False):
        draw.text((_MARGIN, y), text, fill=drawing.DARK, font=letters)
    return strip


def _check_index(maps: AttentionMaps | ClassMaps, index: int) -> None:
    if not 0 <= index < len(maps.weights):
        what = "queries" if isinstance(maps, AttentionMaps) else "views"
        raise ValueError(f"index: got {index}, allowed: 0 to {len(maps.weights) - 1}, the {what} of the maps")


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


def _labels(grid: Grid, layout: _Layout) -> list[str]:
    labels = [f"frame {frame}" for frame in layout.shown]
    if len(layout.shown) < grid.clip[0]:
        for t in range(grid.size[0]):
            (first, *_), (end, *_) = grid.window((t, 0, 0))
            if int(end) - int(first) > 1:
                labels[t] += f" (of {int(first)} to {int(end) - 1})"
    return labels


def _draw_arrows(
    layer: drawing.LineLayer, maps: AttentionMaps, layout: _Layout, position: list[float], query: Size, keys: TopKeys
) -> None:
    # The middle of the pixel that was named.
    start = layout.point(layout.query, position[1] + 0.5, position[2] + 0.5)
    largest = float(keys.weights[0]) if len(keys.weights) else 1.0
    # A query in the last frame of its window points to the last frames of other windows.
    # A frame after all windows belongs to the last of them.
    phase = sum(place < layout.query for place in layout.places(maps.queries.window(query)))
    # The smallest come first, so that larger ones cover them.
    shares = (keys.weights / largest).tolist()
    found = list(zip(keys.cells.tolist(), keys.centres.tolist(), shares, strict=True))[::-1]
    for cell, _, share in found:
        window = maps.keys.window(cell)
        for place in layout.places(window):
            layer.box(layout.box(place, window), drawing.ARROW_COLOUR, 1, 0.3 + 0.7 * share)
    for cell, (_, y, x), share in found:
        places = layout.places(maps.keys.window(cell))
        layer.arrow(start, layout.point(places[min(phase, len(places) - 1)], y, x), 1 + 2.5 * share, 0.3 + 0.7 * share)
    layer.box(layout.box(layout.query, maps.queries.window(query)), drawing.QUERY_COLOUR, 2)
    layer.dot(*start, 3.5, drawing.QUERY_COLOUR)


def heated_frames(maps: AttentionMaps | ClassMaps, index: int) -> np.ndarray:
    """The frames, uint8 (T, H, W, 3), with the weights of one query, or of one view, as heat over them.

    Heat is relative to the largest weight, of the query or of all views.
    """
    row, largest = maps.weights[index], _largest(maps, index)
    keys, frames = (maps.grid, maps.frames[index]) if isinstance(maps, ClassMaps) else (maps.keys, maps.frames)
    shares = (keys.upsample(row) / (largest or 1.0)).numpy()
    return np.stack([drawing.add_heat(frame, share) for frame, share in zip(frames, shares, strict=True)])


def overlay_frames(maps: AttentionMaps | ClassMaps, index: int) -> np.ndarray:
    """Every frame with the weights of one query, or of one view, as heat, and a caption below.

    Colours run from nothing at weight 0 over red to pale yellow at the largest weight, see `heated_frames`; the caption
    gives that weight. Negative weights (dot product) run over blue, on the same scale. Every pixel has the weight of
    its cell, without smoothing. The query's cell is a white box in the frames that it stands for.

    Returns:
        uint8 (T, H', W', 3), enlarged by a whole factor to a short side of about 320 pixels; both sides are even.

    Raises:
        ValueError: there is no such query or view.
    """
    _check_index(maps, index)
    T, H, W = maps.frames.shape[-4:-1]
    factor = drawing.enlargement(H, W, _HEAT_SIDE)
    largest, negative = _largest(maps, index), bool((maps.weights[index] < 0).any())
    pictures = []
    for t, heated in enumerate(heated_frames(maps, index)):
        # H.264 needs even sides.
        image = Image.new("RGB", ((W * factor + 1) // 2 * 2, (H * factor + _CAPTION + 1) // 2 * 2), drawing.DARK)
        image.paste(Image.fromarray(drawing.enlarge(heated, factor)))
        text = f"{_name(maps)}: frame {t} of {T}"
        if isinstance(maps, AttentionMaps):
            text += f", query in frame {maps.positions[index][0]:g}"
            image = _with_query(image, maps, index, t, factor)
        _caption(image, H * factor, text, largest, negative)
        pictures.append(np.asarray(image))
    return np.stack(pictures)


def draw_heat_strip(maps: ClassMaps, index: int, title: str = "") -> Image.Image:
    """Draw the frames of one view with heat: all of a clip of up to 10, else one for each frame of the map.

    The first line is the title, or the layer and the number of the class.

    Raises:
        ValueError: there is no such view.
    """
    _check_index(maps, index)
    layout = _Layout(maps.grid)
    title = title or f"{_name(maps)}, class {maps.target}"
    return _strip(layout, heated_frames(maps, index)[layout.shown], _labels(maps.grid, layout), [title])


def _largest(maps: AttentionMaps | ClassMaps, index: int) -> float:
    return float((maps.weights if isinstance(maps, ClassMaps) else maps.weights[index]).abs().max())


def _name(maps: AttentionMaps | ClassMaps) -> str:
    return f"Grad-CAM, {maps.layer}" if isinstance(maps, ClassMaps) else maps.block


def _with_query(image: Image.Image, maps: AttentionMaps, index: int, t: int, factor: int) -> Image.Image:
    """A frame with the query's cell, if it stands for the frame."""
    position = maps.positions[index].tolist()
    (t0, y0, x0), (t1, y1, x1) = maps.queries.window(maps.queries.cell(position))
    if not t0 <= t < t1:
        return image
    layer = drawing.LineLayer(image.size)
    layer.box((x0 * factor, y0 * factor, x1 * factor, y1 * factor), drawing.QUERY_COLOUR, 2)
    if t == int(position[0]):
        layer.dot((position[2] + 0.5) * factor, (position[1] + 0.5) * factor, 4, drawing.QUERY_COLOUR)
    return layer.over(image)


def _caption(image: Image.Image, top: int, text: str, largest: float, negative: bool) -> None:
    """Draw a line of text, and below it the bar of colours between the weights at its ends."""
    draw, letters = ImageDraw.Draw(image), drawing.font(_TEXT)
    draw.text((8, top + 4), text, fill=drawing.QUERY_COLOUR, font=letters)
    low, high = f"{-largest:.2g}" if negative else "0", f"{largest:.2g}"
    y, left = top + 8 + _TEXT + 4, 8 + round(letters.getlength(low)) + 6
    right = image.width - 8 - round(letters.getlength(high)) - 6
    draw.text((8, y), low, fill=drawing.QUERY_COLOUR, font=letters)
    draw.text((right + 6, y), high, fill=drawing.QUERY_COLOUR, font=letters)
    if right > left:
        share = np.linspace(-1.0 if negative else 0.0, 1.0, right - left)
        grey = np.full((_BAR_HEIGHT, right - left, 3), 96, np.uint8)
        bar = drawing.add_heat(grey, np.broadcast_to(share, grey.shape[:2]))
        image.paste(Image.fromarray(bar), (left, y + (_TEXT - _BAR_HEIGHT) // 2 + 3))
