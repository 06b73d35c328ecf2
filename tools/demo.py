#!/usr/bin/env python3
"""A page to try a model on: drop a video, see its classes, its timeline and what attends to what."""

import argparse

from nlvideo.engine.script import ScriptParser, add_model_arguments, chosen_model, run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(
        description=__doc__ + " Needs the extra 'demo'. Uploads are deleted when they have been looked at.",
        epilog="Example: demo.py --model quickstart",
    )
    add_model_arguments(parser, default="quickstart")
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=7860, metavar="P", help="(%(default)s) 0: any free one")
    parser.add_argument("--max-megabytes", type=float, default=100, metavar="N", help="largest upload (%(default)s)")
    parser.add_argument("--max-seconds", type=float, default=120, metavar="N", help="longest video (%(default)s)")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Serve the page until SIGINT or SIGTERM."""
    # Only now: --help answers without loading torch.
    from nlvideo.model_zoo import Predictor
    from nlvideo.visualization import demo

    limits = demo.Limits(arguments.max_megabytes, arguments.max_seconds)
    port = demo.free_port(arguments.host, arguments.port)
    chosen = chosen_model(arguments)
    name = chosen["cfg_or_name"]
    predictor = Predictor(**chosen)
    with demo.UploadFolder() as uploads, demo.ended_by_signal() as ended:
        examples = demo.write_examples(uploads.kept) if demo.are_of_beacon(predictor.classes) else []
        content = demo.Demo(demo.Inspector(predictor), uploads, limits, examples, demo.ABOUT_EXAMPLES)
        page, url = demo.start(content, name, arguments.host, port)
        print(f"Serving {name} at {url} (Ctrl-C ends it)", flush=True)
        if arguments.host not in ("127.0.0.1", "localhost", "::1"):
            print(f"Everybody who reaches {arguments.host} can use the page: there is no password", flush=True)
        ended.wait()
        page.close(verbose=False)


if __name__ == "__main__":
    run_script(main, build_parser())
