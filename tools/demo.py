#!/usr/bin/env python3
"""A page to try a model on: drop a video, see its classes, its timeline and what attends to what."""

import argparse
import tempfile
from pathlib import Path

from nlvideo.engine.script import run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__ + " Needs the extra 'demo'. Uploads are deleted when they have been looked at.",
        epilog="Example: demo.py --model quickstart",
    )
    parser.add_argument("--model", metavar="NAME", help="a trained model, or the folder of a run (default: quickstart)")
    parser.add_argument("--config-file", metavar="FILE", help="YAML of another model; needs --weights")
    parser.add_argument("--weights", metavar="FILE", help="checkpoint of that model")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, ... (default: as the config says)")
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=7860, metavar="P", help="(%(default)s) 0: any free one")
    parser.add_argument("--max-megabytes", type=float, default=100, metavar="N", help="largest upload (%(default)s)")
    parser.add_argument("--max-seconds", type=float, default=120, metavar="N", help="longest video (%(default)s)")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Serve the page until SIGINT or SIGTERM."""
    if arguments.config_file and arguments.model:
        raise ValueError("--model and --config-file: got both, allowed: one of them")
    if bool(arguments.config_file) != bool(arguments.weights):
        raise ValueError("--config-file and --weights: got one of them, allowed: both or none")
    # Only now: --help answers without loading torch.
    from nlvideo.model_zoo import Predictor
    from nlvideo.visualization import demo

    limits = demo.Limits(arguments.max_megabytes, arguments.max_seconds)
    port = demo.free_port(arguments.host, arguments.port)
    name = arguments.config_file or arguments.model or "quickstart"
    predictor = Predictor(name, arguments.weights, arguments.device)
    with tempfile.TemporaryDirectory() as folder, demo.UploadFolder() as uploads, demo.ended_by_signal() as ended:
        examples = demo.write_examples(Path(folder)) if demo.are_of_beacon(predictor.classes) else []
        content = demo.Demo(demo.Inspector(predictor), uploads, limits, examples, demo.ABOUT_EXAMPLES)
        page, url = demo.start(content, name, arguments.host, port)
        print(f"Serving {name} at {url} (Ctrl-C ends it)", flush=True)
        if not demo.is_private(arguments.host):
            print(f"Everybody who reaches {arguments.host} can use the page: it asks for no password", flush=True)
        ended.wait()
        page.close(verbose=False)


if __name__ == "__main__":
    run_script(main, build_parser())
