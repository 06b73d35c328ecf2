#!/usr/bin/env python3
"""Time and memory of every row of ``trials.py variants``: ``python benchmarks/variant_costs.py``.

- "beacon": a training step of the whole network, on clips of beacon's size.
- "res3-32x224" and "res3-128x224": forward and backward of the block alone, on the map that res3 of a ResNet-50 has of
  one clip of so many frames. Blocks have their usual arguments there.

The rows take turns in one run, and the times are medians. "peak" is what a step adds to the memory in use, "saved" what
the graph keeps for the backward pass, without parameters. ``trials.py variants --report`` reads the file of results.
"""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nlvideo.config import CfgNode, load_cfg
from nlvideo.modeling.costs import model_costs
from nlvideo.modeling.nonlocal_block import build_nonlocal_block
from nlvideo.tools.lib.benchmarking import train
from nlvideo.tools.lib.benchmarking.nonlocal_block import MapShape, saved_for_backward
from nlvideo.tools.lib.benchmarking.timing import alternate, environment, peak_memory
from nlvideo.utils.console import create_table
from nlvideo.utils.files.file_io import write_json
from nlvideo.utils.system.processes import keep_freed_memory

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ("res3-32x224", "res3-128x224")
Row = tuple[str, str, list[str]]


def config_of(row: Row) -> CfgNode:
    """The config that a row of the trial trains."""
    from trials import TRIALS  # a script beside this one: only there when this one is run

    return load_cfg(str(ROOT / f"configs/{row[1]}.yaml"), [*TRIALS["variants"]["overrides"](), *row[2]])


def usual_block(row: Row, channels: int) -> nn.Module | None:
    """The block of a row with its usual arguments, in training mode; None for a row without one."""
    cfg = config_of(row).with_overrides(["MODEL.NONLOCAL.ARGS", "[]"])
    return build_nonlocal_block(cfg, channels, "res3").train() if cfg.MODEL.NONLOCAL.ENABLED else None


def measure_blocks(
    blocks: Mapping[str, nn.Module], x: torch.Tensor, rounds: int, max_seconds: float
) -> dict[str, dict[str, Any]]:
    """Measure forward and backward of blocks on one map, in turn.

    Args:
        blocks: by name.
        x: (N, C, T, H, W).
        rounds: how often each is timed.
        max_seconds: no new round starts after it.

    Returns:
        By name: "seconds", "peak_bytes", "saved_bytes", "runs" in seconds.
    """
    x = x.requires_grad_()
    grad = torch.randn_like(x)

    def step(block: nn.Module) -> None:
        """Forward and backward."""
        x.grad = None
        block.zero_grad(set_to_none=True)
        block(x).backward(grad)

    found: dict[str, dict[str, Any]] = {}
    for name, block in blocks.items():
        with peak_memory() as peak:
            step(block)
        saved, _ = saved_for_backward(partial(block, x), block, 0)
        found[name] = {"peak_bytes": peak.bytes, "saved_bytes": saved}
    # Each has run twice for its memory.
    cases = {name: partial(step, block) for name, block in blocks.items()}
    for name, timing in alternate(cases, rounds=rounds, warmup=0, max_seconds=max_seconds).items():
        found[name] |= {"seconds": timing.median, "runs": list(timing.seconds)}
    return found


def measure(rows: list[Row], shapes: tuple[str, ...], rounds: int, max_seconds: float) -> dict[str, Any]:
    """Measure rows of the trial.

    Returns:
        "environment"; "blocks": parameters and multiply-adds at beacon's size by row; "maps": what was measured, by map
        ("beacon" first) and row.
    """
    cfgs = {row[0]: config_of(row) for row in rows}
    costs = {name: model_costs(cfg)["nonlocal_blocks"] for name, cfg in cfgs.items()}
    blocks = {name: {"params": b["params"], "gmacs": b["gmacs"]} for name, found in costs.items() for b in found}
    trials = {name: train.Trial(cfg, "synthetic", None) for name, cfg in cfgs.items()}
    # The table has no share of a matrix product, which the operations of a step would give.
    maps = {"beacon": train.measure(trials, rounds, max_seconds, gflops=0.0)}
    del trials
    for shape in map(MapShape.parse, shapes):
        usual = {row[0]: block for row in rows if (block := usual_block(row, shape.channels)) is not None}
        maps[shape.name] = measure_blocks(usual, torch.randn(1, shape.channels, *shape.size), rounds, max_seconds)
    return {"environment": environment(), "blocks": blocks, "maps": maps}


def main() -> None:
    """Measure, write the file of results, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=SHAPES, help="maps, as of tools/benchmark.py nonlocal")
    parser.add_argument("--rounds", type=int, default=9, help="how often each row is timed (%(default)s)")
    parser.add_argument("--max-seconds", type=float, default=600, help="for one map: no new round after it")
    parser.add_argument("--out", help="file of results (default: the one that trials.py reads)")
    args = parser.parse_args()
    from trials import STARTS, VARIANT_COSTS, variant_rows

    keep_freed_memory()
    rows = [row for row in variant_rows() if row not in STARTS]  # the network of a start is a row of its own
    found = measure(rows, tuple(args.shapes), args.rounds, args.max_seconds)
    write_json(args.out or str(VARIANT_COSTS), found)
    for shape, measured in found["maps"].items():
        table = [
            {"row": name, "ms": 1e3 * row["seconds"], "MiB": (row["peak_bytes"] or 0) / 2**20}
            for name, row in measured.items()
        ]
        print(f"{shape}\n{create_table(table)}")


if __name__ == "__main__":
    main()
