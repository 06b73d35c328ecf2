"""The ledger: for each config, what the paper and the released weights report, and what was measured with nlvideo."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nlvideo.errors import LookupFailed
from nlvideo.model_zoo.model_zoo import CONFIG_DIR, list_networks
from nlvideo.utils.files.safe_yaml import parse_yaml
from nlvideo.utils.messages import did_you_mean

LEDGER_FILE = CONFIG_DIR.parent / "model_zoo" / "ledger.yaml"

# Section of an entry -> the keys it must have, and those it may have.
_KEYS = {
    "paper": (("source", "figures"), ("costs",)),
    "release": (("model", "figures"), ()),
    "measured": (("figures", "num_videos", "command", "hardware", "date"), ()),
}
_FIGURES = (("map",), ("top1", "top5"))
_COSTS = ("params_m", "gmacs", "params_ratio", "gmacs_ratio")

_HEADINGS = {
    "kinetics": ("Kinetics-400: the paper", "Top-1 / top-5 on the validation videos, percent."),
    "kinetics/authors": (
        "Kinetics-400: the authors' release",
        "Top-1 / top-5, percent.\n\n"
        "These configs have the settings of the released code. Its networks have other pooling layers than\n"
        "Table 1 of the paper. Where the release pairs a model with a row of the paper, the row stands\n"
        "beside it.",
    ),
    "kinetics/zoo": (
        "Kinetics-400: other zoos",
        "Top-1 / top-5, percent.\n\n"
        "These are networks that other frameworks publish weights of.\n"
        "[docs/weights.md](docs/weights.md) says how to load them.",
    ),
    "charades": ("Charades: the paper", "Mean average precision on the validation videos, percent."),
    "quickstart": (
        "Quickstart",
        "These are small networks for the generated dataset `beacon`.\n"
        "[benchmarks/beacon.md](benchmarks/beacon.md) has their measurements.",
    ),
    "finetune": (
        "Your own videos",
        "These learn the classes of your own videos, from weights of Kinetics-400 or ImageNet. The `tiny`\n"
        "ones are small networks that start from random weights. [docs/finetune.md](docs/finetune.md) says\n"
        "which to take, [benchmarks/finetune.md](benchmarks/finetune.md) what was measured.",
    ),
}
_INTRODUCTION = """# Model zoo

For each config, the tables show what the paper reports, what those report who released weights of
the network (the paper's authors, or another zoo), and what was measured with nlvideo. An empty cell
in the last column means "not measured". No weights are published here.

Each name links to its config. `python tools/analyze_model.py --all` prints the parameters and
multiply-adds of all configs.

This file is made from [model_zoo/ledger.yaml](model_zoo/ledger.yaml) by
`python tools/make_model_zoo.py`.
"""


def read_ledger(path: str | Path = LEDGER_FILE) -> dict[str, dict[str, Any]]:
    """Read the ledger and check every entry.

    Returns:
        Name of a config -> its sections ``paper``, ``release``, ``measured`` and its ``note``, where it has them.

    Raises:
        FileNotFoundError: there is no such file.
        LookupFailed: an entry of no config.
        ValueError: a section that lacks something or has something unknown; one line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no ledger {path}")
    try:
        ledger = parse_yaml(path.read_text(encoding="utf8")) or {}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    networks = list_networks()
    for name, entry in ledger.items():
        if name not in networks:
            raise LookupFailed(f"{path}: {name!r} is no config. {did_you_mean(name, networks)}")
        for section, content in entry.items():
            if section != "note":
                _check_section(f"{path}: {name}: {section}", section, content)
    return ledger


def _check_section(where: str, section: str, content: Mapping[str, Any]) -> None:
    if section not in _KEYS:
        raise ValueError(f"{where}: unknown section, allowed: {', '.join(_KEYS)}, note")
    required, optional = _KEYS[section]
    missing = [key for key in required if content.get(key) in (None, "")]
    unknown = [key for key in content if key not in (*required, *optional)]
    if missing or unknown:
        allowed = ", ".join(required + optional)
        raise ValueError(f"{where}: lacks {missing}, does not know {unknown}; allowed: {allowed}")
    if not any(set(content["figures"]) == set(names) for names in _FIGURES):
        raise ValueError(f"{where}: figures: got {sorted(content['figures'])}, allowed: top1 and top5, or map")
    if not set(content.get("costs", {})) <= set(_COSTS):
        raise ValueError(f"{where}: costs: got {sorted(content['costs'])}, allowed: {', '.join(_COSTS)}")


def format_model_zoo(ledger: Mapping[str, Mapping[str, Any]], networks: Sequence[str]) -> str:
    """Return MODEL_ZOO.md: a table for each folder of configs, and a row for each of ``networks``."""
    folders: dict[str, list[str]] = {}
    for name in sorted(networks, key=_order):
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    known = [folder for folder in _HEADINGS if folder in folders]
    parts = [_INTRODUCTION]
    for folder in [*known, *sorted(folders.keys() - set(known))]:
        title, text = _HEADINGS.get(folder, (folder, ""))
        parts.append(f"## {title}\n\n{text}\n\n{_table(folders[folder], ledger)}")
    return "\n".join(parts)


def _order(name: str) -> list[Any]:
    # Numbers by their value: 8x8 before 32x2, nl5 before nl10.
    words = name.replace("/", "_").replace(".", "_")
    spaced = "".join(c if c.isdigit() else f" {c} " for c in words)
    return [(0, int(word), "") if word.isdigit() else (1, 0, word) for word in spaced.split()]


def _table(names: Sequence[str], ledger: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [["config", "paper", "released weights", "measured with nlvideo"], ["---"] * 4]
    for name in names:
        entry = ledger.get(name, {})
        cells = [_cell(section, entry.get(section)) for section in _KEYS]
        rows.append([f"[{name.rpartition('/')[2]}](configs/{name}.yaml)", *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(section: str, content: Mapping[str, Any] | None) -> str:
    if content is None:
        return ""
    figures = content["figures"]
    text = f"{figures['map']:.1f} mAP" if "map" in figures else f"{figures['top1']:.1f} / {figures['top5']:.1f}"
    if section == "paper":
        return f"{text} ({content['source']})"
    if section == "release":
        return f"{text} (`{content['model']}`)"
    videos = f"{content['num_videos']:,} videos"
    return f"{text} ({videos}; `{content['command']}`; {content['hardware']}; {content['date']})"
