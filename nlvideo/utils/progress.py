"""Progress bars: as tqdm draws them on a terminal, and as lines, few of them, in a file or a pipe."""

import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

_LINE_EVERY_SEC = 30.0


class _Lines:
    """A stream for bars that writes whole lines, at most one in half a minute."""

    def __init__(self, stream: TextIO):
        self._stream, self.flush = stream, stream.flush
        self._next = time.monotonic() + _LINE_EVERY_SEC

    def write(self, text: str) -> None:
        """Write a state of the bar, if it is time."""
        text = text.replace("\x1b[A", "").strip()  # what moves to the place of another bar
        if text and time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_EVERY_SEC
            self._stream.write(f"{text}\n")


def progress_bar(*args: Any, **options: Any) -> tqdm:
    """Return ``tqdm(*args, **options)`` that writes to the console's errors as befits where these go."""
    return tqdm(*args, file=sys.stderr if sys.stderr.isatty() else _Lines(sys.stderr), **options)
