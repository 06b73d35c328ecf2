"""Checks of the datasets of a run before it starts, and lines about them in the log. Each error is one line.

A run also warns of videos that two datasets share: a test on what was trained on says little.
"""

import functools
import hashlib
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

import numpy as np

from nlvideo.data.catalog import MetadataCatalog, Record
from nlvideo.data.datasets.folder import folder_classes
from nlvideo.data.datasets.kinetics_names import kinetics400_classes
from nlvideo.data.datasets.listed import classes_beside
from nlvideo.data.many_files import look_at_files
from nlvideo.data.records.records import id_hashes, labels_of, span_labels_of
from nlvideo.data.video.paths import split_member_path
from nlvideo.errors import LookupFailed
from nlvideo.utils.console import log_once
from nlvideo.utils.files.file_io import absolute_path, file_exists, is_remote, missing_files
from nlvideo.utils.messages import some

_logger = logging.getLogger(__name__)
# Up to MAX_ALL_CHECKED videos, such as those of Kinetics-400, a run looks for every file. Of a larger dataset it looks
# for NUM_CHECKED files, evenly spread.
MAX_ALL_CHECKED, NUM_CHECKED = 300_000, 50_000
# Of two large datasets, MAX_COMPARED records each are compared, evenly spread, and as many whose id is among _MAX_IDS
# ids of the other dataset.
MAX_COMPARED, _MAX_IDS = 5_000, 100_000
# How many files of equal size are opened at most, and the size of what is read at the start, middle and end of each.
_MAX_READ, _PART_BYTES = 2_000, 1 << 14


def check_records(
    name: str,
    records: Sequence[Record],
    num_classes: int,
    multi_label: bool,
    by_time: bool = False,
    spans_count: bool = False,
) -> int:
    """Check that a dataset is not empty, that its labels fit the model and that its files exist.

    Args:
        name: of the dataset.
        records: all of it.
        num_classes: of the model; 0: as many as the dataset has.
        multi_label: videos may have several labels.
        by_time: see ``check_files``.
        spans_count: the labels in ``label_spans`` will do where no video has another, as in training.

    Returns:
        The number of classes of the dataset: those it names, or more where a label is above.

    Raises:
        ValueError: one line with the dataset, the video, the value given and what is allowed.
    """
    if len(records) == 0:
        raise ValueError(f"{name}: the dataset is empty, allowed: at least one video")
    with key_named(name):
        labels, spans = labels_of(records), span_labels_of(records)
    takes = "MODEL.HEAD.LOSS 'softmax' allows one label; 'sigmoid' allows any number"
    if not multi_label and labels.any_lists:
        index = int(np.argmax(labels.are_lists))
        raise ValueError(f"{name}: {records[index]['video_id']} has the labels {labels[index]}, {takes}")
    if not multi_label and spans is not None:
        raise ValueError(f"{name}: has label_spans, whose clips have any number of labels, {takes}")
    if len(labels.values) == 0 and not (spans_count and spans is not None and len(spans.values)):
        raise ValueError(f"{name}: no video has a label, allowed: at least one")
    metadata = MetadataCatalog.get(name)
    found = len(metadata.classes)
    for what, column in (("the label", labels), ("label_spans with the label", spans)):
        if column is None or not len(column.values):
            continue
        found = max(found, int(column.values.max()) + 1)
        wrong = (column.values < 0) | (column.values >= (num_classes or found))
        if wrong.any():
            place = int(np.argmax(wrong))
            video = records[int(column.owners[place])]["video_id"]
            most = f"to {num_classes - 1} (MODEL.HEAD.NUM_CLASSES = {num_classes})" if num_classes else "or more"
            raise ValueError(f"{name}: {video} has {what} {column.values[place]}, allowed: 0 {most}")
    if len(metadata.classes) > (num_classes or found):
        named = "named" + (f" by {metadata.classes_from}" if metadata.classes_from else "")
        total = len(metadata.classes)
        raise ValueError(f"{name}: {total} classes are {named}, but MODEL.HEAD.NUM_CLASSES is {num_classes}")
    check_files(name, records, by_time)
    return found


@contextmanager
def key_named(key: str) -> Iterator[None]:
    """Put a key, or the name of a dataset, in front of a ``ValueError`` or ``LookupFailed`` in what it names."""
    try:
        yield
    except (ValueError, LookupFailed) as error:
        # Not type(error): some classes, such as UnicodeError, take other arguments.
        kind = LookupFailed if isinstance(error, LookupFailed) else ValueError
        raise kind(f"{key}: {error}") from None


def check_files(name: str, records: Sequence[Record], by_time: bool = False) -> None:
    """Check that the video of each record exists; in a very large dataset, of every n-th record.

    Raises:
        ValueError: how many do not, and the first few of them; or a folder of frames lacks the rate it needs.
    """
    step = 1 if len(records) <= MAX_ALL_CHECKED else -(-len(records) // NUM_CHECKED)
    indices = range(0, len(records), step)
    if step > 1:
        _logger.info("%s: looking for %d of the %d videos, every %d.", name, len(indices), len(records), step)
    look = functools.partial(_missing_file, name, records, by_time)
    missing = missing_files([path for path in look_at_files(look, indices, f"{name}: files") if path is not None])
    if missing:
        of = f"{len(indices)} videos" if step == 1 else f"{len(indices)} videos looked for (there are {len(records)})"
        raise ValueError(f"{name}: {len(missing)} of {of} do not exist: {some(missing)}")


def _missing_file(name: str, records: Sequence[Record], by_time: bool, index: int) -> str | None:
    """The path of a record's file if it does not exist, or is remote."""
    record = records[index]
    member = split_member_path(record["file_name"])
    path = record["file_name"] if member is None else member[0]
    timed = (record.keys() & {"start_sec", "end_sec", "label_spans"}) or ({"INPUT.FPS"} if by_time else set())
    if timed and not record.get("fps") and os.path.isdir(path):
        what = f"{record['video_id']} is a folder of frames with {min(timed)} but without fps"
        raise ValueError(f"{name}: {what}, allowed: frames per second above 0")
    return path if is_remote(path) or not file_exists(path) else None


def check_pair(
    train: Sequence[str], train_records: Sequence[Record], test: str, test_records: Sequence[Record], multi_label: bool
) -> None:
    """Check that training can teach what the test asks for: the same classes, in the same order.

    If videos may have several labels, rare classes may be in the test alone.

    Raises:
        ValueError: the names of the classes differ, or the test has a class that training lacks; one line.
    """
    tested = MetadataCatalog.get(test).classes
    for name in train:
        check_same_classes(name, MetadataCatalog.get(name).classes, test)
    if multi_label:
        return
    with key_named(test):
        labels = labels_of(test_records)
    lacking = ~np.isin(labels.values, labels_of(train_records).values)
    if lacking.any():
        place = int(np.argmax(lacking))
        label, video = int(labels.values[place]), test_records[int(labels.owners[place])]["video_id"]
        of = f" ({tested[label]})" if label in range(len(tested)) else ""
        raise ValueError(f"{test}: {video} has the label {label}{of}, which no video of {', '.join(train)} has")


def dataset_classes(names: Sequence[str]) -> list[str]:
    """Return the class names of the first dataset that names its classes; an empty list if none does.

    This reads no video and no list of videos. Of a dataset that has not been read yet, the names are in the file
    beside ``list:FILE``, are the folders in ``folder:DIR``, or are known, as those of Kinetics-400.
    """
    return next(filter(None, map(_classes_of, names)), [])


def _classes_of(name: str) -> list[str]:
    kind, _, place = name.partition(":")
    if noted := MetadataCatalog.get(name).classes:
        return noted
    if kind == "list":
        return classes_beside(absolute_path(place))[0]
    if kind == "folder":
        return folder_classes(Path(absolute_path(place)))
    return list(kinetics400_classes()) if name in ("kinetics400_train", "kinetics400_val") else []


def common_classes(names: Sequence[str]) -> list[str]:
    """Return the class names of datasets that have been read, which must be the same where a dataset has any.

    Raises:
        ValueError: see ``check_same_classes``.
    """
    named = [(name, classes) for name in names if (classes := MetadataCatalog.get(name).classes)]
    for name, _ in named[1:]:
        check_same_classes(*named[0], name)
    return named[0][1] if named else []


def check_same_classes(one: str, classes: Sequence[str], other: str) -> None:
    """Check that a dataset has the same class names as another dataset or a model. Either may have no names.

    "air drumming", ``"Air drumming"`` in quotes and "air_drumming", the name of a folder, are the same.

    Args:
        one: who names the ``classes``, for the message.
        classes: names, in the order of the labels.
        other: a dataset that has been read.

    Raises:
        ValueError: the first class that differs, and what names it; one line.
    """
    metadata = MetadataCatalog.get(other)
    for label, (first, second) in enumerate(zip_longest(classes, metadata.classes)):
        if not classes or not metadata.classes or first == second or _spelt(first) == _spelt(second):
            continue
        named = f" (named by {metadata.classes_from})" if metadata.classes_from else ""
        is_list = other.startswith("list:")
        hint = "; a classes.txt beside the list, one name a line, gives it the same" if is_list else ""
        lacks = "" if second in classes else f", which lacks {second!r}"
        found = f"class {label} is {second!r}{named}, but {first!r} in {one}{lacks}"
        if first is None:
            found = f"class {label} is {second!r}{named}, and {one} has no class {label}"
        if second is None:
            found = f"there is no class {label}{named}, but class {label} in {one} is {first!r}"
        raise ValueError(f"{other}: {found}{hint}")


def _spelt(name: str | None) -> str | None:
    return name and " ".join(name.lower().replace("_", " ").replace('"', "").split())


def fingerprint(records: Sequence[Record]) -> str:
    """Return eight hex digits that depend on the ids and labels of the records and on their order."""
    labels = labels_of(records)
    digest = hashlib.sha256()
    for column in (id_hashes(records), labels.values, labels.counts, labels.are_lists):
        digest.update(np.ascontiguousarray(column, column.dtype.newbyteorder("<")).data)
    return digest.hexdigest()[:8]


def log_dataset(name: str, records: Sequence[Record]) -> None:
    """Log how many videos a dataset has, how they spread over the classes, and its fingerprint."""
    _, counts = np.unique(labels_of(records).values, return_counts=True)
    spread = f"{len(counts)} classes, {min(counts)} to {max(counts)} per class" if len(counts) else "no labels"
    _logger.info("%s: %d videos, %s, fingerprint %s", name, len(records), spread, fingerprint(records))


def warn_of_shared_videos(
    train: Sequence[str], train_records: Sequence[Record], test: str, test_records: Sequence[Record]
) -> None:
    """Log, once, how many videos of a test are in the training data, too, or are parts of files that are."""
    pairs, compared = find_shared_videos(train_records, test_records)
    if pairs:
        trained, tested = pairs[0]
        of_another_name = f", which is {trained}" if trained != tested else ""
        log_once(
            f"{test}: {len(pairs)} of {compared} videos are in the training data ({', '.join(train)}), too, whole or in"
            f" part, such as {tested}{of_another_name}: results on them say little about new videos"
        )


def find_shared_videos(one: Sequence[Record], other: Sequence[Record]) -> tuple[list[tuple[str, str]], int]:
    """Return the videos that are in both datasets: the same file, perhaps under two names, or a copy of it.

    Two parts of one file count as shared. Remote files are left out. Copies have the same size and the same hash of
    their start, middle and end. Of folders of frames, only the same folder counts.

    Returns:
        (file of one, file of the other) for each shared video, and how many videos of the other were looked at.
    """
    if not len(one) or not len(other):
        return [], 0
    ids, other_ids = id_hashes(one), id_hashes(other)
    files, files_of_other = _distinct_files(one, ids, other_ids), _distinct_files(other, other_ids, ids)
    facts, facts_of_other = (
        [found for found in look_at_files(_look_at, paths, "shared videos") if found]
        for paths in (files, files_of_other)
    )
    known = {identity: path for path, identity, _ in facts}
    pairs = [(known[identity], path) for path, identity, _ in facts_of_other if identity in known]
    sizes = {size for _, _, size in facts if size}
    others = [(path, size) for path, identity, size in facts_of_other if size in sizes and identity not in known]
    sizes = {size for _, size in others[:_MAX_READ]}
    originals = {key: path for path, key in _hashes([(path, size) for path, _, size in facts if size in sizes])}
    pairs += [(originals[key], path) for path, key in _hashes(others) if key in originals]
    return pairs, len(files_of_other)


def _hashes(files: Sequence[tuple[str, int]]) -> list[tuple[str, bytes]]:
    """The paths of the files of (path, size) that can be read, and a hash of parts of each."""
    return [found for found in look_at_files(_hash_of, files[:_MAX_READ], "shared videos") if found]


def _distinct_files(records: Sequence[Record], ids: np.ndarray, others: np.ndarray) -> list[str]:
    picked: Iterable[int] = range(len(records))
    if len(records) > MAX_COMPARED:
        spread = np.linspace(0, len(records) - 1, MAX_COMPARED).astype(np.int64)
        # isin would sort all ids of both.
        some = np.sort(others[:: -(-len(others) // _MAX_IDS)])
        places = np.minimum(np.searchsorted(some, ids), len(some) - 1)
        picked = np.union1d(spread, np.flatnonzero(some[places] == ids)[:MAX_COMPARED]).tolist()
    return list(dict.fromkeys(records[index]["file_name"] for index in picked))


def _look_at(path: str) -> tuple[str, tuple[int, int, int], int] | None:
    """A path; its device, inode and offset in a shard; its size in bytes, 0 for a folder. None without access to it."""
    file, offset, size = split_member_path(path) or (path, 0, None)
    try:
        status = os.stat(file)
    except OSError:  # also for a remote path
        return None
    size = status.st_size if size is None else size
    return path, (status.st_dev, status.st_ino, offset), size if stat.S_ISREG(status.st_mode) else 0


def _hash_of(item: tuple[str, int]) -> tuple[str, bytes] | None:
    path, size = item
    file, offset, _ = split_member_path(path) or (path, 0, 0)
    digest = hashlib.blake2b(size.to_bytes(8, "big"))
    try:
        with open(file, "rb") as opened:
            for place in (0, size // 2, max(0, size - _PART_BYTES)):
                opened.seek(offset + place)
                digest.update(opened.read(min(_PART_BYTES, size - place)))
    except OSError:
        return None
    return path, digest.digest()
