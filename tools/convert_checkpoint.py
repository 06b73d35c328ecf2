#!/usr/bin/env python3
"""Convert weights of another framework into a checkpoint of nlvideo and the config it belongs to, or back.

Examples:
    tools/convert_checkpoint.py i3d_nonlocal_32x2_IN_pretrain_400k output/i3d_nl.pth
    tools/convert_checkpoint.py model.pkl output/i3d.pth MODEL.BACKBONE.STEM authors_8x8
    tools/convert_checkpoint.py output/model_final.pth model.pyth --to pyslowfast --config-file output/config.yaml
"""

import argparse

from nlvideo.engine.script import ScriptParser, run_script

SOURCES = (
    "auto", "caffe2", "detectron", "mmaction2", "pyslowfast", "pytorch-resnet3d", "pytorchvideo",
    "temporal-shift-module", "torchvision",
)  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", metavar="IN", help="a file, a URL, torchvision://NAME or a network of the release")
    parser.add_argument("out", metavar="OUT", help="*.pth or *.safetensors; the config goes beside it, as .yaml")
    parser.add_argument("--from", dest="source", default="auto", choices=SOURCES, help="(default: by the names in IN)")
    parser.add_argument("--entry", default="", metavar="NAME", help="entry of IN, such as ema (default: the usual one)")
    parser.add_argument(
        "--to",
        choices=("pyslowfast", "pytorchvideo", "mmaction2", "temporal-shift-module"),
        help="write another framework's file, no config",
    )
    parser.add_argument("--config-file", metavar="FILE", help="config of IN, if IN is a checkpoint of nlvideo")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="what IN does not say; the data")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Convert, and print what became of each tensor."""
    # Only now: --help answers without loading torch.
    from nlvideo.checkpoint.conversion import convert_checkpoint, write_conversion, write_export

    conversion = convert_checkpoint(
        arguments.weights, arguments.source, arguments.opts, arguments.config_file, arguments.entry
    )
    if arguments.to:
        write_export(conversion, arguments.out, arguments.to, arguments.overwrite)
        print(f"{conversion.report()}\nWrote {arguments.out} for {arguments.to}")
        return
    if conversion.converted.source == "nlvideo":
        raise ValueError(
            f"{arguments.weights} is a checkpoint of nlvideo already; --to writes a file of another framework, and"
            " tools/pack_model.py one of safetensors"
        )
    config_file = write_conversion(conversion, arguments.out, arguments.overwrite)
    print(f"{conversion.report()}\nWrote {arguments.out} and {config_file}. To test it on DATASETS.TEST:")
    print(f"python tools/test_net.py --config-file {config_file} MODEL.WEIGHTS {arguments.out}")


if __name__ == "__main__":
    run_script(main, build_parser())
