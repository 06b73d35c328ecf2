"""What is checked, and logged, about a dataset before a run starts. Each error is one line."""

import functools
import hashlib
import logging
import os
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from nlvideo.data.catalog import MetadataCatalog, Record
from nlvideo.data.many_files import look_at_files
from nlvideo.data.records.records import id_hashes, labels_of, span_labels_of
from nlvideo.data.video.paths import split_member_path
from nlvideo.utils.files.file_io import file_exists
from nlvideo.utils.messages import some

_logger = logging.getLogger(__name__)
# Of a dataset as large as Kinetics-400 every file is looked for, of a larger one so many, evenly spread.
MAX_ALL_CHECKED, NUM_CHECKED = 300_000, 50_000


def check_records(name: str, records: Sequence[Record], num_classes: int, multi_label: bool) -> None:
    """Check that a dataset is not empty, that its labels fit the model and that its files exist.

    Raises:
        ValueError: one line with the dataset, the video, the value given and what is allowed.
    """
    if len(records) == 0:
        raise ValueError(f"{name}: the dataset is empty, allowed: at least one video")
    try:
        labels, spans = labels_of(records), span_labels_of(records)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    takes = "MODEL.HEAD.LOSS 'softmax' allows one label; 'sigmoid' allows any number"
    if not multi_label and labels.any_lists:
        index = int(np.argmax(labels.are_lists))
        raise ValueError(f"{name}: {records[index]['video_id']} has the labels {labels[index]}, {takes}")
    if not multi_label and spans is not None:
        raise ValueError(f"{name}: has label_spans, whose clips have any number of labels, {takes}")
    if len(labels.values) == 0:
        raise ValueError(f"{name}: no video has a label, allowed: at least one")
    for what, column in (("the label", labels), ("label_spans with the label", spans)):
        wrong = (column.values < 0) | (column.values >= num_classes) if column is not None else np.zeros(0)
        if wrong.any():
            place = int(np.argmax(wrong))
            video = records[int(column.owners[place])]["video_id"]
            raise ValueError(
                f"{name}: {video} has {what} {column.values[place]}, allowed: 0 to {num_classes - 1}"
                f" (MODEL.HEAD.NUM_CLASSES = {num_classes})"
            )
    metadata = MetadataCatalog.get(name)
    if len(metadata.classes) > num_classes:
        named = f"{len(metadata.classes)} classes are named"
        named += f" by {metadata.classes_from}" if metadata.classes_from else ""
        raise ValueError(f"{name}: {named}, MODEL.HEAD.NUM_CLASSES = {num_classes}")
    check_files(name, records)


def check_files(name: str, records: Sequence[Record]) -> None:
    """Check that the video of every record exists; of very many records, that of every so many.

    Raises:
        ValueError: how many do not, and the first few of them; or a folder of frames lacks the rate it needs.
    """
    step = 1 if len(records) <= MAX_ALL_CHECKED else -(-len(records) // NUM_CHECKED)
    indices = range(0, len(records), step)
    if step > 1:
        _logger.info("%s: looking for %d of the %d videos, every %d.", name, len(indices), len(records), step)
    look = functools.partial(_missing_file, name, records)
    missing = [path for path in look_at_files(look, indices, f"{name}: files") if path is not None]
    if missing:
        of = f"{len(indices)} videos" if step == 1 else f"{len(indices)} videos looked for (there are {len(records)})"
        raise ValueError(f"{name}: {len(missing)} of {of} do not exist: {some(missing)}")


def _missing_file(name: str, records: Sequence[Record], index: int) -> str | None:
    """The path of a record's file where there is none."""
    record = records[index]
    member = split_member_path(record["file_name"])
    path = record["file_name"] if member is None else member[0]
    timed = record.keys() & {"start_sec", "end_sec", "label_spans"}
    if timed and not record.get("fps") and os.path.isdir(path):
        raise ValueError(
            f"{name}: {record['video_id']} is a folder of frames with {min(timed)} but without fps, allowed:"
            " frames per second above 0"
        )
    return None if file_exists(path) else path


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
    for name in train:
        check_same_classes(name, MetadataCatalog.get(name).classes, test)
    if multi_label:
        return
    labels = labels_of(test_records)
    lacking = ~np.isin(labels.values, labels_of(train_records).values)
    if lacking.any():
        index = int(labels.owners[np.argmax(lacking)])
        label = int(labels.values[np.argmax(lacking)])
        of = f" ({tested[label]})" if label in range(len(tested)) else ""
        video = test_records[index]["video_id"]
        raise ValueError(f"{test}: {video} has the label {label}{of}, which no video of {', '.join(train)} has")


def check_same_classes(one: str, classes: Sequence[str], other: str) -> None:
    """Check that a dataset names its classes as another one, or a model, does; where either has no names it may be so.

    Args:
        one: who names the classes first, for the message.
        classes: their names, in the order of the labels.
        other: a dataset that has been read.

    Raises:
        ValueError: the first class that differs, and what names it; one line.
    """
    metadata = MetadataCatalog.get(other)
    for label, (first, second) in enumerate(zip_longest(classes, metadata.classes)):
        if not classes or not metadata.classes or first == second:
            continue
        named = f" (named by {metadata.classes_from})" if metadata.classes_from else ""
        hint = (
            "; a classes.txt beside the list, one name a line, gives it the same" if other.startswith("list:") else ""
        )
        raise ValueError(f"{other}: class {label} is {second!r}{named}, but {first!r} in {one}{hint}")


def fingerprint(records: Sequence[Record]) -> str:
    """Return eight hex digits that depend on the ids and labels of the records and on their order."""
    labels = labels_of(records)
    digest = hashlib.sha256()
    for column in (id_hashes(records), labels.values, labels.counts, labels.are_lists):
        digest.update(np.ascontiguousarray(column, column.dtype.newbyteorder("<")))
    return digest.hexdigest()[:8]


def log_dataset(name: str, records: Sequence[Record]) -> None:
    """Log how many videos a dataset has, how they spread over the classes, and its fingerprint."""
    _, counts = np.unique(labels_of(records).values, return_counts=True)
    spread = f"{len(counts)} classes, {min(counts)} to {max(counts)} per class" if len(counts) else "no labels"
    _logger.info("%s: %d videos, %s, fingerprint %s", name, len(records), spread, fingerprint(records))
