"""``LabelledVideo``: a copy of a video with the best classes in a strip below the picture, written frame by frame."""

import contextlib
import os
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nlvideo.data import Window
from nlvideo.utils.files.file_io import WholeFile, naming
from nlvideo.visualization.drawing import LONG_SIDE, enlargement, font
from nlvideo.visualization.video_file import add_h264, open_mp4

# Small frames grow by a whole factor to about this short side, pixels: text needs room.
_SHORT_SIDE = 256
_TIME_BASE = Fraction(1, 90_000)
# The longest that a frame is shown: 1 h 39 min. MP4 holds 2**31 units of time, and where the encoder reorders frames
# several gaps add up.
_MAX_GAP = 2**29
_BACKGROUND, _TEXT, _DIM, _BAR = (18, 20, 26), (244, 244, 246), (150, 154, 166), (46, 96, 196)
_MAX_BARS = 3


class LabelledVideo:
    """An MP4 (H.264, yuv420p) that appears under its name once it is whole; a context manager.

    Example:
        >>> with LabelledVideo("out.mp4") as video:
        ...     video.write(frame, 0.0, [("left", 0.97), ("right", 0.02)])

    Args:
        path: the file, which is replaced; its folder must exist.
        fps: about how many frames a second come, for the encoder; each frame carries its own time.
        keep_interrupted: finish the file, too, where Ctrl-C or an error ends the block: a camera is stopped or unplugged.
    """

    def __init__(self, path: str | os.PathLike, fps: float = 30.0, keep_interrupted: bool = False):
        self.path = os.path.abspath(path)
        self._file = WholeFile(self.path)
        self._container = open_mp4(self._file.temporary)
        self._rate = Fraction(fps).limit_denominator(1000)
        self._stream: av.VideoStream | None = None
        self._size: tuple[int, int] | None = None
        # The last time that was written, and how much of the gaps so far was cut out, in units of the time base.
        self._last_pts, self._cut = -1, 0
        self._keep_interrupted = keep_interrupted
        self._strip: tuple[tuple, np.ndarray] | None = None

    def write(self, frame: np.ndarray, seconds: float, best: Sequence[tuple[str, float]]) -> None:
        """Add a frame with its labels.

        Args:
            frame: uint8 (H, W, 3), RGB; later frames of another size are resized to that of the first. Those above 4096
                pixels are made smaller.
            seconds: when it is shown, from the start of the video; later than the frame before. MP4 holds no gap of
                hours: what is longer than 1 h 39 min is cut to that.
            best: (class name, score from 0 to 1), the best first; up to three are shown.
        """
        if self._stream is None:
            self._open(*frame.shape[:2])
        width, height = self._size
        picture = Image.fromarray(frame)
        if picture.size != self._size:
            is_whole = width % picture.width == 0 and height % picture.height == 0
            picture = picture.resize(self._size, Image.Resampling.NEAREST if is_whole else Image.Resampling.BILINEAR)
        pixels = np.concatenate([np.asarray(picture), self._labels(tuple(best[:_MAX_BARS]))])
        encoded = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[: self._stream.height]), format="rgb24")
        # Two frames at one time would end the encoding, and so would a gap that MP4 cannot hold.
        pts = round(Fraction(seconds) / _TIME_BASE) - self._cut
        self._cut += max(0, pts - self._last_pts - _MAX_GAP)
        self._last_pts = min(max(self._last_pts + 1, pts), self._last_pts + _MAX_GAP)
        encoded.pts, encoded.time_base = self._last_pts, _TIME_BASE
        with naming(self.path, self._file.temporary):
            self._container.mux(self._stream.encode(encoded))

    def write_window(self, window: Window, best: Sequence[tuple[str, float]]) -> None:
        """Add the frames that are a window's own, with the window's labels; see `write`."""
        for frame in window.own:
            self.write(frame.to_rgb(), float(frame.seconds), best)

    def _open(self, height: int, width: int) -> None:
        scale = min(enlargement(height, width, _SHORT_SIDE), LONG_SIDE / max(height, width))
        # yuv420p halves both sides.
        self._size = tuple(max(2, int(side * scale) // 2 * 2) for side in (width, height))
        total = self._size[1] + self._strip_height()
        stream = add_h264(self._container, total, self._size[0], self._rate, crf=18, preset="veryfast")
        stream.codec_context.time_base = _TIME_BASE
        self._stream = stream

    def _strip_height(self) -> int:
        return _MAX_BARS * self._row_height() // 2 * 2

    def _row_height(self) -> int:
        return max(18, min(self._size) // 14)

    def _labels(self, best: tuple[tuple[str, float], ...]) -> np.ndarray:
        # Drawn once for each window, not for each frame.
        if self._strip is None or self._strip[0] != best:
            self._strip = best, np.asarray(draw_labels(best, self._size[0], self._strip_height(), self._row_height()))
        return self._strip[1]

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises:
            ValueError: no frame was written; there is no file then.
        """
        if self._stream is None:
            self.discard()
            raise ValueError(f"{self.path}: no frame was written")
        try:
            with naming(self.path, self._file.temporary):
                self._container.mux(self._stream.encode(None))
                self._container.close()
        except BaseException:
            self.discard()
            raise
        self._file.finish()

    def discard(self) -> None:
        """Stop without a file."""
        # What cannot be written, as on a full disk, cannot be finished either.
        with contextlib.suppress(av.FFmpegError, OSError):
            self._container.close()
        self._file.discard()

    def __enter__(self) -> "LabelledVideo":
        return self

    def __exit__(self, kind: type | None, *exc_info: object) -> None:
        if kind is None or (self._keep_interrupted and self._stream is not None):
            self.close()
        else:
            self.discard()


def draw_labels(best: Sequence[tuple[str, float]], width: int, height: int, row_height: int) -> Image.Image:
    """Draw a strip with a row for each class: a bar as long as its score, its name and its percentage.

    Args:
        best: (class name, score from 0 to 1), the best first.
        width: of the strip, pixels.
        height: of the strip, pixels.
        row_height: pixels.
    """
    strip = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(strip)
    letters = font(round(row_height * 0.66))
    margin = row_height // 4
    for row, (name, score) in enumerate(best):
        top, middle = row * row_height, row * row_height + row_height // 2
        if row == 0:
            draw.rectangle((0, top + 1, round(score * (width - 1)), top + row_height - 2), fill=_BAR)
        colour = _TEXT if row == 0 else _DIM
        percent = f"{100 * score:.0f} %"
        room = width - 3 * margin - draw.textlength(percent, letters)
        draw.text((margin, middle), _shortened(name, draw, letters, room), colour, letters, anchor="lm")
        draw.text((width - margin, middle), percent, colour, letters, anchor="rm")
    return strip


def _shortened(name: str, draw: ImageDraw.ImageDraw, letters: ImageFont.FreeTypeFont, room: float) -> str:
    name = " ".join(name.split())
    if draw.textlength(name, letters) <= room:
        return name
    while name and draw.textlength(f"{name}…", letters) > room:
        name = name[:-1]
    return f"{name}…"
