"""What the pictures share: text, enlarged frames in rows, heat colours, arrows."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Box = tuple[float, float, float, float]
RGB = tuple[int, int, int]

QUERY_COLOUR: RGB = (255, 255, 255)
ARROW_COLOUR: RGB = (255, 196, 0)
DARK: RGB = (16, 16, 20)
# Pixels of a side that every player and browser shows; x264 takes up to four times as many.
LONG_SIDE = 4096
# Lines are drawn this much larger and then made smaller, because Pillow draws without antialiasing.
SUPERSAMPLE = 3

# From weight 0 to the largest: red, yellow, pale. From 0 to the most negative: blue, cyan, pale.
_WARM = np.array([(215, 25, 0), (255, 150, 0), (255, 240, 130)], np.float32)
_COOL = np.array([(20, 50, 255), (0, 150, 255), (150, 240, 255)], np.float32)
_MOST_OPAQUE = 0.8


def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own scalable font, in pixels.

    Raises:
        OSError: this Pillow is built without FreeType.
    """
    letters = ImageFont.load_default(size)
    if not isinstance(letters, ImageFont.FreeTypeFont):
        raise OSError("this Pillow is built without FreeType, and cannot write text: install another build")
    return letters


def enlargement(height: int, width: int, short_side: int) -> int:
    """The whole factor, 1 or more, that brings a frame's short side closest to ``short_side`` pixels.

    No side grows above ``LONG_SIDE``.
    """
    return max(1, min(round(short_side / min(height, width)), LONG_SIDE // max(height, width)))


def enlarge(frame: np.ndarray, factor: int) -> np.ndarray:
    """Pixels become squares: (H, W, ...) -> (factor H, factor W, ...)."""
    return frame.repeat(factor, axis=0).repeat(factor, axis=1)


class FrameRows:
    """Frames beside each other in rows of one length, with room for a line of text below each.

    ``factor`` is how much larger they are drawn; ``width`` and ``height`` (of a frame) and ``size`` (width, height, of
    all rows) are pixels of the picture.
    """

    GAP, TEXT = 8, 19

    def __init__(self, count: int, height: int, width: int, factor: int, most: int, corner: tuple[int, int] = (0, 0)):
        """Lay out ``count`` frames (height, width), at most ``most`` in a row, from ``corner`` (x, y) on."""
        self._count, self._corner, self.factor = count, corner, factor
        self.height, self.width = height * factor, width * factor
        rows = -(-count // most)
        # Rows of one length: 6 frames are 3 and 3, not 4 and 2.
        self._per_row = -(-count // rows)
        self._row_height = self.height + round(1.5 * self.TEXT) + self.GAP
        self.size = (self._per_row * (self.width + self.GAP) - self.GAP, rows * self._row_height)

    def point(self, place: int, y: float = 0.0, x: float = 0.0) -> tuple[float, float]:
        """(x, y) on the picture of a point in a frame."""
        row, column = divmod(place, self._per_row)
        left, top = self._corner[0] + column * (self.width + self.GAP), self._corner[1] + row * self._row_height
        return left + x * self.factor, top + y * self.factor

    def place(self, x: float, y: float) -> tuple[int, int, int] | None:
        """(frame, y, x) of a point on the picture: the inverse of `point`, in whole pixels; None between frames."""
        for number in range(self._count):
            left, top = self.point(number)
            if 0 <= x - left < self.width and 0 <= y - top < self.height:
                return number, int((y - top) // self.factor), int((x - left) // self.factor)
        return None

    def paste(self, picture: Image.Image, frames: Iterable[np.ndarray], labels: Sequence[str]) -> None:
        """Put frames, uint8 (H, W, 3), on a picture, each with its label below."""
        draw = ImageDraw.Draw(picture)
        for number, (frame, label) in enumerate(zip(frames, labels, strict=True)):
            x, y = map(int, self.point(number))
            picture.paste(Image.fromarray(np.ascontiguousarray(enlarge(frame, self.factor))), (x, y))
            draw.text((x, y + self.height + 2), label, fill=DARK, font=font(self.TEXT - 3))

    def picture(self, frames: Iterable[np.ndarray], labels: Sequence[str]) -> Image.Image:
        """The rows alone, on white."""
        picture = Image.new("RGB", self.size, (255, 255, 255))
        self.paste(picture, frames, labels)
        return picture


def add_heat(frame: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Blend heat over a frame, uint8 (H, W, 3): nothing at weight 0, and most where a share (H, W) is -1 or 1."""
    strength = np.abs(share).clip(0, 1).astype(np.float32)
    stops = np.linspace(0, 1, len(_WARM))
    ramps = [np.stack([np.interp(strength, stops, ramp[:, c]) for c in range(3)], -1) for ramp in (_WARM, _COOL)]
    colour = np.where((share < 0)[..., None], ramps[1], ramps[0]).astype(np.float32)
    # The opacity rises fast, so that half of the largest weight is seen on any background.
    opacity = _MOST_OPAQUE * np.sqrt(strength)[..., None]
    return (frame * (1 - opacity) + colour * opacity).round().astype(np.uint8)


class LineLayer:
    """Antialiased lines over an image; what is drawn later covers what was drawn before."""

    def __init__(self, size: tuple[int, int]):
        """Begin an empty layer of ``size`` (width, height), pixels."""
        self._image = Image.new("RGBA", (size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE), (*DARK, 0))
        self._draw = ImageDraw.Draw(self._image)

    def box(self, box: Box, colour: RGB, width: float, opacity: float = 1.0) -> None:
        """Outline (x0, y0, x1, y1) from inside, with a dark line on both sides."""
        x0, y0, x1, y1 = (v * SUPERSAMPLE for v in box)
        # The dark line is a pixel outside, and two wider.
        for rim, ink in ((SUPERSAMPLE, _ink(DARK, 0.8 * opacity)), (0, _ink(colour, opacity))):
            corners = (x0 - rim, y0 - rim, x1 + rim - 1, y1 + rim - 1)
            self._draw.rectangle(corners, outline=ink, width=round(width * SUPERSAMPLE) + 2 * rim)

    def dot(self, x: float, y: float, radius: float, colour: RGB) -> None:
        """A disc with a dark rim."""
        for r, ink in ((radius + 1.5, DARK), (radius, colour)):
            self._draw.ellipse([v * SUPERSAMPLE for v in (x - r, y - r, x + r, y + r)], fill=_ink(ink, 1.0))

    def arrow(self, start: tuple[float, float], end: tuple[float, float], width: float, opacity: float) -> None:
        """An arrow with a dark rim from ``start`` to ``end`` (x, y); nothing if they are less than a pixel apart."""
        length = math.dist(start, end)
        if length < 1:
            return
        tail, tip = (SUPERSAMPLE * np.array(point) for point in (start, end))
        along = (tip - tail) / np.linalg.norm(tip - tail)
        across = np.array((-along[1], along[0]))
        head = min(length, 5 + 2.2 * width)
        neck = tip - SUPERSAMPLE * head * along
        for rim, ink in ((1.2, _ink(DARK, 0.55 * opacity)), (0.0, _ink(ARROW_COLOUR, opacity))):
            self._draw.line([*tail, *neck], fill=ink, width=max(1, round((width + 2 * rim) * SUPERSAMPLE)))
            half = SUPERSAMPLE * (0.4 * head + rim) * across
            self._draw.polygon([*(tip + SUPERSAMPLE * rim * along), *(neck + half), *(neck - half)], fill=ink)

    def over(self, image: Image.Image) -> Image.Image:
        """The image (RGB) with the layer on top."""
        # Pillow weighs colours by their opacity when it shrinks RGBA.
        layer = self._image.resize(image.size, Image.Resampling.BOX)
        return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def _ink(colour: RGB, opacity: float) -> tuple[int, int, int, int]:
    return (*colour, round(255 * opacity))
