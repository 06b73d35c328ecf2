#!/usr/bin/env python3
"""Score saved results again, and the average of several models, without running a network.

Examples:
    score.py output/rgb/inference/kinetics_val.json
    score.py output/rgb/inference/kinetics_val.json output/flow/inference/kinetics_val.json --weights 1 1.5
    score.py output/rgb/inference/kinetics_val.json --average logits --json scores.json
"""

import argparse

from nlvideo.engine.script import ScriptParser, run_script

ENSEMBLE = "ensemble"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(
        description=__doc__,
        epilog="The files are those that a test writes to OUTPUT_DIR/inference; docs/testing.md describes them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="+", metavar="FILE", help="results of tests on the same videos")
    parser.add_argument("--weights", nargs="+", type=float, metavar="W", help="one per file (default: 1 each)")
    parser.add_argument(
        "--average", metavar="A",
        help="softmax or logits: average files, and the views that TEST.KEEP_VIEWS saved in a file, by probabilities "
        "or by logits (default: views as they were averaged, files by probabilities)",
    )  # fmt: skip
    parser.add_argument(
        "--evaluator", default="", metavar="NAME",
        help="score with this one, e.g. CharadesEvaluator (default: the one that each file names)",
    )  # fmt: skip
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="P",
        help="project folder, module or entry point, which may register an evaluator; repeatable",
    )  # fmt: skip
    parser.add_argument("--json", metavar="OUT", help="also write the metrics to this file: {FILE: {METRIC: VALUE}}")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Print the metrics of each file, and of all together where there are several."""
    # Only now: --help answers without loading torch.
    from nlvideo.evaluation import ensemble, evaluate_results, read_results, rescore
    from nlvideo.evaluation.testing import with_interval
    from nlvideo.utils.console import create_table
    from nlvideo.utils.files.file_io import write_json
    from nlvideo.utils.plugins import load_plugin

    for plugin in arguments.plugin:
        load_plugin(plugin)
    names, average = arguments.results, arguments.average
    parts = [read_results(name) for name in names]
    if average is not None:
        parts = [rescore(part, average) for part in parts]
        for name, part in zip(names, parts, strict=True):
            if part.average != average:
                print(f"{name}: no views were saved, its scores stay averaged by {part.average!r}")
    metrics = {name: evaluate_results(part, arguments.evaluator) for name, part in zip(names, parts, strict=True)}
    if len(parts) > 1 or arguments.weights:
        weights = arguments.weights or [1.0] * len(parts)
        together = ensemble(parts, weights, average or "softmax", names)
        metrics[ENSEMBLE] = evaluate_results(together, arguments.evaluator)
    rows = []
    for name, own in metrics.items():
        count = own.get("num_videos")
        rows.append({"results": name, **{k: with_interval(k, v, count) for k, v in own.items()}})
    print(create_table(rows))
    print("In brackets: 95 % confidence intervals (Wilson's) of accuracies.")
    if arguments.json:
        write_json(arguments.json, metrics)


if __name__ == "__main__":
    run_script(main, build_parser())
