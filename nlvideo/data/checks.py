"""What is checked, and logged, about a dataset before a run starts. Each error is one line."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest

import numpy as np

from nlvideo.data.catalog import MetadataCatalog, Record
from nlvideo.data.frame_folder import open_video
from nlvideo.data.video_reader import VideoDecodeError

_logger = logging.getLogger(__name__)
_NAMED = 3


def check_records(name: str, records: Sequence[Record], num_classes: int, multi_label: bool) -> None:
    """Check that a dataset is not empty, that its labels fit the model and that its files exist.

    Raises:
        ValueError: one line with the dataset, the video, the value given and what is allowed.
    """
    if len(records) == 0:
        raise ValueError(f"{name}: the dataset is empty")
    for record in records:
        labels = np.atleast_1d(record["label"]).tolist()
        if not multi_label and isinstance(record["label"], list):
            raise ValueError(
                f"{name}: {record['video_id']} has the labels {labels}, MODEL.HEAD.LOSS 'softmax' allows one;"
                " 'sigmoid' allows any number"
            )
        if not all(0 <= label < num_classes for label in labels):
            raise ValueError(
                f"{name}: {record['video_id']} has the label {record['label']},"
                f" allowed: 0 to {num_classes - 1} (MODEL.HEAD.NUM_CLASSES = {num_classes})"
            )
    num_names = len(MetadataCatalog.get(name).classes)
    if num_names > num_classes:
        raise ValueError(f"{name}: {num_names} classes are named, MODEL.HEAD.NUM_CLASSES = {num_classes}")
    check_files(name, records)


def check_files(name: str, records: Sequence[Record]) -> None:
    """Check that the video of every record exists.

    Raises:
        ValueError: how many do not, and the first few of them; or a folder of frames lacks the rate it needs.
    """
    missing = [record["file_name"] for record in records if not os.path.exists(record["file_name"])]
    if missing:
        some = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise ValueError(f"{name}: {len(missing)} of {len(records)} videos do not exist: {some}")
    for record in records:
        timed = record.keys() & {"start_sec", "end_sec", "label_spans"}
        if timed and not record.get("fps") and os.path.isdir(record["file_name"]):
            raise ValueError(
                f"{name}: {record['video_id']} is a folder of frames with {min(timed)} but without fps, allowed:"
                " frames per second above 0"
            )


def check_pair(
    train: Sequence[str], train_records: Sequence[Record], test: str, test_records: Sequence[Record], multi_label: bool
) -> None:
    """Check that what a model is tested on can have been learned: the same classes, in the same order.

    Args:
        train: names of the training datasets.
        train_records: all their records.
        test: name of the test dataset.
        test_records: its records.
        multi_label: whether videos have any number of labels. Rare classes may then occur in the test alone.

    Raises:
        ValueError: the names of the classes differ, or the test has a class that training lacks; one line.
    """
    tested = MetadataCatalog.get(test).classes
    for name in train if tested else ():
        trained = MetadataCatalog.get(name).classes
        for label, (one, other) in enumerate(zip_longest(trained, tested)) if trained else ():
            if one != other:
                raise ValueError(f"{test}: class {label} is {other!r}, but {one!r} in {name}")
    if multi_label:
        return
    known = {label for _, label in _labels(train_records)}
    for record, label in _labels(test_records):
        if label not in known:
            of = f" ({tested[label]})" if label in range(len(tested)) else ""
            lacking = f"which no video of {', '.join(train)} has"
            raise ValueError(f"{test}: {record['video_id']} has the label {label}{of}, {lacking}")


def _labels(records: Sequence[Record]) -> Iterator[tuple[Record, int]]:
    for record in records:
        for label in np.atleast_1d(record["label"]).tolist():
            yield record, label


def find_bad_videos(records: Sequence[Record], num_workers: int = 1) -> list[tuple[str, str]]:
    """Decode every file of a dataset completely.

    Args:
        records: the dataset; a file that several records share is decoded once.
        num_workers: videos decoded at once.

    Returns:
        (path, reason) of each file that cannot be decoded, in the order of the records.
    """
    paths = list(dict.fromkeys(record["file_name"] for record in records))
    # Threads do: FFmpeg decodes without holding Python's lock.
    with ThreadPoolExecutor(num_workers) as pool:
        reasons = list(pool.map(_reason_bad, paths))
    return [(path, reason) for path, reason in zip(paths, reasons) if reason is not None]


def _reason_bad(path: str) -> str | None:
    try:
        with open_video(path) as video:
            video.check()
    except VideoDecodeError as error:
        return error.reason
    return None


def fingerprint(records: Sequence[Record]) -> str:
    """Return eight hex digits that depend on the ids and labels of the records and on their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(f"{record['video_id']}\t{record['label']}\n".encode())
    return digest.hexdigest()[:8]


def log_dataset(name: str, records: Sequence[Record]) -> None:
    """Log how many videos a dataset has, how they spread over the classes, and its fingerprint."""
    counts = Counter(label for record in records for label in np.atleast_1d(record["label"]).tolist())
    spread = f"{len(counts)} classes, {min(counts.values())} to {max(counts.values())} per class"
    _logger.info("%s: %d videos, %s, fingerprint %s", name, len(records), spread, fingerprint(records))
