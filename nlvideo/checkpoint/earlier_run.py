"""What an earlier run has left in the folder of a new one: it stays in place until the new run saves something."""

import logging
import os
from pathlib import Path

from nlvideo.utils.files.file_io import write_text

logger = logging.getLogger(__name__)

TAG = "last_checkpoint"
_METRICS, _CONFIG = "metrics.json", "config.yaml"
# The config of a run that has begun beside an earlier one and has saved nothing yet.
_NEXT_CONFIG = "config.next.yaml"


def config_path(folder: str, resume: bool) -> str:
    """Return where a run that starts in a folder writes its config: beside that of an earlier run, if it is another."""
    waiting = os.path.join(folder, _NEXT_CONFIG)
    if not resume and checkpoints_in(Path(folder)):
        return waiting
    # Of a start that has failed.
    Path(waiting).unlink(missing_ok=True)
    return os.path.join(folder, _CONFIG)


class EarlierRun:
    """The files of a run that a new one in its folder would replace; made when the new run starts."""

    def __init__(self, folder: str):
        """Look what is there; ``folder`` is ``OUTPUT_DIR`` and need not exist."""
        self._folder = Path(folder)
        metrics = self._folder / _METRICS
        # The new run appends to the same file.
        self._metrics_size = metrics.stat().st_size if metrics.is_file() else 0
        self._files = checkpoints_in(self._folder)
        if self._files or self._metrics_size:
            # The list of failed videos is the new run's by now; a resumed run has it in its checkpoint.
            results = ("inference", "best/inference", "validation/inference")
            self._files += [self._folder / name for name in (_METRICS, _CONFIG, *results, "report.html")]

    def set_aside(self) -> None:
        """Move the files into a new folder ``earlier_1``, ``earlier_2`` ...; nothing on later calls.

        ``last_checkpoint`` goes first: a kill in between leaves a folder that nothing resumes from unasked.
        """
        files, self._files = self._files, []
        if not files:
            return
        number = 1
        while (aside := self._folder / f"earlier_{number}").exists():
            number += 1
        aside.mkdir()
        metrics, waiting = self._folder / _METRICS, self._folder / _NEXT_CONFIG
        new_lines = metrics.read_bytes()[self._metrics_size :] if metrics.is_file() else b""
        for path in files:
            # Without a config that waits, the one that is there is the new run's.
            if path.exists() and (path.name != _CONFIG or waiting.exists()):
                target = aside / path.relative_to(self._folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
        if new_lines:
            os.truncate(aside / _METRICS, self._metrics_size)
            write_text(metrics, new_lines.decode())
        if waiting.exists():
            waiting.rename(self._folder / _CONFIG)
        logger.warning("%s held an earlier run: checkpoints, metrics and results are in %s now", self._folder, aside)


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the tag, if there is one, and the checkpoints of a run."""
    tag = folder / TAG
    named = Path(tag.read_text().strip()).name if tag.is_file() else ""
    found = [tag] * tag.is_file() + [folder / named] * bool(named)
    found += [path for name in ("[0-9]*", "best", "final") for path in sorted(folder.glob(f"model_{name}.pth"))]
    return list(dict.fromkeys(found))
