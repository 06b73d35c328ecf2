#!/usr/bin/env python3
"""Measure speed and memory on this machine: of the non-local block, of training, of a test's pass, of reading video."""

import argparse

from nlvideo.engine.script import run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__} Cases of one run take turns. Figures are medians. Ratios are of neighbouring runs."
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    block = kinds.add_parser(
        "nonlocal", help="forward and backward of a block: dense, exact and mmcv's, per form and shape"
    )
    block.add_argument("--forms", nargs="+", metavar="F", help="pairwise functions (default: all four)")
    block.add_argument(
        "--shapes", nargs="+", metavar="S", help="such as res3-32x224 (default: res3 and res4, 8 to 128 frames)"
    )
    block.add_argument(
        "--keys", nargs="+", metavar="K", help="all positions, those of the pooled map, or both (default)"
    )
    block.add_argument(
        "--max-seconds", type=float, default=60, metavar="S", help="for one form at one shape (%(default)s)"
    )
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
    train = kinds.add_parser(
        "train", help="the training step of a config: iterations per second, where they go, memory"
    )
    train.add_argument("--config-file", required=True, metavar="FILE", help="YAML file of the model and its training")
    train.add_argument(
        "--variants", default="config", metavar="V,...", help="compared with the first; joined with '+' they apply "
        "together: config, channels_last, contiguous, auto, dense, checkpoint, all_keys, amp, unfused (%(default)s)"
    )  # fmt: skip
    train.add_argument("--iterations", type=int, default=5, metavar="N", help="that are timed, of each (%(default)s)")
    train.add_argument(
        "--max-seconds", type=float, default=600, metavar="S", help="no new round after it (%(default)s)"
    )
    train.add_argument(
        "--batch-size", type=int, default=0, metavar="N", help="clips (default: the config's for a device)"
    )
    train.add_argument("--data", choices=["synthetic", "real"], default="synthetic", help="(%(default)s)")
    train.add_argument("--device", help="cpu or cuda (default: MODEL.DEVICE)")
    train.add_argument("--amp", action="store_true", help="mixed precision in all variants")
    train.add_argument("--compile", nargs="?", const="inductor", metavar="BACKEND", help="torch.compile (%(const)s)")
    train.add_argument("--json", metavar="OUT", help="write all figures to this file")
    train.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides, after all flags")
    test = kinds.add_parser("test", help="the views of one video through the network of a config, norms folded or not")
    test.add_argument("--config-file", required=True, metavar="FILE", help="YAML file of the model")
    test.add_argument(
        "--variants", default="config,norms", metavar="V,...", help="compared with the first; joined with '+' they "
        "apply together: config, norms (not folded), amp, contiguous, dense (%(default)s)"
    )  # fmt: skip
    test.add_argument("--views", type=int, default=3, metavar="N", help="that pass together (%(default)s)")
    test.add_argument("--max-seconds", type=float, default=600, metavar="S", help="no new round after it (%(default)s)")
    test.add_argument("--rounds", type=int, default=7, metavar="N", help="how often each case runs (%(default)s)")
    test.add_argument("--device", help="cpu or cuda (default: MODEL.DEVICE)")
    test.add_argument("--json", metavar="OUT", help="write all figures to this file")
    test.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides, after all flags")
    for sub in (train, test):
        sub.add_argument(
            "--peer", choices=["pytorchvideo"], help="also time its network, with the same weights (pip install it)"
        )
    for sub in (block,):
        sub.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
        sub.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16 (%(default)s)")
        sub.add_argument("--rounds", type=int, default=7, metavar="N", help="how often each case runs (%(default)s)")
        sub.add_argument("--json", metavar="OUT", help="write all figures to this file")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Measure, print a table, write the figures."""
    print({"data": run_data, "train": run_train, "test": run_test, "nonlocal": run_nonlocal}[arguments.kind](arguments))


# Their imports are in the functions: --help answers without loading torch.
def run_data(arguments: argparse.Namespace) -> str:
    """Measure reading."""
    from nlvideo.tools.lib.benchmarking import data

    return data.run(
        arguments.videos, arguments.json, num_frames=arguments.num_frames, frame_stride=arguments.frame_stride,
        num_clips=arguments.num_clips, rounds=arguments.rounds, step_seconds=arguments.step_seconds,
        clips_per_step=arguments.clips_per_step,
    )  # fmt: skip


def run_train(arguments: argparse.Namespace) -> str:
    """Measure a training step."""
    from nlvideo.tools.lib.benchmarking import train

    device = ["MODEL.DEVICE", arguments.device] if arguments.device else []
    amp = ["SOLVER.AMP.ENABLED", "True"] if arguments.amp else []
    return train.run(
        arguments.config_file, [*arguments.opts, *device, *amp], arguments.json, variants=arguments.variants.split(","),
        iterations=arguments.iterations, data=arguments.data, batch_size=arguments.batch_size,
        compiler=arguments.compile, max_seconds=arguments.max_seconds, peer=arguments.peer,
    )  # fmt: skip


def run_test(arguments: argparse.Namespace) -> str:
    """Measure a pass at test."""
    from nlvideo.tools.lib.benchmarking import inference

    device = ["MODEL.DEVICE", arguments.device] if arguments.device else []
    return inference.run(
        arguments.config_file, [*arguments.opts, *device], arguments.json, variants=arguments.variants.split(","),
        views=arguments.views, rounds=arguments.rounds, max_seconds=arguments.max_seconds, peer=arguments.peer,
    )  # fmt: skip


def run_nonlocal(arguments: argparse.Namespace) -> str:
    """Measure the block."""
    from nlvideo.tools.lib.benchmarking import nonlocal_block

    return nonlocal_block.run(
        arguments.forms, arguments.shapes, arguments.keys, arguments.json, device=arguments.device,
        dtype=arguments.dtype, peer=arguments.peer is not None, rounds=arguments.rounds,
        max_seconds=arguments.max_seconds,
    )  # fmt: skip


if __name__ == "__main__":
    run_script(main, build_parser())
