"""The results file: the scores of every video of a test, to score again and to average with others. docs/testing.md."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from nlvideo.data.catalog import source_of
from nlvideo.utils.files.file_io import FileFormat, PathManager, atomic_write

_FORMAT = FileFormat("nlvideo results", 1)
# Entries of the file that have the name and the value of a field of `Results`.
_FIELDS = ("dataset", "evaluator", "num_classes", "average", "activation", "per_class")


@dataclass(frozen=True)
class VideoScores:
    """The outcome for one video."""

    video_id: str
    label: int | list[int]  #: a class index, or the indices of all classes that apply
    scores: np.ndarray | None  #: (num_classes,) float32 probabilities; None if the video could not be decoded
    views: np.ndarray | None = None  #: (num_views, num_classes) float32, what was averaged; None if it was not kept
    source: dict[str, Any] = field(default_factory=dict)  #: see ``source_of``; empty if it was not kept


@dataclass(frozen=True)
class Results:
    """A test of one dataset."""

    dataset: str
    evaluator: str  #: a name in ``EVALUATOR``
    num_classes: int
    videos: Sequence[VideoScores]
    average: str = "softmax"  #: what the scores are the mean of: "softmax" (probabilities) or "logits"
    activation: str = "softmax"  #: what makes probabilities of logits: "softmax" or "sigmoid"
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)  #: ``{task: {metric: value}}``
    #: one row per class: "class", "name", "num_videos" and the metric, which is None without a video
    per_class: list[dict[str, Any]] = field(default_factory=list)


def is_usable(video: VideoScores) -> bool:
    """Return whether a video has scores and all of them are finite."""
    return video.scores is not None and bool(np.isfinite(video.scores).all())


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Return finite logarithms: a float32 probability of 0 stands for one that float32 cannot tell from it."""
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))


def log_complements(probabilities: np.ndarray) -> np.ndarray:
    """Return finite logarithms of ``1 - p``: a float32 probability of 1 stands for one that it cannot tell from it."""
    return np.log(np.maximum(1 - probabilities, np.finfo(np.float32).epsneg / 2))


def write_results(path: str, results: Results) -> None:
    """Write a results file: JSON, with one line per video.

    Args:
        path: a local file, replaced as a whole; its folder must exist.
        results: scores and metrics that are not finite become ``null``, since JSON knows no NaN.
    """
    own = {name: getattr(results, name) for name in _FIELDS[:-1]}
    metrics = {
        task: {name: np.asarray(value).item() if np.isfinite(value) else None for name, value in of.items()}
        for task, of in results.metrics.items()
    }
    header = {**_FORMAT.header(), **own, **metrics, "per_class": results.per_class}

    def _write(file: BinaryIO) -> None:
        # Row by row, because the text of all views of a large test set is larger than their arrays.
        file.write(f'{json.dumps(header)[:-1]}, "videos": ['.encode())
        for index, video in enumerate(results.videos):
            file.write(f"{',' if index else ''}\n{json.dumps(_row(video))}".encode())
        file.write(b"\n]}\n")

    atomic_write(path, _write)


def read_results(path: str) -> Results:
    """Read a results file.

    Raises:
        ValueError: the file is not one, or is of another version; one line.
        OSError: it cannot be read.
    """
    with PathManager.open(path, "r") as file:
        content = _FORMAT.read(path, file, _compact)
    try:
        videos = [
            VideoScores(row["video_id"], row["label"], row["scores"], row.get("views"), source_of(row))
            for row in content.pop("videos")
        ]
        results = Results(videos=videos, **{name: content.pop(name) for name in _FIELDS}, metrics=content)
    except (KeyError, TypeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else "'videos' is not a list of objects"
        raise ValueError(f"{path}: not a results file: {what}") from None
    for video in videos:
        where, num_classes = f"of {video.video_id!r}: got", results.num_classes
        labels = video.label if isinstance(video.label, list) else [video.label]
        if not all(isinstance(label, int) and 0 <= label < num_classes for label in labels):
            raise ValueError(f"{path}: label {where} {video.label!r}, allowed: 0 to {num_classes - 1}")
        for name, array, dims in (("scores", video.scores, 1), ("views", video.views, 2)):
            if array is not None and (array.ndim != dims or array.shape[-1] != num_classes):
                raise ValueError(f"{path}: {name} {where} shape {array.shape}, num_classes {num_classes}")
    return results


def _row(video: VideoScores) -> dict[str, Any]:
    row: dict[str, Any] = {"video_id": video.video_id, "label": video.label, "scores": None}
    if video.scores is not None and is_usable(video):
        row["scores"] = _numbers(video.scores)
        if video.views is not None:
            row["views"] = _numbers(video.views)
    return {**row, **source_of(video.source)}


def _numbers(values: np.ndarray) -> list:
    # Nine significant digits give the same float32 when they are read. So no new ties change a metric.
    exact = values.astype(np.float64)
    with np.errstate(divide="ignore"):
        magnitude = np.floor(np.log10(np.abs(exact)))
    scale = 10.0 ** (8 - np.where(np.isfinite(magnitude), magnitude, 0))
    return (np.round(exact * scale) / scale).tolist()


def _compact(row: dict[str, Any]) -> dict[str, Any]:
    # As soon as a row is read, because Python's lists of floats take eight times the memory.
    if "video_id" in row:
        for name in ("scores", "views"):
            if row.get(name) is not None:
                row[name] = np.array(row[name], np.float32)
    return row
