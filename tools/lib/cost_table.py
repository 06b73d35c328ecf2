"""Parameters and multiply-adds of all configs in one table, beside what the paper says of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nlvideo.config import CfgNode, get_cfg
from nlvideo.model_zoo.model_zoo import get_config
from nlvideo.modeling.costs import model_costs
from nlvideo.utils.console import create_table

# Keys of MODEL that change no count: configs that differ in them alone share a network.
_WITHOUT_COST = ("WEIGHTS", "DEVICE", "CHANNELS_LAST")


def cost_rows(
    names: Sequence[str], ledger: Mapping[str, Mapping[str, Any]], opts: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Count the network of each config for one training clip, on the meta device.

    Args:
        names: of configs, as ``list_networks`` gives them.
        ledger: from ``read_ledger``.
        opts: overrides ``[KEY, VALUE, ...]`` of every config.

    Yields:
        For each name a dict with "config", "input" ("32x224x224"), "nonlocal_blocks" (how many), "params", "gmacs",
        "params_ratio" and "gmacs_ratio" (to its baseline, the same network without non-local blocks and temporal
        kernels: C2D), "paper" (figures of Table 2e under the same names, and "params_m") and "note".

    Raises:
        LookupFailed: an unknown config, or an unknown key among the overrides.
        ValueError: a wrong value.
    """
    known: dict[tuple, dict[str, Any]] = {}
    for name in names:
        cfg = get_config(name, opts)
        costs, base = _costs(cfg, known), _costs(_baseline(cfg), known)
        side = cfg.INPUT.CROP_SIZE
        entry = ledger.get(name, {})
        yield {
            "config": name,
            "input": f"{cfg.INPUT.NUM_FRAMES}x{side}x{side}",
            **costs,
            "params_ratio": costs["params"] / base["params"],
            "gmacs_ratio": costs["gmacs"] / base["gmacs"],
            "paper": dict(entry.get("paper", {}).get("costs", {})),
            "note": entry.get("note", ""),
        }


def _costs(cfg: CfgNode, known: dict[tuple, dict[str, Any]]) -> dict[str, Any]:
    model = cfg.MODEL.clone()
    model.defrost()
    for key in _WITHOUT_COST:
        model.pop(key)
    network = (model.dump(), cfg.INPUT.NUM_FRAMES, cfg.INPUT.CROP_SIZE)
    if network not in known:
        known[network] = model_costs(cfg, describe=False)
    return known[network]


def _baseline(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.TEMPORAL = "c2d"
    # All of its keys, so that the baselines of many configs are one network.
    cfg.MODEL.NONLOCAL = get_cfg().MODEL.NONLOCAL
    cfg.freeze()
    return cfg


def format_cost_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of ``cost_rows`` as text, with the notes below."""
    notes = list(dict.fromkeys(row["note"] for row in rows if row["note"]))
    table = create_table([_shown(row, notes) for row in rows])
    legend = "Ratios of parameters and multiply-adds: to the same network without blocks and temporal kernels (C2D)."
    return "\n".join([table, "", legend, *(f"[{number}] {note}" for number, note in enumerate(notes, start=1))])


def _shown(row: Mapping[str, Any], notes: Sequence[str]) -> dict[str, str]:
    paper = row["paper"]
    said = [f"{paper[key]} {unit}" for key, unit in (("params_m", "M"), ("gmacs", "G")) if key in paper]
    said += [f"{paper[key]}x" for key in ("params_ratio", "gmacs_ratio") if key in paper]
    # With their units: of bare numbers the table would keep fewer digits.
    return {
        "config": row["config"],
        "input": row["input"],
        "blocks": str(row["nonlocal_blocks"]),
        "parameters": f"{row['params'] / 1e6:.2f} M",
        "multiply-adds": f"{row['gmacs']:.2f} G",
        "ratios": f"{row['params_ratio']:.2f}x, {row['gmacs_ratio']:.2f}x",
        "paper": ", ".join(said),
        "note": f"[{notes.index(row['note']) + 1}]" if row["note"] else "",
    }
