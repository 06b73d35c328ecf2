"""Logging set-up of a run, messages that do not repeat, and tables."""

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

_FORMAT = "[%(asctime)s %(name)s] %(levelname)s: %(message)s"
_seen: Counter[tuple[str, str]] = Counter()


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
        _add(logger, logging.StreamHandler(sys.stdout))
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        file_name = "log.txt" if rank == 0 else f"log.txt.rank{rank}"
        _add(logger, logging.FileHandler(Path(output_dir) / file_name, encoding="utf8"))
    return logger


def _add(logger: logging.Logger, handler: logging.Handler) -> None:
    handler.setFormatter(logging.Formatter(_FORMAT, datefmt="%m/%d %H:%M:%S"))
    handler.is_nlvideo = True
    logger.addHandler(handler)


def log_first_n(message: str, n: int, level: int = logging.WARNING, name: str = "nlvideo") -> None:
    """Log a message the first ``n`` times that this process sends it."""
    _seen[name, message] += 1
    if _seen[name, message] <= n:
        logging.getLogger(name).log(level, message)


def log_once(message: str, level: int = logging.WARNING, name: str = "nlvideo") -> None:
    """Log a message the first time that this process sends it."""
    log_first_n(message, 1, level, name)


def create_table(content: dict[str, Any] | Sequence[dict[str, Any]]) -> str:
    """Return a table as text: a dict as two columns, a list of dicts as rows under their keys."""
    if isinstance(content, dict):
        # tabulate formats the numbers of a column only where all of it is numbers.
        cells = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in content.items()}
        return tabulate(cells.items(), tablefmt="simple")
    return tabulate([dict(row) for row in content], headers="keys", tablefmt="simple", floatfmt=".4g")
