#!/usr/bin/env python3
"""Measure speed and memory on this machine: of the non-local block, of a training step, of reading video."""

import argparse

from nlvideo.engine.script import run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__} Cases of one run take turns; figures are medians, ratios are those of neighbours in time."
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    block = kinds.add_parser(
        "nonlocal", help="forward and backward of a block: dense, exact and mmcv's, per form and shape"
    )
    block.add_argument("--forms", nargs="+", metavar="F", help="pairwise functions (default: all four)")
    block.add_argument("--shapes", nargs="+", metavar="S", help="such as res3-32x224 (default: res3 and res4, 8 to 128 frames)")
    block.add_argument("--keys", nargs="+", metavar="K", help="all positions, those of the pooled map, or both (default)")
    block.add_argument("--max-seconds", type=float, default=60, metavar="S", help="for one form at one shape (%(default)s)")
    block.add_argument("--peer", choices=["mmcv"], help="also time mmcv's NonLocal3d (pip install mmcv-lite)")
    data = kinds.add_parser("data", help="reading training clips: ours, torchcodec, and decoding the whole file")
    data.add_argument("videos", nargs="*", metavar="VIDEO", help="files (default: one that is generated)")
    data.add_argument("--num-frames", type=int, default=32, metavar="N", help="of a clip (%(default)s)")
    data.add_argument("--frame-stride", type=int, default=2, metavar="N", help="(%(default)s)")
    data.add_argument("--num-clips", type=int, default=8, metavar="N", help="clips of a round (%(default)s)")
    data.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each case runs (%(default)s)")
    data.add_argument("--step-seconds", type=float, default=0, metavar="S", help="a training step to be kept fed")
    data.add_argument("--clips-per-step", type=int, default=8, metavar="N", help="that it takes (%(default)s)")
    data.add_argument("--json", metavar="OUT", help="write all figures to this file")
    for sub in (block,):
        sub.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
        sub.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16 (%(default)s)")
        sub.add_argument("--rounds", type=int, default=7, metavar="N", help="how often each case runs (%(default)s)")
        sub.add_argument("--json", metavar="OUT", help="write all figures to this file")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Measure, print a table, write the figures."""
    # Only now: --help answers without loading torch.
    if arguments.kind == "data":
        from nlvideo.benchmarking import data

        print(
            data.run(
                arguments.videos, arguments.json, num_frames=arguments.num_frames, frame_stride=arguments.frame_stride,
                num_clips=arguments.num_clips, rounds=arguments.rounds, step_seconds=arguments.step_seconds,
                clips_per_step=arguments.clips_per_step,
            )
        )
        return
    from nlvideo.benchmarking import nonlocal_block

    print(
        nonlocal_block.run(
            arguments.forms, arguments.shapes, arguments.keys, arguments.json, device=arguments.device,
            dtype=arguments.dtype, peer=arguments.peer is not None, rounds=arguments.rounds,
            max_seconds=arguments.max_seconds,
        )
    )


if __name__ == "__main__":
    run_script(main, build_parser())
