#!/usr/bin/env python3
"""Write the features of any layer for the test views of every video of a dataset, in shards with an index.

A run that was killed continues where it was: give the same command again. Under torchrun, or with --num-gpus, each rank
makes its part. nlvideo.export.load_features reads the folder; docs/export.md describes it.

Examples:
    tools/extract_features.py --model quickstart --dataset beacon_val --layer res5 --output output/features
    tools/extract_features.py --model output/quickstart/i3d_nl --dataset folder:videos --layer res4.1 \\
        --pool none --views keep --output output/maps
"""

import argparse

from nlvideo.engine.script import ScriptParser, add_model_arguments, chosen_model, run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--dataset", metavar="NAME", required=True, help="in the catalog, list:FILE or folder:DIR")
    parser.add_argument("--layer", metavar="NAME", required=True, help="any sub-module: res5, res4.1, res3.nl1, ...")
    parser.add_argument("--output", metavar="DIR", required=True, help="folder to write or to continue in")
    parser.add_argument(
        "--pool", default="avg", metavar="P", help="avg: over time and space; none: keep positions (default: avg)"
    )
    parser.add_argument("--views", default="mean", metavar="V", help="mean: over clips and crops; keep (default: mean)")
    parser.add_argument("--dtype", default="float32", metavar="T", help="float32 or float16 (default: float32)")
    parser.add_argument("--format", default="npz", metavar="F", help="npz or parquet (default: npz)")
    parser.add_argument("--videos-per-shard", type=int, metavar="N", help="(default: about 64 MiB, at most 1000)")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="ranks on this machine (default: 1)")
    return parser


def extract(arguments: argparse.Namespace) -> None:
    """Extract on one rank, and on rank 0 print what there is now."""
    from nlvideo.export.features import extract_features
    from nlvideo.model_zoo import Predictor
    from nlvideo.utils import comm

    predictor = Predictor(**chosen_model(arguments))
    done = extract_features(
        predictor.model, predictor.cfg, arguments.dataset, arguments.layer, arguments.output, pool=arguments.pool,
        views=arguments.views, dtype=arguments.dtype, format=arguments.format,
        videos_per_shard=arguments.videos_per_shard,
    )  # fmt: skip
    if comm.is_main_process():
        shape, num_failed = " x ".join(map(str, done.shape)), len(done.failed)
        print(
            f"{arguments.output}: features of {done.num_videos - num_failed} videos, {shape} each; {num_failed} failed;"
            f" {done.num_made} shards written, {done.num_kept} there before"
        )


def main(arguments: argparse.Namespace) -> None:
    """Start the ranks."""
    # Only now: --help answers without loading torch.
    from nlvideo.engine.launch import launch

    # Not strict: the config refuses a key without a value.
    overrides = dict(zip(arguments.opts[::2], arguments.opts[1::2], strict=False))
    device = arguments.device or overrides.get("MODEL.DEVICE", "auto")
    launch(extract, arguments.num_gpus, args=(arguments,), device=device)


if __name__ == "__main__":
    run_script(main, build_parser())
