"""What is printed: in any encoding, whatever names of files hold, and as long as something reads it."""

import io
import os
import re
import select
import signal
import sys
from typing import Any, TextIO

# What a terminal takes for commands: control characters but for tabs and ends of lines, and changes of direction.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Return a text with what a terminal would take for commands as escapes, such as ``\x1b``."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Printable:
    """A text stream through which only printable text goes."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text as ``printable`` gives it."""
        return self._stream.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def never_fail_to_encode() -> None:
    """Have console output show as escapes what its encoding, such as Latin-1, does not have; it may also be closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf8"))
        if isinstance(getattr(sys, name), io.TextIOWrapper):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def end_if_unread(error: BaseException | None = None) -> None:
    """End this process as other programs end when the reader of their output is gone, as with ``| head``.

    Args:
        error: that came up; None: the work is done, and what is left to print is printed here.
    """
    try:
        sys.stdout.flush()
        if isinstance(error, BrokenPipeError):
            watched = select.poll()
            watched.register(sys.stdout, 0)
            if watched.poll(0):  # it is this pipe that broke
                raise error
    except BrokenPipeError:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
