#!/usr/bin/env python3
"""Time the two exact softmax algorithms of the CPU by the number of channels: ``python benchmarks/thin_attention.py``.

Forward and backward of PyTorch's attention kernel (values filled up with zero channels where they are fewer than the
keys'), of row blocks, and of the dense form, taking turns. ``nonlocal_ops.THIN`` and ``THIN_EQUAL`` come from this.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch

from nlvideo.layers import nonlocal_ops
from nlvideo.layers.nonlocal_ops import softmax_aggregate
from nlvideo.layers.row_blocks import row_block_sum
from nlvideo.tools.lib.benchmarking.timing import alternate, environment

ROOT = Path(__file__).resolve().parent.parent
# (batch, queries, keys): quickstart's block; larger and smaller maps.
MAPS = ((16, 1024, 256), (4, 4096, 1024), (1, 3136, 784), (8, 784, 196))
CHANNELS = (16, 32, 64, 128, 256)


def cases(batch: int, queries: int, keys: int, key_dim: int, value_dim: int) -> dict[str, Callable[[], None]]:
    """Return a step of each algorithm on the same tensors."""
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, queries, key_dim), (batch, keys, key_dim), (batch, keys, value_dim)
    inputs = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    grad = torch.randn(batch, queries, value_dim, generator=generator)
    scale = key_dim**-0.5

    def kernel() -> None:
        with mock.patch.object(nonlocal_ops, "_has_fused_kernel", lambda *_: True):
            softmax_aggregate(*inputs, scale=scale, algorithm="fused").backward(grad)

    return {
        "kernel": kernel,
        "row blocks": lambda: row_block_sum(*inputs, f="softmax", scale=scale).backward(grad),
        "dense": lambda: softmax_aggregate(*inputs, scale=scale, algorithm="dense").backward(grad),
    }


def main() -> None:
    """Measure all of them and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="(%(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT", default=ROOT / "benchmarks/results/nonlocal/thin.json")
    args = parser.parse_args()
    rows = []
    for batch, queries, keys in MAPS:
        for key_dim in CHANNELS:
            for value_dim in (key_dim // 2, key_dim):
                timings = alternate(cases(batch, queries, keys, key_dim, value_dim), rounds=args.rounds)
                rows.append({
                    "map": [batch, queries, keys], "key_dim": key_dim, "value_dim": value_dim,
                    "ms": {name: round(1e3 * timing.median, 2) for name, timing in timings.items()},
                    "row_blocks_of_kernel": round(timings["row blocks"].ratio_to(timings["kernel"]), 3),
                })  # fmt: skip
                print(json.dumps(rows[-1]), flush=True)
    args.json.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
