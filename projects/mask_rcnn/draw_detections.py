#!/usr/bin/env python3
"""Draw what a detector finds in an image or in a video, and with --attention where its best detection attends.

OUTPUT/NAME.png shows boxes, masks and skeletons of an image, OUTPUT/NAME.mp4 those of a video, frame by frame. With
--attention, OUTPUT/NAME_attention.png has arrows from the middle of the best box to the places of the highest weights.

Example:
    python projects/mask_rcnn/draw_detections.py --config-file output/config.yaml image.jpg \\
        --weights output/model_final.pth --attention
"""

import argparse
from pathlib import Path
from typing import Any

from nlvideo.engine.script import ScriptParser, add_config_arguments, run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="an image or a video")
    parser.add_argument("--config-file", metavar="FILE", required=True, help="YAML of the model")
    parser.add_argument("--weights", metavar="W", help="checkpoint (default: MODEL.WEIGHTS)")
    parser.add_argument("--threshold", type=float, default=0.5, metavar="S", help="least score (default: 0.5)")
    parser.add_argument("--attention", action="store_true", help="of an image: draw where the best detection attends")
    parser.add_argument("--block", metavar="NAME", help="of --attention, such as layer3.4 (default: the first)")
    parser.add_argument("--output", default="output/detections", metavar="DIR", help="folder (default: %(default)s)")
    add_config_arguments(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Draw, and print the detections of an image."""
    # Only now: --help answers without loading torch.
    from nlvideo.checkpoint.trained import load_trained_model
    from nlvideo.config import load_cfg
    from nlvideo.data.video.paths import IMAGE_EXTENSIONS

    cfg = load_cfg(arguments.config_file, arguments.opts, arguments.plugin)
    model, classes = load_trained_model(cfg, arguments.weights or cfg.MODEL.WEIGHTS)
    source, folder = Path(arguments.input), Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    if source.suffix.lower() in IMAGE_EXTENSIONS:
        draw_image(model, classes, source, folder, arguments)
    elif arguments.attention:
        raise ValueError(f"--attention: got a video, {arguments.input!r}, allowed: an image")
    else:
        draw_video(model, classes, source, folder / f"{source.stem}.mp4", arguments.threshold)


def draw_image(model: Any, classes: list[str], source: Path, folder: Path, arguments: argparse.Namespace) -> None:
    """Write the picture of an image and, where asked to, that of the attention."""
    from nonlocal_rcnn.drawing import attention_in_box, detect, draw_detections
    from nonlocal_rcnn.mapper import read_image

    from nlvideo.visualization import draw_film_strip

    image = read_image(str(source))
    found = detect(model, image, arguments.threshold)
    draw_detections(image, found, classes).save(folder / f"{source.stem}.png")
    for label, score, box in zip(*(found[key].tolist() for key in ("labels", "scores", "boxes")), strict=True):
        print(f"{classes[label - 1]} {score:.3f} at {', '.join(f'{value:.1f}' for value in box)}")
    print(f"{len(found['boxes'])} detections: {folder / source.stem}.png")
    if arguments.attention:
        if not len(found["boxes"]):
            raise ValueError(f"--attention: no detection has a score of {arguments.threshold:g}, see --threshold")
        maps = attention_in_box(model, image, found["boxes"][0].tolist(), arguments.block)
        draw_film_strip(maps, 0).save(folder / f"{source.stem}_attention.png")
        print(f"{folder / source.stem}_attention.png: {maps.block}")


def draw_video(model: Any, classes: list[str], source: Path, target: Path, threshold: float) -> None:
    """Write a video with the detections of each frame, which are made one by one."""
    import numpy as np
    import torch
    from nonlocal_rcnn.drawing import detect, draw_detections

    from nlvideo.data import open_video
    from nlvideo.utils.files.file_io import atomic_write
    from nlvideo.visualization.video_file import encode_video

    with open_video(str(source)) as video:

        def _frames() -> Any:
            for index in range(video.num_frames):
                image = torch.from_numpy(video.get_frames([index])[0]).permute(2, 0, 1)
                yield np.array(draw_detections(image, detect(model, image, threshold), classes))

        atomic_write(str(target), lambda file: encode_video(file, _frames(), video.fps, crf=16))
        print(f"{video.num_frames} frames: {target}")


if __name__ == "__main__":
    run_script(main, build_parser())
