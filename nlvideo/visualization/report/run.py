"""What a run has left in its folder, as far as it can be read."""

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlvideo.evaluation.results_file import Results, read_results
from nlvideo.utils.files.safe_yaml import parse_yaml
from nlvideo.utils.system.env import read_invocations

Row = dict[str, float]


@dataclass
class Run:
    """A run's folder."""

    folder: Path
    name: str  #: what tells it from the other runs of the page
    config: dict[str, Any] = field(default_factory=dict)  #: ``config.yaml`` as nested dicts; empty where there is none
    metrics: list[Row] = field(default_factory=list)  #: ``metrics.json`` by iteration: "iteration" and the scalars
    results: list[Results] = field(default_factory=list)  #: the results files under ``inference/``
    invocations: list[dict[str, Any]] = field(default_factory=list)  #: what was started in it, see `read_invocations`
    notes: list[str] = field(default_factory=list)  #: what is missing or damaged, one sentence each

    @property
    def iterations(self) -> int:
        """Iterations that were logged."""
        return int(self.metrics[-1]["iteration"]) + 1 if self.metrics else 0

    @property
    def max_iter(self) -> int | None:
        """Iterations that were asked for; None where the config does not say."""
        value = self.setting("SOLVER.MAX_ITER")
        return value if isinstance(value, int) else None

    @property
    def best_iteration(self) -> int | None:
        """Iterations of the best checkpoint; None unless the run has ended."""
        value = self.metrics[-1].get("best/iteration") if self.metrics else None
        return None if value is None or not math.isfinite(value) else int(value)

    def config_text(self) -> str:
        """Return the text of ``config.yaml``; empty where there is none that can be read."""
        return (self.folder / "config.yaml").read_text(encoding="utf8") if self.config else ""

    def setting(self, key: str) -> Any:
        """Return the value of a full key such as "SOLVER.MAX_ITER", or None where the config does not have it."""
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node

    def column(self, name: str) -> list[tuple[int, float]]:
        """Return the pairs (iterations done, value) of a scalar."""
        return [(int(row["iteration"]) + 1, row[name]) for row in self.metrics if name in row]

    def started(self) -> dict[str, Any]:
        """Return the invocation that the page is about: the last one that trained, else the last; {} without any."""
        trained = [row for row in self.invocations if not row.get("eval_only")]
        return (trained or self.invocations or [{}])[-1]


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Read the folders of runs, and name the runs by what their paths do not share.

    Raises:
        ValueError: one is not the folder of a run, or there is none.
    """
    if not folders:
        raise ValueError("runs: got none, allowed: one output folder or more")
    paths = [Path(folder) for folder in folders]
    return [_read_run(path, name) for path, name in zip(paths, run_names(paths), strict=True)]


def run_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each path: its last part, or more of its last parts where paths share it."""
    parts = [path.expanduser().absolute().parts for path in paths]
    names = []
    for own in parts:
        count = 1
        while count < len(own) and sum(other[-count:] == own[-count:] for other in parts) > 1:
            count += 1
        names.append("/".join(own[-count:]))
    # The same folder twice.
    return [f"{name} ({names[:i].count(name) + 1})" if name in names[:i] else name for i, name in enumerate(names)]


def _read_run(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    run = Run(folder, name)
    found = sorted((folder / "inference").glob("[!.]*.json"))
    if not (folder / "config.yaml").is_file() and not (folder / "metrics.json").is_file() and not found:
        raise ValueError(f"{folder}: not the folder of a run: no config.yaml, no metrics.json and no inference/*.json")
    _read_config(run)
    _read_metrics(run)
    for path in found:
        try:
            run.results.append(read_results(str(path)))
        except (ValueError, OSError) as error:
            # The message starts with the path, which is long.
            run.notes.append(f"inference/{path.name} is left out: {str(error).removeprefix(f'{path}: ')}.")
    if not found:
        run.notes.append("No test results (inference/*.json): no accuracy per class, no confusions, no mistakes.")
    run.invocations = read_invocations(str(folder))
    return run


def _read_config(run: Run) -> None:
    path = run.folder / "config.yaml"
    if not path.is_file():
        run.notes.append("No config.yaml: the configuration is unknown.")
        return
    content = None
    with contextlib.suppress(ValueError):
        content = parse_yaml(path.read_text(encoding="utf8"))
    if isinstance(content, dict):
        run.config = content
    else:
        run.notes.append("config.yaml cannot be read: the configuration is unknown.")


def _read_metrics(run: Run) -> None:
    path = run.folder / "metrics.json"
    if not path.is_file():
        run.notes.append("No metrics.json: no curves.")
        return
    rows = [_metrics_row(line) for line in path.read_text(encoding="utf8", errors="replace").splitlines()]
    # If an iteration was trained twice, the later line counts.
    by_iteration = {int(row["iteration"]): row for row in rows if row}
    run.metrics = [by_iteration[iteration] for iteration in sorted(by_iteration)]
    if broken := [number for number, row in enumerate(rows, start=1) if not row]:
        run.notes.append(
            f"metrics.json: {len(broken)} of {len(rows)} lines cannot be read, as after a kill, and are left out. The"
            f" first is line {broken[0]}."
        )
    if not run.metrics:
        run.notes.append("metrics.json has no line yet: no curves.")
    elif run.max_iter and run.iterations < run.max_iter:
        how = "Stopped early (SOLVER.EARLY_STOPPING)" if run.best_iteration else "Stopped, or still running,"
        run.notes.append(f"{how} after {run.iterations:,} of {run.max_iter:,} iterations.")


def _metrics_row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    row = {name: float(value) for name, value in row.items() if type(value) in (int, float)}
    return row if math.isfinite(row.get("iteration", math.nan)) else None
