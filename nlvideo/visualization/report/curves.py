"""The charts of training: errors, losses, learning rate, speed, waiting for data, memory."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from nlvideo.visualization.report.chart import Chart, Line, Series, make_series, smoothed, smoothing_window
from nlvideo.visualization.report.run import Run

ITERATIONS = "iterations"
Pairs = list[tuple[int, float]]
# Metrics of evaluations in percent that rise as the model gets better: the first of these is shown.
_VALIDATION = ("top1", "mAP")


def error_chart(runs: Sequence[Run]) -> Chart | None:
    """Training and validation error over iterations, as in Figure 4 of the paper; None where no run has either."""
    lines = []
    for index, run in enumerate(runs):
        train = make_series([(iteration, 100 - value) for iteration, value in run.column("top1")])
        lines += _noisy(f"{run.name}, training error", train, index)
        for name in validation_metrics(run):
            of = " (100 - mAP)" if name.endswith("/mAP") else ""
            series = make_series([(iteration, 100 - value) for iteration, value in run.column(name)])
            lines.append(Line(f"{run.name}, {_tested('error', run, name)}{of}", series, index, "bold"))
    metrics = {name.rpartition("/")[2] for run in runs for name in validation_metrics(run)}
    y_label = "100 − mAP (%)" if metrics == {"mAP"} else "top-1 error (%)"
    note = (
        "Bold with dots: validation. Thin: training clips, averaged over neighbouring log lines. Faint: as logged, the"
        " median of the latest iterations."
    )
    return _chart("Error on training clips and in validation", y_label, lines, note, (0.0, 100.0), from_zero=False)


def validation_metrics(run: Run) -> list[str]:
    """Return the names of the scalars, one for each tested dataset and protocol, that the validation curves show."""
    names = {name for row in run.metrics for name in row if "/" in name and not name.startswith("best/")}
    prefixes = sorted({name.rpartition("/")[0] for name in names})
    found = [next((f"{p}/{m}" for m in _VALIDATION if f"{p}/{m}" in names), None) for p in prefixes]
    return [name for name in found if name]


def _tested(what: str, run: Run, name: str) -> str:
    """What a curve of a metric shows: by which protocol, and on which of several datasets."""
    validates = run.setting("TEST.VALIDATION.ENABLED")
    own = name.removeprefix("validation/") if validates else name
    dataset = own.rpartition("/")[0].rpartition("/")[0]
    kind = f"{what} of the full test" if validates and own == name else f"validation {what}"
    return f"{kind} on {dataset}" if dataset else kind


def _loss_chart(runs: Sequence[Run], name: str, tested: bool) -> Chart | None:
    """One of the losses of training; with ``tested``, the mean losses of the tests are in the same chart."""
    lines = _curves(runs, _logged(name), noisy=True)
    training = len(lines)
    for index, run in enumerate(runs if tested else ()):
        names = {key for row in run.metrics for key in row if key.endswith("/loss") and not key.startswith("best/")}
        lines += [
            Line(f"{run.name}, {_tested('loss', run, key)}", make_series(run.column(key)), index, "bold")
            for key in sorted(names)
        ]
    title, note = f"Loss: {name}", "On training clips."
    if len(lines) > training:
        title += ", in training and validation"
        note = (
            "Bold with dots: validation, the loss of the averaged scores. Thin: training clips, with dropout,"
            " augmentation and label smoothing where the config has them."
        )
    return _chart(title, "loss (nats)", lines, note)


def training_charts(runs: Sequence[Run]) -> list[Chart]:
    """Return a chart for everything else that is logged while training; what no run has logged is left out."""
    losses = sorted({name for run in runs for row in run.metrics for name in row if "loss" in name and "/" not in name})
    # With one loss only, the sum says nothing new.
    losses = [name for name in losses if name != "total_loss" or len(losses) > 2] or losses
    memory = {kind: _curves(runs, _logged(f"peak_{kind}_memory_mib", 1 / 1024)) for kind in ("gpu", "cpu")}
    classifier = "loss_cls" if "loss_cls" in losses else next(iter(losses), "")
    charts = [_loss_chart(runs, name, name == classifier) for name in losses]
    charts += [
        _chart("Learning rate", "learning rate (no unit)", _curves(runs, _logged("lr"))),
        # One is the inverse of the other. The second is for runs whose batch size is unknown.
        _chart("Throughput", "clips per second", _curves(runs, _throughput, noisy=True), "Of all ranks together.")
        or _chart("Time of an iteration", "seconds", _curves(runs, _logged("time"), noisy=True)),
        _chart(
            "Waiting for data", "share of the iteration (%)", _curves(runs, _waiting, noisy=True),
            "Where this is high, more DATALOADER.NUM_WORKERS may help.", y_limits=(0.0, 100.0),
        ),
        _chart("Peak of GPU memory", "GiB", memory["gpu"], "The most that torch had allocated so far, on rank 0."),
        _chart(
            "Peak of memory", "GiB", memory["cpu"],
            "The most RAM that the training process had so far, on rank 0, without the workers that decode.",
        ),
    ]  # fmt: skip
    return [chart for chart in charts if chart is not None]


def clips_per_iteration(run: Run) -> int | None:
    """Return how many clips an iteration of a run takes, over all its ranks; None where the config does not say."""
    clips, reference = run.setting("SOLVER.CLIPS_PER_BATCH"), run.setting("SOLVER.REFERENCE_WORLD_SIZE")
    if not isinstance(clips, int):
        return None
    world_size = run.started().get("world_size")
    return clips * world_size // reference if reference and world_size else clips


def training_seconds(run: Run) -> float | None:
    """Return how long the logged iterations took; None where that is unknown.

    Some loops do not log it. Then it is about the sum of the medians, each times the iterations that it stands for.
    """
    if measured := run.column("training_time"):
        return measured[-1][1]
    pairs = [(iteration, value) for iteration, value in run.column("time") if math.isfinite(value)]
    if not pairs:
        return None
    return sum((now - before) * value for (before, _), (now, value) in pairwise([(0, 0.0), *pairs]))


def _logged(name: str, factor: float = 1.0) -> Callable[[Run], Pairs]:
    return lambda run: [(iteration, value * factor) for iteration, value in run.column(name)]


def _throughput(run: Run) -> Pairs:
    clips = clips_per_iteration(run)
    return [(iteration, clips / value) for iteration, value in run.column("time") if value > 0] if clips else []


def _waiting(run: Run) -> Pairs:
    times = dict(run.column("time"))
    return [
        (iteration, min(100.0, 100 * value / times[iteration]))
        for iteration, value in run.column("data_time")
        if times.get(iteration, 0) > 0
    ]


def _curves(runs: Sequence[Run], values: Callable[[Run], Pairs], noisy: bool = False) -> list[Line]:
    """A curve for each run; a noisy one with its moving average."""
    named = [(run.name, make_series(values(run)), index) for index, run in enumerate(runs)]
    return [line for curve in named for line in (_noisy(*curve) if noisy else [Line(*curve)])]


def _noisy(label: str, series: Series, index: int) -> list[Line]:
    """A curve as it was logged, faint, and its moving average."""
    window = smoothing_window(len(series))
    if window == 1:
        return [Line(label, series, index)]
    return [Line(label, series, index, "raw"), Line(label, smoothed(series, window), index)]


def _chart(
    title: str, y_label: str, lines: list[Line], note: str = "", y_limits: tuple[float, float] | None = None,
    from_zero: bool = True,
) -> Chart | None:  # fmt: skip
    lines = [line for line in lines if len(line.series)]
    if not any(np.isfinite(line.series.y).any() for line in lines):
        return None
    # Faint lines are drawn first, and validation over everything else.
    lines.sort(key=lambda line: ("raw", "thin", "bold").index(line.style))
    return Chart(title, ITERATIONS, y_label, lines, y_limits, from_zero, note)
