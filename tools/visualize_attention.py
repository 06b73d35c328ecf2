#!/usr/bin/env python3
"""Draw what a non-local block attends to in a video, as in Figure 3 of the paper.

For each query: OUTPUT/query_0.png, a film strip with arrows to the keys that have 90 % of the weight, in space and
time, and OUTPUT/query_0.mp4, all weights as heat over the frames. OUTPUT/attention.json has the same in numbers.

Examples:
    tools/visualize_attention.py --model quickstart --input clip.mp4
    tools/visualize_attention.py --config-file output/config.yaml --weights output/model_final.pth --input clip.mp4 \\
        --block res3.1 --position 4,30,42
"""

import argparse
import os
from pathlib import Path
from typing import Any

from nlvideo.engine.script import ScriptParser, add_model_arguments, chosen_model, run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--input", required=True, metavar="VIDEO", help="a video, or a folder of frames")
    parser.add_argument("--block", metavar="NAME", help="e.g. res3.1 (default: the first block, with the finest map)")
    parser.add_argument(
        "--position", action="append", type=position, metavar="T,Y,X",
        help="a query: number of the sampled frame, pixels of the frame shown, all from 0; repeatable (default: where "
        "what the block adds to its input changes the decision most, in places apart)",
    )  # fmt: skip
    parser.add_argument("--num-queries", type=int, default=3, metavar="K", help="without --position (default: 3)")
    parser.add_argument(
        "--num-arrows", type=int, default=20, metavar="N", help="arrows of a query, at most (default: 20)"
    )
    parser.add_argument("--start-sec", type=float, metavar="S", help="look at the video from here (default: its begin)")
    parser.add_argument("--end-sec", type=float, metavar="S", help="and until here (default: its end)")
    parser.add_argument("--fps", type=float, default=4, metavar="R", help="frames per second of the MP4 (default: 4)")
    parser.add_argument("--output", metavar="DIR", help="folder (default: output/attention/NAME-OF-VIDEO)")
    return parser


def position(text: str) -> tuple[int, ...]:
    """Read ``T,Y,X``."""
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.strip().isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: T,Y,X, three whole numbers from 0")
    return tuple(map(int, numbers))


def main(arguments: argparse.Namespace) -> None:
    """Write the pictures of every query."""
    # Only now: --help answers without loading torch.
    from nlvideo.model_zoo import Predictor
    from nlvideo.utils.files.file_io import write_json
    from nlvideo.visualization import attend, chosen_positions, describe, find_block, load_view

    if arguments.fps <= 0:
        raise ValueError(f"--fps: got {arguments.fps:g}, allowed: above 0")
    output = Path(arguments.output or Path("output/attention") / Path(os.path.abspath(arguments.input)).stem)
    if output.is_file():
        raise ValueError(f"--output: got {str(output)!r}, a file, allowed: a folder")
    predictor = Predictor(**chosen_model(arguments))
    view = load_view(predictor.cfg, arguments.input, arguments.start_sec, arguments.end_sec)
    model = predictor.model
    block, _ = find_block(model, arguments.block)
    # Also where positions are given, because it raises an error where the weights do not hold the block.
    chosen = chosen_positions(model, view.video, block, 1 if arguments.position else arguments.num_queries)
    maps = attend(model, view.video, block, arguments.position or chosen)
    report = describe(maps, view, arguments.num_arrows)
    output.mkdir(parents=True, exist_ok=True)
    print(f"{arguments.input}: frames {', '.join(map(str, view.frames))}; {prediction(predictor, view.video)}")
    for index, query in enumerate(report["queries"]):
        draw(maps, index, output, arguments)
        t, y, x = (f"{value:g}" for value in query["shown"])
        keys = f"{len(query['keys'])} of {report['num_keys']} keys, with {100 * query['share']:.0f} % of the weight"
        print(f"{output}/query_{index}.png, .mp4: {block} from frame {t}, y {y}, x {x}; {keys}")
    write_json(str(output / "attention.json"), report)


def draw(maps: Any, index: int, output: Path, arguments: argparse.Namespace) -> None:
    """Write the film strip and the video of one query."""
    from nlvideo.utils.files.file_io import atomic_write
    from nlvideo.visualization import draw_film_strip, overlay_frames, write_video

    strip = draw_film_strip(maps, index, arguments.num_arrows)
    atomic_write(str(output / f"query_{index}.png"), lambda file: strip.save(file, format="PNG", optimize=True))
    write_video(output / f"query_{index}.mp4", overlay_frames(maps, index), arguments.fps)


def prediction(predictor: Any, video: Any) -> str:
    """What the network takes the clip for."""
    import torch

    with torch.no_grad():
        scores = predictor.model([{"video": video[None], "video_id": "clip"}])[0]["scores"]
    ((name, score),) = predictor.best(scores, 1)
    return f"predicted: {name} ({score:.2f})"


if __name__ == "__main__":
    run_script(main, build_parser())
