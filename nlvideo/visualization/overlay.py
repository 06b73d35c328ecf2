"""Heat maps of attention over the frames of a clip."""

import numpy as np
from PIL import Image, ImageDraw

from nlvideo.visualization.attention import AttentionMaps
from nlvideo.visualization.drawing import (
    DARK,
    QUERY_COLOUR,
    LineLayer,
    add_heat,
    enlarge,
    enlargement,
    font,
)
from nlvideo.visualization.film_strip import check_index

_SHORT_SIDE = 320
_TEXT = 15
_CAPTION = 52
_BAR_HEIGHT = 10


def heated_frames(maps: AttentionMaps, index: int) -> np.ndarray:
    """The frames, uint8 (T, H, W, 3), with the weights of one query as heat over them, on the scale of their largest."""
    row = maps.weights[index]
    shares = (maps.keys.upsample(row) / (float(row.abs().max()) or 1.0)).numpy()
    return np.stack([add_heat(frame, share) for frame, share in zip(maps.frames, shares)])


def overlay_frames(maps: AttentionMaps, index: int) -> np.ndarray:
    """Every frame with the weights of one query as heat over it, and a caption below.

    Colours run from nothing at weight 0 over red to pale yellow at the largest weight of the query, whatever that is:
    the caption has the number. Negative weights (dot product) run over blue, on the same scale. Every pixel has
    the weight of its cell, with nothing smoothed. The query's cell is a white box in the frames that it stands for.

    Args:
        maps: from `attend`.
        index: which of its queries.

    Returns:
        uint8 (T, H', W', 3), enlarged by a whole factor to a short side of about 320 pixels; both sides are even.

    Raises:
        ValueError: there is no such query.
    """
    check_index(maps, index)
    T, H, W = maps.queries.clip
    factor = enlargement(H, W, _SHORT_SIDE)
    row = maps.weights[index]
    largest = float(row.abs().max())
    position = maps.positions[index].tolist()
    query = maps.queries.window(maps.queries.cell(position))
    pictures = []
    for t, heated in enumerate(heated_frames(maps, index)):
        image = Image.new("RGB", (_even(W * factor), _even(H * factor + _CAPTION)), DARK)
        image.paste(Image.fromarray(enlarge(heated, factor)))
        if query[0][0] <= t < query[1][0]:
            image = _with_query(image, query, position, factor, t == int(position[0]))
        text = f"{maps.block}: frame {t} of {T}, query in frame {position[0]:g}"
        _caption(image, H * factor, text, largest, bool((row < 0).any()))
        pictures.append(np.asarray(image))
    return np.stack(pictures)


def _with_query(image: Image.Image, window: tuple, position: list[float], factor: int, own: bool) -> Image.Image:
    (_, y0, x0), (_, y1, x1) = window
    layer = LineLayer(image.size)
    layer.box((x0 * factor, y0 * factor, x1 * factor, y1 * factor), QUERY_COLOUR, 2)
    if own:
        layer.dot((position[2] + 0.5) * factor, (position[1] + 0.5) * factor, 4, QUERY_COLOUR)
    return layer.over(image)


def _caption(image: Image.Image, top: int, text: str, largest: float, negative: bool) -> None:
    draw = ImageDraw.Draw(image)
    draw.text((8, top + 4), text, fill=QUERY_COLOUR, font=font(_TEXT))
    low, high = f"{-largest:.2g}" if negative else "0", f"{largest:.2g}"
    y, left = top + 8 + _TEXT + 4, 8 + round(font(_TEXT).getlength(low)) + 6
    right = image.width - 8 - round(font(_TEXT).getlength(high)) - 6
    draw.text((8, y), low, fill=QUERY_COLOUR, font=font(_TEXT))
    draw.text((right + 6, y), high, fill=QUERY_COLOUR, font=font(_TEXT))
    if right > left:
        share = np.linspace(-1.0 if negative else 0.0, 1.0, right - left)
        grey = np.full((_BAR_HEIGHT, right - left, 3), 96, np.uint8)
        bar = add_heat(grey, np.broadcast_to(share, grey.shape[:2]))
        image.paste(Image.fromarray(bar), (left, y + (_TEXT - _BAR_HEIGHT) // 2 + 3))


def _even(length: int) -> int:
    return length + length % 2
