#!/usr/bin/env python3
"""Say what a trained model sees in a video, in all videos of a folder, or in what a camera shows.

Examples:
    tools/predict.py --model quickstart clip.mp4
    tools/predict.py --model i3d_nonlocal_32x2_IN_pretrain_400k clip.mp4 --device cuda
    tools/predict.py --model output/mine videos --json predictions.json
    tools/predict.py --config-file F.yaml --weights W.pth long.mp4 --output labelled --window-sec 2
    tools/predict.py --model quickstart 0 --output labelled TEST.NUM_CLIPS 1
"""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nlvideo.engine.script import (
    ScriptParser,
    add_input_argument,
    add_model_arguments,
    chosen_model,
    one_line,
    run_script,
    traceback_to_show,
)  # fmt: skip

if TYPE_CHECKING:
    from torch import Tensor

    from nlvideo.data import FrameStream, Window
    from nlvideo.model_zoo import Predictor
    from nlvideo.model_zoo.predictions import Prediction


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ScriptParser(
        description=__doc__,
        epilog="The views of a video are those of a test (TEST.NUM_CLIPS x TEST.NUM_CROPS). Exit code 1: some videos "
        "of a folder failed. docs/predict.md describes the JSON file.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_input_argument(parser, "a video, a folder, or the number of a camera")
    add_model_arguments(parser)
    parser.add_argument("--output", metavar="DIR", help="write each video with its labels, window by window, as MP4")
    parser.add_argument("--overwrite", action="store_true", help="replace videos that are in --output already")
    parser.add_argument("--json", metavar="OUT", help="write all scores of all classes to this file")
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="classes to show (default: 5)")
    parser.add_argument(
        "--window-sec", type=float, metavar="S",
        help="score windows of this length (default with --output, --stride-sec and of cameras: what a clip covers)",
    )  # fmt: skip
    parser.add_argument("--stride-sec", type=float, metavar="S", help="between their starts (default: the length)")
    return parser


def main(args: argparse.Namespace) -> None:
    """Predict, print the tables and write the files."""
    # Only now: --help answers without loading torch.
    from nlvideo.data.video.frame_stream import check_windows
    from nlvideo.model_zoo import Predictor
    from nlvideo.model_zoo.predictions import find_videos, format_predictions, write_predictions

    check_arguments(args)
    if args.window_sec is not None:
        check_windows(args.window_sec, args.window_sec if args.stride_sec is None else args.stride_sec)
    is_camera = args.input.isdigit() and not os.path.exists(args.input)
    videos = [f"camera{args.input}"] if is_camera else find_videos(args.input)
    outputs = plan_outputs(args, videos)
    predictor = Predictor(**chosen_model(args))
    predictions: list[Prediction] = []
    complete = False
    # A scheduler stops a program with SIGTERM: it ends like Ctrl-C.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        predict = watch_camera if is_camera else predict_folder if len(videos) > 1 else predict_video
        predict(args, predictor, videos, outputs, predictions)
        complete = True
    finally:
        signal.signal(signal.SIGTERM, before)
        # A user who stops after hours keeps what is done.
        if args.json and predictions:
            write_predictions(args.json, predictor, predictions, args.top_k, complete)
    print(format_predictions(predictor, predictions, args.top_k))
    num_failed = sum(bool(prediction.error) for prediction in predictions)
    if num_failed:
        print(f"{num_failed} of {len(videos)} videos failed", file=sys.stderr)
        sys.exit(1)


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse arguments that would fail only after the work.

    Raises:
        ValueError: which argument, and what is allowed.
    """
    if args.top_k < 1:
        raise ValueError(f"--top-k: got {args.top_k}, allowed: 1 or more")
    if args.output and os.path.isfile(args.output):
        raise ValueError(f"--output: got {args.output!r}, a file, allowed: a folder")
    if args.json and os.path.isdir(args.json):
        raise ValueError(f"--json: got {args.json!r}, a folder, allowed: a file")
    folder = os.path.dirname(os.path.abspath(args.json)) if args.json else "."
    if not os.path.isdir(folder):
        raise ValueError(f"--json: got {args.json!r}, but there is no folder {folder}")


def plan_outputs(args: argparse.Namespace, videos: Sequence[str]) -> dict[str, str]:
    """Return the file to write for each video, none without --output, and make the folders.

    Raises:
        ValueError: a file is there already.
    """
    from nlvideo.model_zoo.predictions import output_files

    if not args.output:
        return {}
    outputs = output_files(args.output, args.input if os.path.isdir(args.input) else videos[0], videos)
    originals = {os.path.realpath(video) for video in videos}
    for path in outputs.values():
        if os.path.realpath(path) in originals:
            raise ValueError(f"--output: {path} is one of the videos to read; name another folder")
        if os.path.exists(path) and not args.overwrite:
            raise ValueError(f"--output: {path} exists; --overwrite replaces it")
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    return outputs


def predict_video(
    args: argparse.Namespace, predictor: "Predictor", videos: Sequence[str], outputs: dict[str, str],
    predictions: list["Prediction"],
) -> None:  # fmt: skip
    """Predict one video; its views move a progress bar, and then its windows."""
    from nlvideo.utils.console import progress_bar

    def count(done: int, total: int) -> None:
        views.total = total
        views.update(done - views.n)

    # The length is known with the first window.
    form = "{l_bar}{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
    views = progress_bar(total=0, unit="view", delay=2, leave=False)
    with views, progress_bar(total=0, unit="s", bar_format=form) as bar:

        def move(stream: "FrameStream", window: "Window", scores: "Tensor") -> None:
            bar.total = max(stream.duration_sec, window.end_sec)
            bar.update(window.end_sec - bar.n)

        scores = predictor.scores(videos[0], count)
        predict_file(args, predictor, videos[0], scores, outputs.get(videos[0]), predictions, move)


def predict_folder(
    args: argparse.Namespace, predictor: "Predictor", videos: Sequence[str], outputs: dict[str, str],
    predictions: list["Prediction"],
) -> None:  # fmt: skip
    """Predict all videos; an error of one is reported, and the others go on."""
    from tqdm import tqdm

    from nlvideo.model_zoo.predictions import Prediction
    from nlvideo.utils.console import printable, progress_bar

    for path, scores in zip(progress_bar(videos, unit="video"), predictor.scores_of_each(videos), strict=True):
        try:
            if isinstance(scores, Exception):
                raise scores
            predict_file(args, predictor, path, scores, outputs.get(path), predictions)
        except Exception as error:
            if not (predictions and predictions[-1].file == path):
                predictions.append(Prediction(path))
            predictions[-1].error = getattr(error, "reason", None) or one_line(error)
            tqdm.write(printable(f"{traceback_to_show(error)}{path}: {predictions[-1].error}"), file=sys.stderr)


def predict_file(
    args: argparse.Namespace, predictor: "Predictor", path: str, scores: "Tensor", output: str | None,
    predictions: list["Prediction"], on_window: Callable | None = None,
) -> None:  # fmt: skip
    """Note the scores of a whole video and, where asked for, predict its windows; Ctrl-C keeps those that are done."""
    from nlvideo.data import VideoDecodeError
    from nlvideo.model_zoo.predictions import Prediction

    prediction = Prediction(path, scores)
    predictions.append(prediction)
    if output or args.window_sec is not None or args.stride_sec is not None:
        try:
            with predictor.open_stream(path) as stream:
                follow(args, predictor, stream, output, prediction, on_window)
        except VideoDecodeError:  # a video that cannot be read to its end has no prediction
            predictions.remove(prediction)
            raise


def watch_camera(
    args: argparse.Namespace, predictor: "Predictor", videos: Sequence[str], outputs: dict[str, str],
    predictions: list["Prediction"],
) -> None:  # fmt: skip
    """Print a line for each window of a camera until Ctrl-C."""
    from nlvideo.data import open_camera
    from nlvideo.model_zoo.predictions import Prediction, clock, percent

    def show(stream: "FrameStream", window: "Window", scores: "Tensor") -> None:
        best = "  ".join(f"{name} {percent(score)}" for name, score in predictor.best(scores, args.top_k))
        print(f"{clock(window.start_sec)}  {best}", flush=True)

    predictions.append(Prediction(videos[0]))
    with open_camera(int(args.input)) as stream, contextlib.suppress(KeyboardInterrupt):
        follow(args, predictor, stream, outputs.get(videos[0]), predictions[0], show, is_live=True)


def follow(
    args: argparse.Namespace, predictor: "Predictor", stream: "FrameStream", output: str | None,
    prediction: "Prediction", on_window: Callable | None, is_live: bool = False,
) -> None:  # fmt: skip
    """Score the windows of a stream as they come, and write its frames with their labels where asked to."""
    from nlvideo.visualization.video_file import LabelledVideo

    with LabelledVideo(output, stream.fps, is_live) if output else contextlib.nullcontext() as video:
        for window, scores in predictor.score_windows(stream, args.window_sec, args.stride_sec):
            prediction.timeline.append((window.start_sec, window.end_sec, scores))
            if video is not None:
                video.write_window(window, predictor.best(scores))
            if on_window is not None:
                on_window(stream, window, scores)


if __name__ == "__main__":
    run_script(main, build_parser())
