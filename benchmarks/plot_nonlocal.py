#!/usr/bin/env python3
"""Draw time and memory of the non-local block against the number of frames.

The JSON files are those of ``tools/benchmark.py nonlocal --json``, of one stage at several numbers of frames.
"""

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

COLOURS = {"gaussian": "#0072b2", "embedded_gaussian": "#d55e00", "dot_product": "#009e73", "concatenation": "#cc79a7"}
PANELS = (("seconds", 1e3, "forward + backward, ms"), ("peak_bytes", 2**-20, "peak memory, MiB"))
STYLES = {"exact": "-", "dense": ":"}


def read_points(paths: list[str]) -> dict[tuple[str, str], dict[int, dict]]:
    """What was measured, by (form, implementation) and number of frames; extrapolated times are left out."""
    points: dict[tuple[str, str], dict[int, dict]] = defaultdict(dict)
    for path in paths:
        for row in json.loads(Path(path).read_text())["rows"]:
            frames = int(re.search(r"-(\d+)x", row["shape"])[1])
            for name, found in row["implementations"].items():
                if found["seconds"] and not found["extrapolated_from"]:
                    points[row["form"], name][frames] = found
    return points


def draw(points: dict[tuple[str, str], dict[int, dict]], out: str) -> None:
    """Two panels, with a line for each form and implementation."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "font.size": 9, "svg.hashsalt": "nlvideo"})
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for axis, (what, factor, label) in zip(axes, PANELS, strict=True):
        for (form, name), found in points.items():
            if name not in STYLES:
                continue
            frames = sorted(n for n in found if found[n][what])
            axis.plot(
                frames,
                [found[n][what] * factor for n in frames],
                STYLES[name],
                color=COLOURS[form],
                marker=".",
                label=f"{form.replace('_', ' ')}, {name}",
            )
        ticks = sorted({n for found in points.values() for n in found})
        axis.set(xscale="log", yscale="log", xlabel="frames of the clip", ylabel=label, title=label.split(",")[0])
        axis.set_xticks(ticks, [str(n) for n in ticks], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(out, metadata={"Date": None})


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measured", nargs="+", metavar="JSON", help="what was measured")
    parser.add_argument("out", metavar="OUT.svg", help="the picture")
    return parser


if __name__ == "__main__":
    arguments = build_parser().parse_args()
    draw(read_points(arguments.measured), arguments.out)
