"""When frames are shown, from the timestamps that a file gives: one rule for random access, streams and transcoding."""

from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np

# Frames per second of a stream that says nothing: the rate of the authors' videos, and of most cameras.
DEFAULT_FPS = Fraction(30)


def stated_rates(stream: av.VideoStream) -> list[Fraction]:
    """Return the frames per second that the headers of a stream state, best first; ``DEFAULT_FPS`` where none does."""
    return [rate for rate in (stream.average_rate, stream.guessed_rate) if rate] or [DEFAULT_FPS]


class ShowTimes:
    """Gives frames, in the order in which they come out of a decoder, their times.

    A timestamp holds unless it is before that of the last frame; two frames may have the same, not three. A frame without is
    shown after the last one at the stated rate; so is one whose timestamp is more than a second before the last: there a
    joined recording begins, and later timestamps count from there.

    Args:
        stream: of the frames.

    Attributes:
        time_base: of the times, seconds.
    """

    def __init__(self, stream: av.VideoStream):
        self.time_base = stream.time_base
        self._step = 1 / (stated_rates(stream)[0] * self.time_base)
        self._origin: int | None = None
        self._last: Fraction | None = None
        self._is_second = False  # the last frame had the time of the one before

    def next(self, stamp: int | None) -> int:
        """Return when the next frame is shown, in units of the time base from the first frame.

        Args:
            stamp: its timestamp; None where the file gives none.
        """
        last = self._last
        time = Fraction(0) if last is None else last + self._step
        if stamp is not None:
            if self._origin is None or stamp - self._origin < last - 1 / self.time_base:
                self._origin = stamp - round(time)
            stamped = Fraction(stamp - self._origin)
            if last is None or stamped > last or (stamped == last and not self._is_second):
                time = stamped
        self._is_second, self._last = time == last, time
        return round(time)

    def of_all(self, stamps: Iterable[int | None]) -> np.ndarray:
        """Return the times of all frames, int64."""
        return np.array([self.next(stamp) for stamp in stamps], np.int64)


def average_fps(times: np.ndarray, stream: av.VideoStream) -> float:
    """Return the frames per second of frames shown at some times, in units of the stream's time base.

    A stated rate counts where the times, which are rounded, do not contradict it.
    """
    rates = stated_rates(stream)
    seconds = int(times[-1] - times[0]) * stream.time_base if len(times) else 0
    if seconds:
        agreeing = (rate for rate in rates if abs((len(times) - 1) / rate - seconds) <= stream.time_base / 2)
        return float(next(agreeing, (len(times) - 1) / seconds))
    return float(rates[0])
