"""The files of an earlier run in the folder of a new one. They stay until the new run saves something."""

import logging
import os
from itertools import count
from pathlib import Path

from nlvideo.utils.files.file_io import write_text
from nlvideo.utils.system.env import read_invocations
from nlvideo.utils.system.processes import job

logger = logging.getLogger(__name__)

TAG = "last_checkpoint"
_METRICS, _CONFIG = "metrics.json", "config.yaml"
# The config of a new run that has saved nothing yet, beside the config of an earlier run.
_NEXT_CONFIG = "config.next.yaml"


def config_path(folder: str, resume: bool) -> str:
    """Return where a run that starts in ``folder`` writes its config; a new run spares the config of an earlier one."""
    waiting = os.path.join(folder, _NEXT_CONFIG)
    if not (resume and checkpoints_in(Path(folder))) and EarlierRun(folder).is_there:
        return waiting
    # Left by a start that failed.
    Path(waiting).unlink(missing_ok=True)
    return os.path.join(folder, _CONFIG)


def is_own(folder: str) -> bool:
    """Return whether an earlier rank of this launcher began the run in ``folder``: it is this run, started again.

    False for a run that has saved nothing yet beside an earlier one.
    """
    trainings = [row for row in read_invocations(folder) if not row.get("eval_only")]
    mine, its = job(), trainings[-1].get("job") if trainings else None
    if not mine or not its or Path(folder, _NEXT_CONFIG).exists():
        return False
    # In an elastic job, another agent may have started it. Where all jobs have one name, a run that is done is of an
    # earlier job.
    same_name = mine["id"] == its["id"] != "none" and not Path(folder, "model_final.pth").exists()
    return mine == its or same_name


class EarlierRun:
    """The files of an earlier run that a new run in the same folder would replace."""

    def __init__(self, folder: str):
        """List the files. Call it when the new run starts; ``folder`` is ``OUTPUT_DIR`` and need not exist."""
        self._folder = Path(folder)
        metrics = self._folder / _METRICS
        # The new run appends to the same file.
        self._metrics_size = metrics.stat().st_size if metrics.is_file() else 0
        self._files = checkpoints_in(self._folder)
        if self._files or self._metrics_size:
            others = ("inference", "best/inference", "validation/inference", "report.html", "failed_videos.json")
            self._files += [self._folder / name for name in (_METRICS, _CONFIG, *others)]

    @property
    def is_there(self) -> bool:
        """Whether there are checkpoints or metrics that are not set aside yet."""
        return bool(self._files)

    def set_aside(self) -> None:
        """Move the files into a new folder ``earlier_1``, ``earlier_2`` ...; later calls do nothing.

        ``last_checkpoint`` is moved first. So a run that is killed here leaves nothing that is resumed by accident.
        """
        files, self._files = self._files, []
        if not files:
            return
        aside = next(path for n in count(1) if not (path := self._folder / f"earlier_{n}").exists())
        aside.mkdir()
        metrics, waiting = self._folder / _METRICS, self._folder / _NEXT_CONFIG
        new_lines = metrics.read_bytes()[self._metrics_size :] if metrics.is_file() else b""
        for path in files:
            # Where no config waits, config.yaml is that of the new run.
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
