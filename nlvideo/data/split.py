"""Splits training data into training and validation: a share of each class, in lists in the folder of the run."""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np

from nlvideo.data.catalog import Record
from nlvideo.data.checks import common_classes, key_named
from nlvideo.data.datasets import get_dataset
from nlvideo.data.datasets.list_files import format_list
from nlvideo.data.datasets.listed import CLASSES_FILE, list_column, write_classes
from nlvideo.data.records.records import chain_records, labels_of
from nlvideo.utils.files.file_io import write_text
from nlvideo.utils.messages import some

_logger = logging.getLogger(__name__)


def split_datasets(names: Sequence[str], fraction: float, seed: int, group: str, root: Path) -> tuple[str, str]:
    """Split datasets into training and validation, and write both as lists with the names of the classes.

    The lists are ``split/train.csv`` and ``split/val.csv`` in ``root``. If ``split`` has another split, which an
    earlier run may need, the folder is ``split_2``, and so on. The log says how many videos each list has, and which
    classes missed the fraction.

    Args:
        names: of the datasets. They are split as one.
        fraction, seed: see ``choose_validation``.
        group: a column of csv lists, or a key of the records of other datasets; one group stays on one side. "": none.
        root: absolute path of the folder of the run.

    Returns:
        The names of both lists, ``list:FILE``.

    Raises:
        LookupFailed: an unknown dataset.
        ValueError: a dataset is faulty, is made of shards, has no such column, or leaves nothing for validation.
        OSError: a file cannot be written.
    """
    if shards := [name for name in names if name.startswith("wds:")]:
        raise ValueError(f"DATASETS.SPLIT.FRACTION: got {fraction:g} for {shards[0]}, allowed for shards: 0")
    with key_named("DATASETS.TRAIN"):
        parts = [get_dataset(name) for name in names]
        classes = common_classes(names)
    with key_named("DATASETS.SPLIT.GROUP"):
        groups = [value for name, part in zip(names, parts, strict=True) for value in _groups_of(name, part, group)]
    records = chain_records(parts)
    is_val, notes = choose_validation(records, fraction, seed, groups, classes)
    sides = {"train": np.flatnonzero(~is_val), "val": np.flatnonzero(is_val)}
    folder = root / "split"
    texts = {f"{side}.csv": format_list([records[i] for i in found.tolist()], folder) for side, found in sides.items()}
    for number in count(2):
        there = [folder / name for name in texts if (folder / name).is_file()]
        if all(path.read_text(encoding="utf8", errors="surrogateescape") == texts[path.name] for path in there):
            break
        folder = root / f"split_{number}"
    folder.mkdir(parents=True, exist_ok=True)
    if classes:
        write_classes(folder / CLASSES_FILE, classes)
    for name, text in texts.items():
        write_text(folder / name, text)
    counts = ", ".join(f"{len(found)} in {folder}/{side}.csv" for side, found in sides.items())
    _logger.info("Split %s: %s (DATASETS.SPLIT.FRACTION %g, SEED %d)", some(names), counts, fraction, seed)
    for note in notes:
        _logger.warning("DATASETS.SPLIT: %s", note)
    return f"list:{folder}/train.csv", f"list:{folder}/val.csv"


def choose_validation(
    records: Sequence[Record],
    fraction: float,
    seed: int,
    groups: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> tuple[np.ndarray, list[str]]:
    """Choose about ``fraction`` of each class for validation.

    Every class keeps a video for training, and gets one for validation if its files and groups allow it. Records of
    one file or group stay together. Those without a label are for training. The order of the records does not matter.

    Args:
        records: the videos, with one label or several.
        fraction: in (0, 1).
        seed: any.
        groups: the name of each record's group, "" for none. Empty: there are no groups.
        classes: names, for the notes.

    Returns:
        Whether each record is for validation, bool (N,); and a line for each reason why classes missed the fraction.

    Raises:
        ValueError: no video can go to validation.
    """
    labels, units = labels_of(records), _units(records, seed, groups)
    counts = Counter(labels.values.tolist())
    # At least one for validation, and one is left for training.
    target = {c: min(max(round(fraction * n), 1), n - 1) for c, n in counts.items()}
    inside = [Counter(label for i in unit for label in np.atleast_1d(labels[i]).tolist()) for unit in units]
    have: Counter[int] = Counter()
    chosen: set[int] = set()

    def gain(unit: int) -> float:
        """How much closer the classes come to their targets with a unit; -inf if a class would keep no video."""
        own = inside[unit].items()
        if any(have[c] + k >= counts[c] for c, k in own):
            return -np.inf
        return sum((abs(have[c] - target[c]) - abs(have[c] + k - target[c])) / counts[c] for c, k in own)

    # The first pass takes only units that leave no class above its target. The second takes others that help in sum.
    for is_first in (True, False):
        for unit, of_unit in enumerate(inside):
            fits = not is_first or all(have[c] + k <= target[c] for c, k in of_unit.items())
            if unit not in chosen and fits and gain(unit) > 1e-9:
                chosen.add(unit)
                have.update(of_unit)
    for label in sorted(counts):
        # A class without a video for validation has only large units. It gets the one that does least harm.
        free = [] if have[label] else [unit for unit in range(len(units)) if label in inside[unit]]
        if free and gain(best := max(free, key=gain)) > -np.inf:
            chosen.add(best)
            have.update(inside[best])
    if not chosen:
        what = "groups" if groups else "videos"
        given = f"got {len(units)} {what}, none of which can leave training"
        raise ValueError(f"DATASETS.SPLIT: {given}, allowed: two or more with videos of each class")
    is_val = np.zeros(len(records), bool)
    is_val[[i for unit in chosen for i in units[unit]]] = True
    return is_val, _notes(counts, target, have, classes, fraction)


def _units(records: Sequence[Record], seed: int, groups: Sequence[str]) -> list[list[int]]:
    """The indices of the records that stay together, in an order that the seed decides.

    Records stay together that share a file or a group, directly or by way of others.
    """
    above: dict[tuple[str, str], tuple[str, str]] = {}

    def top(key: tuple[str, str]) -> tuple[str, str]:
        """The file or group that stands for all that are joined with this one."""
        while (up := above.setdefault(key, key)) != key:
            above[key], key = above[up], up
        return key

    for record, group in zip(records, groups, strict=False):
        if group:
            above[top(("file", record["file_name"]))] = top(("group", group))
    units: dict[tuple[str, str], list[int]] = {}
    for i, record in enumerate(records):
        units.setdefault(top(("file", record["file_name"])), []).append(i)
    hashed = []
    for indices in units.values():
        # Use the id, not the path: the split then stays the same when the folder moves.
        names = [groups[i] for i in indices if groups and groups[i]] or [records[i]["video_id"] for i in indices]
        name = min(names)
        hashed.append((hashlib.blake2b(f"{seed}/{name}".encode(errors="surrogateescape")).digest(), indices))
    return [indices for _, indices in sorted(hashed)]


def _notes(
    counts: Counter, target: dict[int, int], have: Counter, classes: Sequence[str], fraction: float
) -> list[str]:
    """A line for each reason why classes missed the fraction."""
    alone = "one video each, which is for training"
    together = "all their videos in one group or file, which is for training"
    other = f"another share in validation than {fraction:g}, because groups, files and several labels stay together"
    missed: dict[str, list[str]] = {alone: [], together: [], other: []}
    for label, total in sorted(counts.items()):
        name = classes[label] if label < len(classes) else str(label)
        if not have[label]:
            missed[alone if total == 1 else together].append(name)
        elif abs(have[label] - target[label]) > 0.05 * total:
            missed[other].append(f"{name} ({have[label]} of {total})")
    return [
        f"{len(names)} of {len(counts)} classes have {what}: {some(names)}" for what, names in missed.items() if names
    ]


def _groups_of(name: str, records: Sequence[Record], group: str) -> list[str]:
    if not group:
        return []
    if name.startswith("list:"):
        return list_column(name, group)
    values = [record.get(group) for record in records]
    if None in values:
        raise ValueError(f"got {group!r}, but the records of {name} have no such key; allowed: ''")
    return [str(value) for value in values]
