"""Logging set-up of a run, messages that do not repeat, tables, and lengths of time."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from nlvideo.utils.console import never_fail_to_encode, printable

_FORMAT = "[%(asctime)s %(name)s] %(levelname)s: %(message)s"
_seen: set[tuple[str, str]] = set()


def setup_logger(output_dir: str | None, rank: int = 0, name: str = "nlvideo") -> logging.Logger:
    """Send the messages of ``name`` and its children to the console (rank 0) and to a file.

    Calling it again replaces the earlier set-up, so that a second run of one process logs to its own folder.

    Args:
        output_dir: where ``log.txt`` (rank 0) or ``log.txt.rankN`` is appended to. None: no file.
        rank: the number of this process.
        name: the logger. Projects log under their own package's name, which needs its own call.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    # Propagation stays on: the root logger has no handler in our scripts, and a host program's may want the messages.
    for handler in [handler for handler in logger.handlers if getattr(handler, "is_nlvideo", False)]:
        logger.removeHandler(handler)
        handler.close()
    if rank == 0:
        never_fail_to_encode()
        _add(logger, _Console(sys.stdout))
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        file_name = "log.txt" if rank == 0 else f"log.txt.rank{rank}"
        _add(logger, _File(Path(output_dir) / file_name, encoding="utf8", errors="backslashreplace"))
    return logger


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Names of files may hold what a terminal takes for commands."""
        return printable(super().format(record))


class _Console(logging.StreamHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """End where the reader of the console is gone; a run that saves first is asked to, as by a terminal that closes."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
        elif signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            raise
        else:
            self.stream = open(os.devnull, "w")
            os.kill(os.getpid(), signal.SIGHUP)


class _File(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Say once that the file cannot be written: a full disk ends a run where it loses more than a line."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif (self.baseFilename, "") not in _seen:
            _seen.add((self.baseFilename, ""))
            print(f"{self.baseFilename} cannot be written: {error.strerror}", file=sys.stderr, flush=True)


def _add(logger: logging.Logger, handler: logging.Handler) -> None:
    handler.setFormatter(_Formatter(_FORMAT, datefmt="%m/%d %H:%M:%S"))
    handler.is_nlvideo = True
    logger.addHandler(handler)


def log_once(message: str, level: int = logging.WARNING, name: str = "nlvideo") -> None:
    """Log a message the first time that this process sends it."""
    if (name, message) not in _seen:
        _seen.add((name, message))
        logging.getLogger(name).log(level, message)


def create_table(content: dict[str, Any] | Sequence[dict[str, Any]]) -> str:
    """Return a table as text: a dict as two columns, a list of dicts as rows under their keys."""
    if isinstance(content, dict):
        # tabulate formats the numbers of a column only where all of it is numbers.
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
