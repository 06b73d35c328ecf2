"""What the tables of the page say about the runs: results, costs, environment, and how to do it again."""

import math
import shlex
from collections.abc import Sequence
from typing import Any

from nlvideo.config import load_cfg
from nlvideo.evaluation.testing import unit_of, with_interval
from nlvideo.modeling.costs import model_costs
from nlvideo.utils.console import format_seconds
from nlvideo.visualization.report.curves import clips_per_iteration, training_seconds
from nlvideo.visualization.report.run import Run

# Counts that an evaluation reports beside its metrics.
_COUNTS = ("num_videos", "num_failed", "num_classes")
_FIRST = ("/top1 ", "/mAP ", "/top5 ")
# What stands for a key that a config does not have.
_MISSING = object()


def summary(runs: Sequence[Run], models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the table of the runs: "columns" as texts and "rows", {"run", "cells"}.

    Args:
        runs: in the order of the rows.
        models: what `model_facts` says about each.
    """
    rows = [_cells(run, model) for run, model in zip(runs, models, strict=True)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    # Metrics come first, the usual ones before the others.
    columns.sort(key=lambda name: ("/" not in name, next((i for i, m in enumerate(_FIRST) if m in name), len(_FIRST))))
    return {
        "columns": [name.replace("classification/", "").replace("multilabel/", "") for name in columns],
        "rows": [
            {"run": run, "cells": [row.get(name, "–") for name in columns]} for run, row in zip(runs, rows, strict=True)
        ],
    }


def description(run: Run) -> str:
    """Return in a line what a run trains on what, as far as its config says."""
    clip = [run.setting(f"INPUT.{key}") for key in ("NUM_FRAMES", "CROP_SIZE")]
    parts = [
        ("{}-{}", ["MODEL.BACKBONE.NAME", "MODEL.BACKBONE.DEPTH"]),
        ("{}", ["MODEL.BACKBONE.TEMPORAL"]),
        ("non-local: {} over {}", ["MODEL.NONLOCAL.PAIRWISE", "MODEL.NONLOCAL.ATTEND"]),
        ("trained on {}", ["DATASETS.TRAIN"]),
        ("{} clips an iteration", ["SOLVER.CLIPS_PER_BATCH"]),
        (
            "batch norm {} iteration {}" if str(run.setting("SOLVER.BN_MODE")).endswith("_after") else "batch norm {}",
            ["SOLVER.BN_MODE", "SOLVER.BN_MODE_ITER"],
        ),
    ]
    if run.setting("MODEL.BACKBONE.FREEZE_AT"):
        until = " until iteration {}" if run.setting("MODEL.BACKBONE.FREEZE_UNTIL") else ""
        keys = ["MODEL.BACKBONE.FREEZE_AT", "MODEL.BACKBONE.FREEZE_UNTIL"]
        parts.append((f"first {{}} stages frozen{until}", keys))
    if not run.setting("MODEL.NONLOCAL.ENABLED"):
        parts[2] = ("no non-local blocks", ["MODEL.NONLOCAL.ENABLED"])
    elif run.setting("MODEL.NONLOCAL.NAME") not in (None, "NonLocalBlock"):
        parts[2] = ("non-local: {} over {}", ["MODEL.NONLOCAL.NAME", "MODEL.NONLOCAL.ATTEND"])
    texts = []
    for text, keys in parts:
        values = [run.setting(key) for key in keys]
        if None not in values:
            texts.append(text.format(*(", ".join(map(str, v)) if isinstance(v, list) else v for v in values)))
    if None not in clip:
        texts.append("clips of {} frames of {} pixels".format(*clip))
    return "; ".join(texts)


def model_facts(run: Run) -> dict[str, Any]:
    """Return the costs of a run's network for one training clip, see ``model_costs``; "error" says why there are none.

    The network is built on the meta device. Plugins that the config names are not imported: a report only reads.
    """
    if not run.config:
        return {"error": "the configuration is unknown"}
    try:
        cfg = load_cfg(str(run.folder / "config.yaml"), import_plugins=False)
        clip = f"{cfg.INPUT.NUM_FRAMES} x {cfg.INPUT.CROP_SIZE} x {cfg.INPUT.CROP_SIZE}"
        return {**model_costs(cfg), "clip": clip, "error": ""}
    # The folder may hold anything, and the rest of the page does not need the model.
    except Exception as error:
        return {"error": " ".join(str(error).split()) or type(error).__name__}


def config_differences(configs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the keys whose values are not the same in all configs as {"key", "values"}; None where a key is missing.

    Args:
        configs: nested; empty ones, of runs without a config, are not compared and get None.
    """
    flat = [flatten(config) for config in configs]
    rows = []
    for key in sorted({key for config in flat for key in config} - {"OUTPUT_DIR"}):
        present = [config.get(key, _MISSING) for config in flat if config]
        if any(value != present[0] for value in present):
            rows.append({"key": key, "values": [config.get(key) for config in flat]})
    return rows


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config with full keys: ``{"SOLVER.MAX_ITER": 2000, ...}``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value})
    return flat


def environment_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the environment of the runs as {"item", "values"}, one value per run; [] where none was recorded."""
    tables = [run.started().get("environment") or {} for run in runs]
    items = list(dict.fromkeys(item for table in tables for item in table))
    rows = [{"item": item, "values": [table.get(item, "–") for table in tables]} for item in items]
    if rows:
        rows.insert(0, {"item": "started", "values": [run.started().get("time", "–") for run in runs]})
        rows.insert(1, {"item": "ranks", "values": [str(run.started().get("world_size", "–")) for run in runs]})
    return rows


def reproduce_text(run: Run) -> str:
    """Return the shell commands that start a run again; empty where they were not written down."""
    started = run.started()
    if not started:
        return ""
    lines, environment = [], started.get("environment", {})
    commit, repository = environment.get("commit", "none"), environment.get("repository")
    if commit not in ("none", "unknown"):
        if commit.endswith("-dirty"):
            lines.append("# the files differed from this commit")
        # The command may have been started anywhere. Older runs did not write down where the repository is.
        where = f"git -C {shlex.quote(repository)}" if repository else "git -C REPOSITORY_OF_NLVIDEO"
        lines.append(f"{where} checkout {shlex.quote(commit.removesuffix('-dirty'))}")
    if "folder" in started:
        lines.append(f"cd {shlex.quote(started['folder'])}")
    seed = started.get("drawn_seed")
    lines.append(started["command"] + (f" SEED {seed}" if seed is not None else ""))
    return "\n".join(lines)


def _cells(run: Run, model: dict[str, Any]) -> dict[str, str]:
    cells = {}
    metrics = _last_metrics(run)
    for name, value in metrics.items():
        if name.rpartition("/")[2] not in _COUNTS:
            count = metrics.get(f"{name.rpartition('/')[0]}/num_videos")
            cells[name + unit_of(name)] = with_interval(name, value, count)
    if best := run.best_iteration:
        cells["best/iteration"] = f"{best:,}"
    if run.metrics:
        of = f" of {run.max_iter:,}" if run.max_iter and run.max_iter != run.iterations else ""
        cells["iterations"] = f"{run.iterations:,}{of}"
    seconds, clips = training_seconds(run), clips_per_iteration(run)
    if seconds:
        cells["training time"] = format_seconds(seconds)
        if clips:
            cells["clips/s"] = f"{clips * run.iterations / seconds:,.1f}"
    for name, what in (("peak_gpu_memory_mib", "GPU memory (GiB)"), ("peak_cpu_memory_mib", "memory (GiB)")):
        values = [value for _, value in run.column(name) if math.isfinite(value)]
        if values:
            cells[what] = f"{max(values) / 1024:.2f}"
    if not model["error"]:
        cells["params (M)"] = f"{model['params'] / 1e6:.2f}"
        cells["GMACs"] = f"{model['gmacs']:,.{1 if model['gmacs'] >= 100 else 3}f}"
        cells["NL blocks"] = str(len(model["nonlocal_blocks"]))
    return cells


def _last_metrics(run: Run) -> dict[str, float]:
    """The metrics of the last evaluation in training, and of the best checkpoint, or else of the results files."""
    found = {name: value for row in run.metrics for name, value in row.items() if "/" in name}
    found.pop("best/iteration", None)
    if run.best_iteration:
        # The run has ended with a full test. Otherwise validation is all there is.
        found = {name: value for name, value in found.items() if not name.startswith("validation/")}
    if not found:
        for results in run.results:
            where = f"{results.dataset}/" if len(run.results) > 1 else ""
            for task, metrics in results.metrics.items():
                found.update({f"{where}{task}/{name}": value for name, value in metrics.items()})
    return found
