"""Writing videos that every player and browser shows: frames alone, or with their labels below the picture."""

import base64
import contextlib
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
from PIL import Image, ImageDraw

from nlvideo.data import Window
from nlvideo.utils.files.file_io import WholeFile, atomic_write, naming
from nlvideo.visualization.drawing import LONG_SIDE, enlargement, font

# Small frames grow by a whole factor to about this short side, pixels: text needs room.
_SHORT_SIDE = 256
_TIME_BASE = Fraction(1, 90_000)
# The longest that a frame is shown: 1 h 39 min. MP4 holds 2**31 units of time, and where the encoder reorders frames
# several gaps add up.
_MAX_GAP = 2**29
_BACKGROUND, _TEXT, _DIM, _BAR = (18, 20, 26), (244, 244, 246), (150, 154, 166), (46, 96, 196)
_MAX_BARS = 3


def write_video(path: str | os.PathLike, frames: np.ndarray, fps: float) -> None:
    """Write an MP4 with H.264 in yuv420p, whole or not at all; a file that is there is replaced.

    Args:
        path: the file; its folder must exist.
        frames: uint8 (T, H, W, 3), RGB. An odd height or width loses its last row or column, as yuv420p halves them.
        fps: frames per second.

    Raises:
        ValueError: no frames, frames of another shape or type, or ``fps`` not above 0.
        OSError: the folder is missing or full.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or min(frames.shape[:3]) < 1:
        raise ValueError(f"frames: got {frames.dtype} {frames.shape}, allowed: uint8 (T, H, W, 3)")
    if frames.shape[1] < 2 or frames.shape[2] < 2:
        raise ValueError(f"frames: got {frames.shape[1]}x{frames.shape[2]} pixels, allowed: 2x2 or more")
    if fps <= 0:
        raise ValueError(f"fps: got {fps}, allowed: above 0")
    atomic_write(os.fspath(path), lambda file: encode_video(file, frames, fps, crf=16))


def encode_video(file: BinaryIO, frames: Iterable[np.ndarray], fps: float, crf: int, preset: str = "medium") -> None:
    """Encode one frame or more into an open file; see `write_video`. ``crf`` and ``preset`` are options of x264.

    Raises:
        av.FFmpegError, ValueError: this FFmpeg has no encoder of H.264.
    """
    with _open_mp4(file) as container:
        stream = None
        for frame in frames:
            height, width = (side // 2 * 2 for side in frame.shape[:2])
            stream = stream or _add_h264(container, height, width, fps, crf, preset)
            container.mux(stream.encode(_to_av(frame[:height, :width])))
        assert stream is not None
        container.mux(stream.encode(None))


def _open_mp4(file: str | BinaryIO) -> av.container.OutputContainer:
    # In a file on disk the index comes first: a browser starts before it has all of the file. FFmpeg opens the file
    # again to move the index, which is impossible in memory.
    on_disk = isinstance(file, str) or hasattr(file, "name")
    return av.open(file, "w", format="mp4", options={"movflags": "faststart"} if on_disk else {})


def _add_h264(
    container: av.container.OutputContainer, height: int, width: int, fps: float, crf: int, preset: str
) -> av.VideoStream:
    """Add H.264 in yuv420p, whose sides are even; ``crf`` is 0 (lossless) to 51."""
    rate = Fraction(fps).limit_denominator(1000)
    stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": preset})
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    return stream


def _to_av(frame: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")


def data_uri(kind: str, content: bytes) -> str:
    """A file as an address that holds its content, for pages without other files; ``kind`` is e.g. ``image/png``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


class LabelledVideo:
    """A copy of a video with the best classes in a strip below the picture, written frame by frame; a context manager.

    The file, an MP4 (H.264, yuv420p), appears under its name when it is whole.

    Example:
        >>> with LabelledVideo("out.mp4") as video:
        ...     video.write(frame, 0.0, [("left", 0.97), ("right", 0.02)])

    Args:
        path: the file, which is replaced; its folder must exist.
        fps: about how many frames a second come, for the encoder; each frame carries its own time.
        keep_interrupted: finish the file also where Ctrl-C or an error ends the block, as when a camera is unplugged.
    """

    def __init__(self, path: str | os.PathLike, fps: float = 30.0, keep_interrupted: bool = False):
        self.path = os.path.abspath(path)
        self._file = WholeFile(self.path)
        try:
            with naming(self.path, self._file.temporary):
                self._container = _open_mp4(self._file.temporary)
        except BaseException:
            self._file.discard()
            raise
        self._fps, self._keep_interrupted = fps, keep_interrupted
        self._stream: av.VideoStream | None = None
        self._size = (0, 0)  # width and height of the picture, pixels
        # The last time that was written, and how much of the gaps so far was cut out, in units of the time base.
        self._last_pts, self._cut = -1, 0
        # The labels that were drawn last: once for each window, not for each frame.
        self._drawn: tuple[tuple[str, float], ...] = ()

    def write(self, frame: np.ndarray, seconds: float, best: Sequence[tuple[str, float]]) -> None:
        """Add a frame with its labels.

        Args:
            frame: uint8 (H, W, 3), RGB. A side above 4096 pixels is made smaller. Later frames get the size of the
                first.
            seconds: when it is shown, from the start of the video; later than the frame before. A gap of more than
                1 h 39 min, which MP4 cannot hold, is cut to that.
            best: (class name, score from 0 to 1), the best first; up to three are shown.
        """
        stream = self._stream = self._stream or self._open(*frame.shape[:2])
        width, height = self._size
        picture = Image.fromarray(frame)
        if picture.size != self._size:
            is_whole = width % picture.width == 0 and height % picture.height == 0
            picture = picture.resize(self._size, Image.Resampling.NEAREST if is_whole else Image.Resampling.BILINEAR)
        if self._drawn != tuple(best[:_MAX_BARS]):
            self._drawn = tuple(best[:_MAX_BARS])
            self._strip = np.asarray(draw_labels(self._drawn, width, self._strip_height, self._row_height))
        encoded = _to_av(np.concatenate([np.asarray(picture), self._strip]))
        # Two frames at one time would end the encoding, and so would a gap that MP4 cannot hold.
        pts = round(Fraction(seconds) / _TIME_BASE) - self._cut
        self._cut += max(0, pts - self._last_pts - _MAX_GAP)
        self._last_pts = min(max(self._last_pts + 1, pts), self._last_pts + _MAX_GAP)
        encoded.pts, encoded.time_base = self._last_pts, _TIME_BASE
        with naming(self.path, self._file.temporary):
            self._container.mux(stream.encode(encoded))

    def write_window(self, window: Window, best: Sequence[tuple[str, float]]) -> None:
        """Add the frames that are a window's own, with the window's labels; see `write`."""
        for frame in window.own:
            self.write(frame.to_rgb(), float(frame.seconds), best)

    def _open(self, height: int, width: int) -> av.VideoStream:
        scale = min(enlargement(height, width, _SHORT_SIDE), LONG_SIDE / max(height, width))
        # yuv420p halves both sides.
        even_width, even_height = (max(2, int(side * scale) // 2 * 2) for side in (width, height))
        self._size = (even_width, even_height)
        self._row_height = max(18, min(self._size) // 14)
        self._strip_height = _MAX_BARS * self._row_height // 2 * 2
        self._strip = np.asarray(draw_labels((), even_width, self._strip_height, self._row_height))
        total = even_height + self._strip_height
        stream = _add_h264(self._container, total, even_width, self._fps, crf=18, preset="veryfast")
        stream.codec_context.time_base = _TIME_BASE
        return stream

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
    """Draw a strip with a row for each class, the best first: its bar, as long as its score, its name and percentage.

    Scores are from 0 to 1, sizes in pixels.
    """
    strip = Image.new("RGB", (width, height), _BACKGROUND)
    draw, letters = ImageDraw.Draw(strip), font(round(row_height * 0.66))
    margin = row_height // 4
    for row, (name, score) in enumerate(best):
        top, middle = row * row_height, row * row_height + row_height // 2
        if row == 0:
            draw.rectangle((0, top + 1, round(score * (width - 1)), top + row_height - 2), fill=_BAR)
        colour = _TEXT if row == 0 else _DIM
        percent = f"{100 * score:.0f} %"
        room = width - 3 * margin - draw.textlength(percent, letters)
        text = name = " ".join(name.split())
        while name and draw.textlength(text, letters) > room:
            name = name[:-1]
            text = f"{name}…"
        draw.text((margin, middle), text, colour, letters, anchor="lm")
        draw.text((width - margin, middle), percent, colour, letters, anchor="rm")
    return strip
