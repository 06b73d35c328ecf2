"""What is printed: logs, tables and progress bars, in any encoding, with any names of files."""

import contextlib
import io
import logging
import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from tabulate import tabulate
from tqdm import tqdm

# What a terminal takes for commands: control characters except tabs and ends of lines, and changes of direction.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LOG_LINE = "[%(asctime)s %(name)s] %(levelname)s: %(message)s"
_BAR_EVERY_SEC = 30.0
# What tqdm writes to move from one bar to another.
_BAR_MOVES = re.compile(r"(\n|\x1b\[A)*")
_seen: set[tuple[str, str]] = set()


def printable(text: str) -> str:
    r"""Return a text with what a terminal would take for commands as escapes, such as ``\x1b``."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Printable:
    """A text stream that passes on only printable text."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text as ``printable`` gives it."""
        return self._stream.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def never_fail_to_encode() -> None:
    """Print as escapes what the encoding of the console, such as Latin-1, does not have; the console may be closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf8"))  # noqa: SIM115 for the rest of the process
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def end_if_unread(error: BaseException | None = None) -> None:
    """End this process as other programs end when no one reads their output any more, such as with ``| head``.

    ``error`` is what ended the work. None: the work is done, and the rest of the output is printed here.
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


class _OwnHandler(logging.Handler):
    """Marks the handlers of `setup_logger`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line without what a terminal takes for commands; names of files may hold them."""
        return printable(super().format(record))


class _Console(_OwnHandler, logging.StreamHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """End if the console is gone. A run that saves first gets the signal of a closed terminal."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
        elif signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            raise
        else:
            self.stream = open(os.devnull, "w")  # noqa: SIM115 for the rest of the process
            os.kill(os.getpid(), signal.SIGHUP)


class _LogFile(_OwnHandler, logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Say once that the file cannot be written. A full disk ends a run elsewhere, if it loses more than a line."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif (self.baseFilename, "") not in _seen:
            _seen.add((self.baseFilename, ""))
            print(f"{self.baseFilename} cannot be written: {error.strerror}", file=sys.stderr, flush=True)


def setup_logger(output_dir: str | None, rank: int = 0, name: str = "nlvideo") -> logging.Logger:
    """Send the messages of a logger and its children to the console (rank 0) and to a file.

    A second call replaces the first, so that a second run in one process logs to its own folder.

    Args:
        output_dir: its ``log.txt`` (rank 0) or ``log.txt.rankN`` is appended to. None: no file.
        rank: the number of this process.
        name: of the logger. A project logs under the name of its own package, which needs its own call.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    # Propagation stays on: the root logger has no handler in our scripts, and a host program may want the messages.
    for earlier in [handler for handler in logger.handlers if isinstance(handler, _OwnHandler)]:
        logger.removeHandler(earlier)
        earlier.close()
    handlers: list[logging.Handler] = []
    if rank == 0:
        never_fail_to_encode()
        handlers.append(_Console(sys.stdout))
    if output_dir is not None:
        path = Path(output_dir, "log.txt" if rank == 0 else f"log.txt.rank{rank}")
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(_LogFile(path, encoding="utf8", errors="backslashreplace"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_LOG_LINE, datefmt="%m/%d %H:%M:%S"))
        logger.addHandler(handler)
    return logger


def log_once(message: str, level: int = logging.WARNING, name: str = "nlvideo") -> None:
    """Log a message the first time that this process sends it."""
    if (name, message) not in _seen:
        _seen.add((name, message))
        logging.getLogger(name).log(level, message)


def create_table(content: dict[str, Any] | Sequence[dict[str, Any]]) -> str:
    """Return a table as text: a dict as two columns, a list of dicts as rows under their keys."""
    if isinstance(content, dict):
        # tabulate formats the numbers of a column only if all of its cells are numbers.
        cells = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in content.items()}
        return tabulate(cells.items(), tablefmt="simple")
    return tabulate([dict(row) for row in content], headers="keys", tablefmt="simple", floatfmt=".4g")


def format_seconds(seconds: float) -> str:
    """Return a length of time in the two units that matter: "0.8 s", "2 min", "2 min 5 s", "3 h 20 min"."""
    whole = round(seconds)
    for size, large, small, unit in ((86400, "d", "h", 3600), (3600, "h", "min", 60), (60, "min", "s", 1)):
        if whole >= size:
            rest = whole % size // unit
            return f"{whole // size} {large}" + (f" {rest} {small}" if rest else "")
    return f"{seconds:.3g} s"


class _BarLines:
    """A stream that writes states of bars as whole lines, at most one in half a minute, and any other text as it is."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._next = time.monotonic() + _BAR_EVERY_SEC
        self._in_line = False

    def write(self, text: str) -> None:
        """Write a state of a bar, if it is time, or another text."""
        if text.startswith("\r"):
            if text.strip() and time.monotonic() >= self._next:
                self._next = time.monotonic() + _BAR_EVERY_SEC
                self._stream.write(f"{text.strip()}\n")
        elif self._in_line or not _BAR_MOVES.fullmatch(text):
            self._stream.write(text)
            self._in_line = not text.endswith("\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _bar_stream() -> Any:
    return sys.stderr if sys.stderr.isatty() else _BarLines(sys.stderr)


def progress_bar(*args: Any, **options: Any) -> tqdm:
    """Return ``tqdm(*args, **options)`` on the errors of the console: a bar on a terminal, few lines elsewhere."""
    options["file"] = _bar_stream()
    return tqdm(*args, **options)


@contextlib.contextmanager
def bars_as_lines() -> Iterator[None]:
    """Treat the bars that a library draws in this block, as of a download, like those of ``progress_bar``."""
    with contextlib.redirect_stderr(_bar_stream()):
        yield
