"""What the tables of the page say about the runs: results, costs, environment, and how to do it again."""

import math
import re
import shlex
from collections.abc import Sequence
from typing import Any

from nlvideo.config import load_cfg
from nlvideo.evaluation.testing import unit_of, with_interval
from nlvideo.modeling.costs import meta_model, model_costs
from nlvideo.utils.console import format_seconds
from nlvideo.visualization.report.curves import clips_per_iteration, training_seconds
from nlvideo.visualization.report.run import Run

# Counts that an evaluation reports beside its metrics.
_COUNTS = ("num_videos", "num_failed", "num_classes")
_FIRST = ("/top1 ", "/mAP ", "/top5 ")
# What stands for a key that a config does not have.
_MISSING = object()


def summary(runs: Sequence[Run], models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the table of the runs: "columns" as texts, and "rows", a list of texts for each run.

    ``models`` is what `model_facts` says about each.
    """
    rows = [_cells(run, model) for run, model in zip(runs, models, strict=True)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    # Metrics come first, the usual ones before the others.
    columns.sort(key=lambda name: ("/" not in name, next((i for i, m in enumerate(_FIRST) if m in name), len(_FIRST))))
    return {
        "columns": [name.replace("classification/", "").replace("multilabel/", "") for name in columns],
        "rows": [[row.get(name, "–") for name in columns] for row in rows],
    }


def description(run: Run) -> str:
    """Return in a line what a run trains on what, as far as its config says."""
    block = "PAIRWISE" if run.setting("MODEL.NONLOCAL.NAME") in (None, "NonLocalBlock") else "NAME"
    nonlocal_blocks = f"non-local: {{MODEL.NONLOCAL.{block}}} over {{MODEL.NONLOCAL.ATTEND}}"
    freezes_later = str(run.setting("SOLVER.BN_MODE")).endswith("_after")
    thaws = run.setting("MODEL.BACKBONE.FREEZE_UNTIL")
    # Parts with a key that the config does not have are left out.
    parts = [
        "{MODEL.BACKBONE.NAME}-{MODEL.BACKBONE.DEPTH}",
        "{MODEL.BACKBONE.TEMPORAL}",
        "no non-local blocks" if run.setting("MODEL.NONLOCAL.ENABLED") is False else nonlocal_blocks,
        "trained on {DATASETS.TRAIN}",
        "{SOLVER.CLIPS_PER_BATCH} clips an iteration",
        "batch norm {SOLVER.BN_MODE}" + (" iteration {SOLVER.BN_MODE_ITER}" if freezes_later else ""),
        "first {MODEL.BACKBONE.FREEZE_AT} stages frozen"
        + (" until iteration {MODEL.BACKBONE.FREEZE_UNTIL}" if thaws else ""),
        "clips of {INPUT.NUM_FRAMES} frames of {INPUT.CROP_SIZE} pixels",
    ]
    texts = []
    for part in parts:
        values = {key: run.setting(key) for key in re.findall(r"\{(.+?)\}", part)}
        if None not in values.values() and values.get("MODEL.BACKBONE.FREEZE_AT") != 0:
            for key, value in values.items():
                part = part.replace(f"{{{key}}}", ", ".join(map(str, value)) if isinstance(value, list) else str(value))
            texts.append(part)
    return "; ".join(texts)


def model_facts(run: Run) -> dict[str, Any]:
    """Return the costs of a run's network for one training clip, see ``model_costs``; "error" says why there are none.

    The network is built on the meta device. Plugins that the config names are not imported: a report only reads.
    """
    if not run.config:
        return {"error": "the configuration is unknown"}
    try:
        cfg = load_cfg(str(run.folder / "config.yaml"), import_plugins=False)
        clip = " x ".join(map(str, meta_model(cfg)[1].shape[2:]))
        return {**model_costs(cfg), "clip": clip, "error": ""}
    # The folder may hold anything, and the rest of the page does not need the model.
    except Exception as error:
        return {"error": " ".join(str(error).split()) or type(error).__name__}


def config_differences(configs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the keys whose values are not the same in all configs as {"key", "values"}; None where a key is missing.

    Configs are nested. Empty ones, of runs without a config, are not compared and get None.
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
    tables = []
    for started in (run.started() for run in runs):
        recorded = started.get("environment") or {}
        start = {"started": started.get("time", "–"), "ranks": str(started.get("world_size", "–"))}
        tables.append({**start, **recorded} if recorded else {})
    items = dict.fromkeys(item for table in tables for item in table)
    return [{"item": item, "values": [table.get(item, "–") for table in tables]} for item in items]


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
