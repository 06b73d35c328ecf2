"""The page: everything that is known about the runs, put into the templates."""

import base64
import hashlib
import logging
import math
import os
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import nlvideo
from nlvideo.evaluation.testing import interval_text, unit_of
from nlvideo.utils.files.file_io import write_text
from nlvideo.visualization.report import facts
from nlvideo.visualization.report.chart import draw
from nlvideo.visualization.report.clips import Budget
from nlvideo.visualization.report.curves import error_chart, training_charts
from nlvideo.visualization.report.results import dataset_sections
from nlvideo.visualization.report.run import Run, read_runs

logger = logging.getLogger(__name__)

FILE_NAME = "report.html"


def write_report(folders: Sequence[str], output: str, budget: Budget | None = None, heat: bool = False) -> None:
    """Write the page of one run, or of several beside each other, to a file.

    Args:
        folders: output folders of runs.
        output: the HTML file, replaced as a whole; its folder must exist.
        budget: what the clips of mistakes may take.
        heat: also show what spoke for the class of each mistake (Grad-CAM), with the run's last checkpoint.

    Raises:
        ValueError: one is not the folder of a run; one line.
        OSError: the file cannot be written.
    """
    write_text(output, render_report(read_runs(folders), budget, heat))


def try_write_report(folder: str, seconds: float = 3.0) -> bool:
    """Write ``<folder>/report.html`` for a run that has just ended, and return whether it was written.

    Any error is one line in the log. The clips of mistakes may take so many seconds; further mistakes have none.
    """
    path = os.path.join(folder, FILE_NAME)
    try:
        write_report([folder], path, Budget(seconds=seconds))
    # The training is done. An error of the page, whatever it is, must not make it a failure.
    except Exception as error:
        logger.warning("No %s: %s: %s", FILE_NAME, type(error).__name__, " ".join(str(error).split()))
        return False
    logger.info("Wrote what this run did to %s", path)
    return True


def render_report(runs: Sequence[Run], budget: Budget | None = None, heat: bool = False) -> str:
    """Return the page of one run or more as HTML; a browser fetches nothing else. See `write_report`."""
    budget = Budget() if budget is None else budget
    models = [facts.model_facts(run) for run in runs]
    main = error_chart(runs)
    context = {
        "version": nlvideo.__version__,
        "title": runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared",
        "lead": facts.description(runs[0]) if len(runs) == 1 else "",
        "runs": runs,
        "summary": facts.summary(runs, models),
        "differences": facts.config_differences([run.config for run in runs]),
        "main": main and {"chart": main, "wide": draw(main, 900, 380), "narrow": draw(main, 420, 330)},
        "charts": [{"chart": chart, "drawing": draw(chart)} for chart in training_charts(runs)],
        "never_finite": _never_finite(runs),
        "tests": dataset_sections(runs, budget, heat),
        "models": models,
        "environments": facts.environment_rows(runs),
    }
    loader = PackageLoader("nlvideo.visualization.report")
    # Whatever comes from a run, such as class names and paths, is text and never markup.
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    css, script = (loader.get_source(environment, name)[0] for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Nothing of a run is in these two. The digest lets a browser run this script and no other.
    assets = {"css": Markup(css), "script": Markup(script), "script_digest": digest}
    environment.filters |= {"number": format_number, "value": format_value}
    environment.globals |= {"num_styles": 6, "interval_text": interval_text, "unit_of": unit_of}
    environment.globals["reproduce_text"] = facts.reproduce_text
    return environment.get_template("report.html").render(**context, **assets)


def _never_finite(runs: Sequence[Run]) -> list[str]:
    """Sentences about scalars that no chart shows because they have no finite value."""
    found = []
    for run in runs:
        names = {name for row in run.metrics for name in row}
        finite = {name for row in run.metrics for name, value in row.items() if math.isfinite(value)}
        if names - finite:
            found.append(f"{run.name}: not one finite value of {', '.join(sorted(names - finite))}.")
    return found


def format_number(value: float | None, digits: int = 2) -> str:
    """Return a number as a table shows it: thousands separated, "–" for None."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def format_value(value: Any) -> str:
    """Return a value of a config as YAML shows it, "–" for a key that is missing."""
    if value is None:
        return "–"
    return "''" if value == "" else str(value)
