#!/usr/bin/env python3
"""Time 3D convolutions of a few clips and the same in 2D: ``python benchmarks/frame_conv.py``.

Forward alone, and forward with backward, taking turns, on channels-last maps. The rule of
``nlvideo.layers.blocks.Conv3d`` comes from this: where it holds, ``2D / 3D`` is below 1. It differs for one thread:
set ``OMP_NUM_THREADS``.
"""

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from nlvideo.layers.blocks import Conv3d
from nlvideo.tools.lib.benchmarking.timing import alternate, environment
from nlvideo.utils.console import create_table

ROOT = Path(__file__).resolve().parent.parent
# (clips, channels, channels out, frames, height and width, kernel): the convolutions of each stage of one clip of
# 8x224; and those that PyTorch gives to oneDNN itself, at least on two threads (more clips, more or larger frames).
MAPS = (
    (1, 64, 64, 4, 56, (1, 3, 3)), (1, 128, 128, 4, 28, (1, 3, 3)), (1, 256, 256, 4, 14, (1, 3, 3)),
    (1, 512, 512, 4, 7, (1, 3, 3)), (1, 64, 64, 4, 56, (3, 1, 1)), (1, 128, 128, 4, 28, (3, 1, 1)),
    (1, 256, 256, 4, 14, (3, 1, 1)), (1, 512, 512, 4, 7, (3, 1, 1)), (1, 64, 256, 4, 56, (1, 1, 1)),
    (1, 128, 512, 4, 28, (1, 1, 1)), (1, 256, 1024, 4, 14, (1, 1, 1)), (1, 512, 2048, 4, 7, (1, 1, 1)),
    (1, 64, 64, 8, 56, (1, 3, 3)), (2, 64, 64, 4, 56, (1, 3, 3)), (1, 64, 64, 4, 84, (1, 3, 3)),
    (8, 128, 128, 4, 28, (3, 1, 1)), (8, 128, 512, 4, 28, (1, 1, 1)),
)  # fmt: skip


class In2D(Conv3d):
    """Runs in 2D wherever that is possible."""

    def _runs_in_2d(self, x: torch.Tensor) -> bool:
        return True


def cases(
    clips: int, channels: int, out_channels: int, frames: int, side: int, kernel: tuple
) -> dict[str, Callable[[], object]]:
    """Return a pass of each road, on the same numbers."""
    padding = tuple(size // 2 for size in kernel)
    x = torch.randn(clips, channels, frames, side, side).contiguous(memory_format=torch.channels_last_3d)
    roads = {name: kind(channels, out_channels, kernel, 1, padding, bias=False) for name, kind in
             (("3D", nn.Conv3d), ("2D", In2D))}  # fmt: skip
    roads["2D"].load_state_dict(roads["3D"].state_dict())
    for conv in roads.values():
        conv.to(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        torch.testing.assert_close(roads["2D"](x), roads["3D"](x), atol=1e-4, rtol=1e-4)

    def forward(conv: nn.Module) -> None:
        with torch.no_grad():
            conv(x)

    def both(conv: nn.Module) -> None:
        conv(x.detach().requires_grad_()).sum().backward()

    return {
        f"{name}, {what}": functools.partial(run, conv)
        for name, conv in roads.items()
        for what, run in (("forward", forward), ("with backward", both))
    }


def main() -> None:
    """Measure all maps, print a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="(%(default)s)")
    name = f"frame_conv_{torch.get_num_threads()}threads.json"
    parser.add_argument("--json", type=Path, metavar="OUT", default=ROOT / "benchmarks/results/inference" / name)
    args = parser.parse_args()
    rows = []
    for clips, channels, out_channels, frames, side, kernel in MAPS:
        timings = alternate(cases(clips, channels, out_channels, frames, side, kernel), rounds=args.rounds)
        row = {
            "map": f"{clips} x {channels} x {frames}x{side}x{side}",
            "kernel": "x".join(map(str, kernel)),
            "out": out_channels,
        }
        for what in ("forward", "with backward"):
            slow, fast = timings[f"3D, {what}"], timings[f"2D, {what}"]
            row |= {f"3D {what}, ms": round(1e3 * slow.median, 2), f"2D / 3D, {what}": round(fast.ratio_to(slow), 2)}
        rows.append(row)
    print(create_table(rows))
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(
        json.dumps({"environment": environment(), "rounds": args.rounds, "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
