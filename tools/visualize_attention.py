#!/usr/bin/env python3
"""Draw what a non-local block attends to in a video, as in Figure 3 of the paper, or where a network sees a class.

For each query: OUTPUT/query_0.png, a film strip with arrows to the keys that have 90 % of the weight, in space and
time, and OUTPUT/query_0.mp4, all weights as heat over the frames. OUTPUT/attention.json has the same in numbers.

With --method gradcam, for any network: OUTPUT/gradcam.png and .mp4, what speaks for the class as heat over the frames,
and OUTPUT/gradcam.json.

Examples:
    tools/visualize_attention.py --model quickstart clip.mp4
    tools/visualize_attention.py --config-file output/config.yaml --weights output/model_final.pth clip.mp4 \\
        --block res3.1 --position 4,30,42
    tools/visualize_attention.py --model quickstart clip.mp4 --method gradcam --layer res4 --class left
"""

import argparse
import os
from pathlib import Path
from typing import Any

from nlvideo.engine.script import ScriptParser, add_input_argument, add_model_arguments, chosen_model, run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_input_argument(parser, "a video, or a folder of frames")
    add_model_arguments(parser)
    parser.add_argument("--method", choices=("attention", "gradcam"), default="attention", help="(default: attention)")
    parser.add_argument("--block", metavar="NAME", help="e.g. res3.1 (default: the first block, with the finest map)")
    parser.add_argument(
        "--position", action="append", type=position, metavar="T,Y,X",
        help="a query: number of the sampled frame, pixels of the frame shown, all from 0; repeatable (default: where "
        "what the block adds to its input changes the decision most, in places apart)",
    )  # fmt: skip
    parser.add_argument("--num-queries", type=int, metavar="K", help="without --position (default: 3)")
    parser.add_argument("--num-arrows", type=int, metavar="N", help="arrows of a query, at most (default: 20)")
    parser.add_argument("--layer", metavar="NAME", help="of gradcam: a layer, e.g. res4 (default: what the head reads)")
    parser.add_argument("--class", dest="target", metavar="C", help="of gradcam: name or number (default: the best)")
    parser.add_argument("--start-sec", type=float, metavar="S", help="look at the video from here (default: its begin)")
    parser.add_argument("--end-sec", type=float, metavar="S", help="and until here (default: its end)")
    parser.add_argument("--fps", type=float, default=4, metavar="R", help="frames per second of the MP4 (default: 4)")
    parser.add_argument("--output", metavar="DIR", help="folder (default: output/METHOD/NAME-OF-VIDEO)")
    return parser


def position(text: str) -> tuple[int, ...]:
    """Read ``T,Y,X``."""
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.strip().isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: T,Y,X, three whole numbers from 0")
    return tuple(map(int, numbers))


# Arguments that only one of the methods has.
_OWN = {"attention": ("block", "position", "num_queries", "num_arrows"), "gradcam": ("layer", "target")}


def main(arguments: argparse.Namespace) -> None:
    """Write the pictures of every query, or of the class."""
    # Only now: --help answers without loading torch.
    from nlvideo.model_zoo import Predictor
    from nlvideo.visualization import load_view

    if arguments.fps <= 0:
        raise ValueError(f"--fps: got {arguments.fps:g}, allowed: above 0")
    for method, names in _OWN.items():
        for name in names:
            if method != arguments.method and getattr(arguments, name) is not None:
                flag = f"--{name.replace('target', 'class').replace('_', '-')}"
                raise ValueError(f"{flag}: got {getattr(arguments, name)!r}, allowed with --method {method}")
    stem = Path(os.path.abspath(arguments.input)).stem
    output = Path(arguments.output or Path("output") / arguments.method / stem)
    if output.is_file():
        raise ValueError(f"--output: got {str(output)!r}, a file, allowed: a folder")
    chosen = chosen_model(arguments)
    # Any layer may be looked at, so all are to be as they were trained.
    predictor = Predictor(**{**chosen, "opts": [*chosen["opts"], "TEST.FUSE", "False"]})
    view = load_view(predictor.cfg, arguments.input, arguments.start_sec, arguments.end_sec)
    draw = draw_class if arguments.method == "gradcam" else draw_queries
    draw(predictor, view, output, arguments)


def draw_queries(predictor: Any, view: Any, output: Path, arguments: argparse.Namespace) -> None:
    """Write the pictures of every query."""
    from nlvideo.modeling.nonlocal_block.summary import nonlocal_modules
    from nlvideo.utils.files.file_io import write_json
    from nlvideo.visualization import attend, chosen_positions, describe, draw_film_strip, find_block

    model = predictor.model
    if not nonlocal_modules(model):
        raise ValueError("the network has no non-local block and so no attention: use --method gradcam")
    block, _ = find_block(model, arguments.block)
    # Also where positions are given, because it raises an error where the weights do not hold the block.
    wanted = 3 if arguments.num_queries is None else arguments.num_queries
    chosen = chosen_positions(model, view.video, block, 1 if arguments.position else wanted)
    maps = attend(model, view.video, block, arguments.position or chosen)
    num_arrows = 20 if arguments.num_arrows is None else arguments.num_arrows
    report = describe(maps, view, num_arrows)
    say_prediction(predictor, view, arguments)
    for index, query in enumerate(report["queries"]):
        write_pictures(output / f"query_{index}", draw_film_strip(maps, index, num_arrows), maps, index, arguments.fps)
        t, y, x = (f"{value:g}" for value in query["shown"])
        keys = f"{len(query['keys'])} of {report['num_keys']} keys, with {100 * query['share']:.0f} % of the weight"
        print(f"{output}/query_{index}.png, .mp4: {block} from frame {t}, y {y}, x {x}; {keys}")
    write_json(str(output / "attention.json"), report)


def draw_class(predictor: Any, view: Any, output: Path, arguments: argparse.Namespace) -> None:
    """Write the pictures of a class."""
    from nlvideo.utils.files.file_io import write_json
    from nlvideo.visualization import describe_class, draw_heat_strip, grad_cam

    best = say_prediction(predictor, view, arguments)
    target = best if arguments.target is None else arguments.target
    maps = grad_cam(predictor.model, view.video, target, arguments.layer)
    name = predictor.classes[maps.target]
    report = {**describe_class(maps, view), "name": name}
    strip = draw_heat_strip(maps, 0, f"Grad-CAM, {maps.layer}: what speaks for {name}")
    write_pictures(output / "gradcam", strip, maps, 0, arguments.fps)
    write_json(str(output / "gradcam.json"), report)
    cells = f"{len(report['cells'])} of {report['num_cells']} cells, with {100 * report['share']:.0f} % of the weight"
    print(f"{output}/gradcam.png, .mp4: {name} in {maps.layer}; {cells}")


def write_pictures(path: Path, strip: Any, maps: Any, index: int, fps: float) -> None:
    """Write PATH.png, the strip, and PATH.mp4, the heat over the frames."""
    from nlvideo.utils.files.file_io import atomic_write
    from nlvideo.visualization import overlay_frames, write_video

    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(f"{path}.png", lambda file: strip.save(file, format="PNG", optimize=True))
    write_video(f"{path}.mp4", overlay_frames(maps, index), fps)


def say_prediction(predictor: Any, view: Any, arguments: argparse.Namespace) -> int:
    """Print which frames these are and what the network takes the clip for; return the number of that class."""
    import torch

    with torch.no_grad():
        scores = predictor.model([{"video": view.video[None], "video_id": "clip"}])[0]["scores"]
    ((name, score),) = predictor.best(scores, 1)
    print(f"{arguments.input}: frames {', '.join(map(str, view.frames))}; predicted: {name} ({score:.2f})")
    return int(scores.argmax())


if __name__ == "__main__":
    run_script(main, build_parser())
