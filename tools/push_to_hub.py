#!/usr/bin/env python3
"""Upload the model of a run to the Hugging Face hub: weights as safetensors, config, names of classes, a model card.

The files are written to OUTPUT_DIR/hub first. Its README.md is the model card. If it is there already, it stays. Log in
with `hf auth login`, or set HF_TOKEN. Every --model then takes hf://USER/NAME.

Examples:
    tools/push_to_hub.py output/mine user/name --dry-run
    tools/push_to_hub.py output/mine user/name --private MODEL.WEIGHTS best
"""

import argparse
import os
import re

from nlvideo.engine.script import ScriptParser, add_config_arguments, run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="OUTPUT_DIR", help="the folder of a run, or of a packed model")
    parser.add_argument("repo", metavar="USER/NAME", help="the model on the hub; made if it is missing")
    parser.add_argument("--private", action="store_true", help="only you see a new model")
    parser.add_argument("--dry-run", action="store_true", help="write the files and upload nothing")
    add_config_arguments(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Write the files, and upload them."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", arguments.repo):
        raise ValueError(f"USER/NAME: got {arguments.repo!r}, allowed: two names of letters, digits, '-', '_' and '.'")
    if not os.path.isdir(arguments.folder):
        raise FileNotFoundError(f"OUTPUT_DIR: got {arguments.folder!r}, allowed: the folder of a run")
    # Only now: --help answers without loading torch.
    from nlvideo.model_zoo import get
    from nlvideo.model_zoo.hub import push_folder, write_hub_folder

    model = get(arguments.folder, device="cpu", opts=arguments.opts, plugins=arguments.plugin)
    own = vars(model)
    folder = os.path.join(arguments.folder, "hub")
    card = write_hub_folder(model, own["cfg"], own["classes"], folder, arguments.repo)
    print(f"{folder}: {len(own['classes'])} classes; the model card is {card}")
    if not arguments.dry_run:
        print(f"Uploaded to {push_folder(folder, arguments.repo, arguments.private)}")


if __name__ == "__main__":
    run_script(main, build_parser())
