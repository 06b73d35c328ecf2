"""The charts of training: errors, losses, learning rate, speed, waiting for data, memory."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from nlvideo.visualization.report.chart import Chart, Line
from nlvideo.visualization.report.run import Run
from nlvideo.visualization.report.series import Series, make_series, smoothed, smoothing_window

ITERATIONS = "iterations"
# Metrics of evaluations that are shares of 100 and go up where the model gets better: the first of these is shown.
_VALIDATION = ("top1", "mAP")
_NAMES = {"top1": "top-1", "top5": "top-5", "mAP": "mAP"}


def error_chart(runs: Sequence[Run]) -> Chart | None:
    """Training and validation error over iterations, as in Figure 4 of the paper; None where no run has either."""
    lines = []
    for index, run in enumerate(runs):
        train = make_series([(iteration, 100 - value) for iteration, value in run.column("top1")])
        lines += _noisy(f"{run.name}, training error", train, index)
        for name in validation_metrics(run):
            prefix, _, metric = name.rpartition("/")
            dataset = prefix.rpartition("/")[0]
            what = f"validation error{f' on {dataset}' if dataset else ''}"
            what = what if metric == "top1" else f"{what} (100 - {_NAMES[metric]})"
            series = make_series([(iteration, 100 - value) for iteration, value in run.column(name)])
            lines.append(Line(f"{run.name}, {what}", series, index, "bold"))
    metrics = {name.rpartition("/")[2] for run in runs for name in validation_metrics(run)}
    y_label = "100 − mAP (%)" if metrics == {"mAP"} else "top-1 error (%)"
    note = (
        "Bold with dots: validation. Thin: training clips, averaged over neighbouring log lines; the faint line is as"
        " logged, the median of the latest iterations."
    )
    return _chart("Error on training clips and in validation", y_label, lines, y_limits=(0.0, 100.0), note=note)


def validation_metrics(run: Run) -> list[str]:
    """Return the names of the scalars, one for each tested dataset, that the validation curve shows."""
    names = {name for row in run.metrics for name in row if "/" in name}
    prefixes = sorted({name.rpartition("/")[0] for name in names})
    found = [next((f"{p}/{m}" for m in _VALIDATION if f"{p}/{m}" in names), None) for p in prefixes]
    return [name for name in found if name]


def training_charts(runs: Sequence[Run]) -> list[Chart]:
    """Everything else that is logged while training, one chart each; what no run has logged is left out."""
    losses = sorted({name for run in runs for row in run.metrics for name in row if "loss" in name and "/" not in name})
    # The sum says nothing new where there is only one.
    losses = [name for name in losses if name != "total_loss" or len(losses) > 2] or losses
    charts = [
        _chart(f"Loss: {name}", "loss (nats)", _all(runs, name, noisy=True), from_zero=True, note="On training clips.")
        for name in losses
    ]
    charts += [
        _chart("Learning rate", "learning rate (no unit)", _all(runs, "lr"), from_zero=True),
        # One is the inverse of the other: the second is for runs whose config, with the batch size, is lost.
        _chart("Throughput", "clips per second", _throughput(runs), from_zero=True, note="Of all ranks together.")
        or _chart("Time of an iteration", "seconds", _all(runs, "time", noisy=True), from_zero=True),
        _chart(
            "Waiting for data", "share of the iteration (%)", _waiting(runs), from_zero=True, y_limits=(0.0, 100.0),
            note="Where this is high, more DATALOADER.NUM_WORKERS may help.",
        ),
        _chart(
            "Peak of GPU memory", "GiB", _all(runs, "peak_gpu_memory_mib", scale=_to_gib), from_zero=True,
            note="What torch had allocated at most so far, on rank 0.",
        ),
        _chart(
            "Peak of memory", "GiB", _all(runs, "peak_cpu_memory_mib", scale=_to_gib), from_zero=True,
            note="What the training process held in RAM at most so far, on rank 0, without the workers that decode.",
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
    """Return how long the logged iterations took, as the log says it.

    For runs from before that was written: about, by the medians times the iterations that each stands for.
    """
    measured = run.column("training_time")
    if measured:
        return measured[-1][1]
    pairs = [(iteration, value) for iteration, value in run.column("time") if math.isfinite(value)]
    if not pairs:
        return None
    before = [0, *(iteration for iteration, _ in pairs[:-1])]
    return sum((iteration - last) * value for (iteration, value), last in zip(pairs, before))


def _throughput(runs: Sequence[Run]) -> list[Line]:
    lines = []
    for index, run in enumerate(runs):
        clips = clips_per_iteration(run)
        if clips is not None:
            pairs = [(iteration, clips / value) for iteration, value in run.column("time") if value > 0]
            lines += _noisy(run.name, make_series(pairs), index)
    return lines


def _waiting(runs: Sequence[Run]) -> list[Line]:
    lines = []
    for index, run in enumerate(runs):
        times = dict(run.column("time"))
        pairs = [
            (iteration, min(100.0, 100 * value / times[iteration]))
            for iteration, value in run.column("data_time")
            if times.get(iteration, 0) > 0
        ]
        lines += _noisy(run.name, make_series(pairs), index)
    return lines


def _all(
    runs: Sequence[Run], name: str, noisy: bool = False, scale: Callable[[Series], Series] | None = None
) -> list[Line]:
    lines = []
    for index, run in enumerate(runs):
        series = make_series(run.column(name))
        series = scale(series) if scale else series
        lines += _noisy(run.name, series, index) if noisy else [Line(run.name, series, index)]
    return lines


def _to_gib(series: Series) -> Series:
    return Series(series.x, series.y / 1024)


def _noisy(label: str, series: Series, index: int) -> list[Line]:
    """A curve as it was logged, faint, and its moving average."""
    window = smoothing_window(len(series))
    if window == 1:
        return [Line(label, series, index)]
    return [Line(label, series, index, "raw"), Line(label, smoothed(series, window), index)]


def _chart(title: str, y_label: str, lines: list[Line], **options: object) -> Chart | None:
    lines = [line for line in lines if len(line.series)]
    if not any(np.isfinite(line.series.y).any() for line in lines):
        return None
    # Validation over everything else, and faint lines under it.
    lines.sort(key=lambda line: ("raw", "thin", "bold").index(line.style))
    return Chart(title, ITERATIONS, y_label, lines, **options)
