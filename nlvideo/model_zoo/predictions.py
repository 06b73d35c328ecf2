"""Predictions of many videos, as objects, as tables and as a JSON file."""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import torch

from nlvideo.data.video.paths import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from nlvideo.data.video.paths import find_videos as find_videos_below
from nlvideo.model_zoo.predictor import Predictor
from nlvideo.utils.console import create_table
from nlvideo.utils.files.file_io import FileFormat, atomic_write

logger = logging.getLogger(__name__)

_FORMAT = FileFormat("nlvideo predictions", 1)
_DIGITS = 6

# (start_sec, end_sec, scores (num_classes,)) of a window.
Scored = tuple[float, float, torch.Tensor]


@dataclass
class Prediction:
    """What a model says of one video.

    Attributes:
        file: the path as it was given, or the name of a camera.
        scores: float32 (num_classes,) of the whole video; None for a camera, and for a video that cannot be read.
        timeline: the windows of the video, in order.
        error: what went wrong in reading the video or in writing the labelled one; "" for no error.
    """

    file: str
    scores: torch.Tensor | None = None
    timeline: list[Scored] = field(default_factory=list)
    error: str = ""


def find_videos(path: str) -> list[str]:
    """Return a file or a folder of frames as it is, and for another folder all videos below it.

    The log says what is left out below the folder; see ``nlvideo.data.video.paths.find_videos``.

    Raises:
        FileNotFoundError: nothing has this path.
        ValueError: the folder holds no video.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"no video {path!r}: no such file or folder")
    if not os.path.isdir(path):
        return [path]
    found = find_videos_below(path)
    if found.videos:
        if text := found.describe():
            logger.warning("%s: left out: %s", path, text)
        return [str(Path(path, video)) for video in found.videos]
    if any(name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".") for name in os.listdir(path)):
        return [path]
    without = f"; left out: {text}" if (text := found.describe()) else ""
    raise ValueError(f"{path}: no videos in the folder ({', '.join(VIDEO_EXTENSIONS)}), and no frames{without}")


def merge_windows(predictor: Predictor, timeline: Iterable[Scored]) -> list[tuple[float, float, str, float]]:
    """Join neighbouring windows of the same best class.

    Returns:
        (start_sec, end_sec, class name, mean of its scores), in order. A part ends where the next one begins.
    """
    parts: list[tuple[float, float, str, list[float]]] = []
    for start, end, scores in timeline:
        ((name, score),) = predictor.best(scores, 1)
        if parts and parts[-1][2] == name:
            parts[-1] = (parts[-1][0], end, name, [*parts[-1][3], score])
            continue
        if parts:
            parts[-1] = (parts[-1][0], min(start, parts[-1][1]), *parts[-1][2:])
        parts.append((start, end, name, [score]))
    return [(start, end, name, sum(scores) / len(scores)) for start, end, name, scores in parts]


def format_predictions(predictor: Predictor, predictions: Sequence[Prediction], top_k: int) -> str:
    """Return tables: for one video its best classes and its timeline, for several videos a row for each."""
    if len(predictions) > 1:
        return create_table([_row(predictor, prediction, top_k) for prediction in predictions])
    tables = []
    for prediction in predictions:
        if prediction.scores is not None:
            best = predictor.best(prediction.scores, top_k)
            tables.append(create_table([{"class": name, "score": percent(score)} for name, score in best]))
        if prediction.timeline:
            rows = merge_windows(predictor, prediction.timeline)
            tables.append(create_table([
                {"from": clock(start), "to": clock(end), "class": name, "mean score": percent(score)}
                for start, end, name, score in rows
            ]))  # fmt: skip
        if prediction.error:
            tables.append(prediction.error)
    return "\n\n".join(tables)


def _row(predictor: Predictor, prediction: Prediction, top_k: int) -> dict[str, str]:
    if prediction.scores is None:
        return {"video": prediction.file, "1": f"failed: {prediction.error}"}
    best = predictor.best(prediction.scores, top_k)
    cells = {str(place): f"{name} {percent(score)}" for place, (name, score) in enumerate(best, start=1)}
    return {"video": prediction.file, **cells}


def percent(score: float) -> str:
    """A score from 0 to 1 as ``97.3 %``."""
    return f"{100 * score:.1f} %"


def clock(seconds: float) -> str:
    """Seconds as ``h:mm:ss.s``."""
    tenths = round(seconds * 10)
    return f"{timedelta(seconds=tenths // 10)}.{tenths % 10}"


def output_files(folder: str, root: str, videos: Sequence[str]) -> dict[str, str]:
    """Return for each video the MP4 to write: its path below ``root`` becomes a path below ``folder``.

    If the names of two videos differ only in the ending, the files are ``clip.avi.mp4`` and ``clip.mov.mp4``.
    ``root`` is the folder of the ``videos`` of `find_videos`, or the video itself.
    """
    relative = {video: os.path.relpath(video, root) if video != root else os.path.basename(video) for video in videos}
    stems = Counter(os.path.splitext(name)[0] for name in relative.values())
    for name in relative.values():
        stems[name] += 1  # clip.mov.mp4 and clip.mov must not both become clip.mov.mp4
    outputs = {}
    for video, name in relative.items():
        stem = os.path.splitext(name)[0]
        outputs[video] = os.path.join(folder, f"{name if stems[stem] > 1 else stem}.mp4")
    return outputs


def write_predictions(
    path: str, predictor: Predictor, predictions: Sequence[Prediction], top_k: int, complete: bool = True
) -> None:
    """Write all predictions to a JSON file, whole or not at all. docs/predict.md describes the file.

    Args:
        path: the file, which is replaced. Its folder must exist.
        predictor: made the predictions.
        predictions: of the videos, in order.
        top_k: how many classes are under "top", beside the scores of all.
        complete: False if the work was stopped before the last video.

    Raises:
        OSError: the folder is missing or the disk is full.
    """
    head = {**_FORMAT.header(), "complete": complete}
    head |= {"weights": predictor.cfg.MODEL.WEIGHTS, "classes": predictor.classes}

    def _write(file: BinaryIO) -> None:
        # One video at a time, because timelines may be long.
        file.write(f'{json.dumps(head)[:-1]}, "videos": [\n'.encode())
        for number, prediction in enumerate(predictions):
            file.write(f"{',' if number else ' '}{json.dumps(_as_dict(predictor, prediction, top_k))}\n".encode())
        file.write(b"]}\n")

    atomic_write(path, _write)


def _as_dict(predictor: Predictor, prediction: Prediction, top_k: int) -> dict[str, Any]:
    result: dict[str, Any] = {"file": prediction.file}
    if prediction.scores is not None:
        result |= _scores(predictor, prediction.scores, top_k)
    if prediction.timeline:
        result["timeline"] = [
            {"start_sec": round(start, _DIGITS), "end_sec": round(end, _DIGITS), **_scores(predictor, scores, top_k)}
            for start, end, scores in prediction.timeline
        ]
    return result | ({"error": prediction.error} if prediction.error else {})


def _scores(predictor: Predictor, scores: torch.Tensor, top_k: int) -> dict[str, Any]:
    best = [{"class": name, "score": round(score, _DIGITS)} for name, score in predictor.best(scores, top_k)]
    return {"top": best, "scores": [round(score, _DIGITS) for score in scores.tolist()]}
