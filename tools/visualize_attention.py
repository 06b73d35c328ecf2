#!/usr/bin/env python3
"""Draw what a non-local block attends to in a video, as in Figure 3 of the paper.

For each query: OUTPUT/query_0.png, a film strip with arrows to the 20 keys of the highest weights in space and time,
and OUTPUT/query_0.mp4, all weights as heat over the frames. OUTPUT/attention.json has the same in numbers.

Example:
    visualize_attention.py --config-file output/config.yaml --weights output/model_final.pth --input clip.mp4 \\
        --block res3.1 --position 4,30,42
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from nlvideo.engine.script import run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML of the model")
    parser.add_argument("--weights", required=True, metavar="W", help="checkpoint of the model")
    parser.add_argument("--input", required=True, metavar="VIDEO", help="a video, or a folder of frames")
    parser.add_argument("--block", metavar="NAME", help="e.g. res3.1 (default: the first block, with the finest map)")
    parser.add_argument(
        "--position", action="append", type=position, metavar="T,Y,X",
        help="a query: number of the sampled frame, pixels of the frame shown, all from 0; repeatable (default: where "
        "the block adds most to its input, in places apart)",
    )  # fmt: skip
    parser.add_argument("--num-queries", type=int, default=3, metavar="K", help="without --position (default: 3)")
    parser.add_argument("--num-arrows", type=int, default=20, metavar="N", help="arrows of a query (default: 20)")
    parser.add_argument("--start-sec", type=float, metavar="S", help="look at the video from here (default: its begin)")
    parser.add_argument("--end-sec", type=float, metavar="S", help="and until here (default: its end)")
    parser.add_argument("--fps", type=float, default=4, metavar="R", help="frames per second of the MP4 (default: 4)")
    parser.add_argument("--output", metavar="DIR", help="folder (default: output/attention/NAME-OF-VIDEO)")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="P", help="project folder, module or entry point; repeatable"
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config, after all flags"
    )
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
    from nlvideo.config import load_cfg
    from nlvideo.engine import load_model_for_test
    from nlvideo.utils.file_io import atomic_write
    from nlvideo.visualization import attend, chosen_positions, describe, find_block, load_view

    if arguments.fps <= 0:
        raise ValueError(f"--fps: got {arguments.fps:g}, allowed: above 0")
    cfg = load_cfg(arguments.config_file, [*arguments.opts, "MODEL.WEIGHTS", arguments.weights], arguments.plugin)
    view = load_view(cfg, arguments.input, arguments.start_sec, arguments.end_sec)
    model = load_model_for_test(cfg)
    block, _ = find_block(model, arguments.block)
    # Also where positions are given: it says so where the weights do not hold the block.
    chosen = chosen_positions(model, view.video, block, 1 if arguments.position else arguments.num_queries)
    maps = attend(model, view.video, block, arguments.position or chosen)
    report = describe(maps, view, arguments.num_arrows)
    output = Path(arguments.output or Path("output/attention") / Path(os.path.abspath(arguments.input)).stem)
    output.mkdir(parents=True, exist_ok=True)
    print(f"{arguments.input}: frames {', '.join(map(str, view.frames))}; {prediction(cfg, model, view.video)}")
    for index, query in enumerate(report["queries"]):
        draw(maps, index, output, arguments)
        t, y, x = (f"{value:g}" for value in query["shown"])
        print(f"{output}/query_{index}.png, .mp4: {block} from frame {t}, y {y}, x {x}")
    atomic_write(str(output / "attention.json"), lambda file: file.write(json.dumps(report, indent=1).encode()))


def draw(maps: Any, index: int, output: Path, arguments: argparse.Namespace) -> None:
    """Write the film strip and the video of one query."""
    from nlvideo.utils.file_io import atomic_write
    from nlvideo.visualization import draw_film_strip, overlay_frames, write_video

    strip = draw_film_strip(maps, index, arguments.num_arrows)
    atomic_write(str(output / f"query_{index}.png"), lambda file: strip.save(file, format="PNG", optimize=True))
    write_video(output / f"query_{index}.mp4", overlay_frames(maps, index), arguments.fps)


def prediction(cfg: Any, model: Any, video: Any) -> str:
    """What the network takes the clip for."""
    import torch

    from nlvideo.data import MetadataCatalog

    with torch.no_grad():
        scores = model([{"video": video[None], "video_id": "clip"}])[0]["scores"]
    best = int(scores.argmax())
    classes = getattr(MetadataCatalog.get(cfg.DATASETS.TEST[0]), "classes", None) if cfg.DATASETS.TEST else None
    name = classes[best] if classes and len(classes) == len(scores) else f"class {best}"
    return f"predicted: {name} ({scores[best]:.2f})"


if __name__ == "__main__":
    run_script(main, build_parser())
