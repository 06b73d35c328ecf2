"""A part of the training data for validation: a share of each class, chosen by a seed, in lists beside the run."""

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

    The lists are ``split/train.csv`` and ``split/val.csv`` in ``root``. Where another split lies there, which an
    earlier run may need, the folder is ``split_2`` and so on. The log says what was reached.

    Args:
        names: of the datasets; all of them together are split.
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
    """Choose the videos for validation: ``fraction`` of each class, and at least one video of it on each side.

    Records of one file stay together, and so do those of one group. What is chosen depends on the seed, the ids and the
    groups, not on the order of the records. Every class keeps a video for training.

    Args:
        records: the videos, with one label or several.
        fraction: in (0, 1).
        seed: any.
        groups: a text for each record, or none at all; "": it is in no group.
        classes: names, for the notes.

    Returns:
        Whether each record is for validation, bool (N,); and a line for each reason why classes missed the fraction.

    Raises:
        ValueError: no video can go to validation.
    """
    labels, units = labels_of(records), _units(records, seed, groups)
    counts = Counter(labels.values.tolist())
    target = {c: min(max(round(fraction * n), 1), n - 1) for c, n in counts.items()}
    inside = [Counter(label for i in unit for label in np.atleast_1d(labels[i]).tolist()) for unit in units]
    have: Counter[int] = Counter()
    chosen: set[int] = set()

    def gain(unit: int) -> float:
        """How much closer to the target the classes come with a unit; -inf where one would lose all its videos."""
        own = inside[unit].items()
        if any(have[c] + k >= counts[c] for c, k in own):
            return -np.inf
        return sum((abs(have[c] - target[c]) - abs(have[c] + k - target[c])) / counts[c] for c, k in own)

    # The second pass also takes what brings too much of another class.
    for is_first in (True, False):
        for unit, of_unit in enumerate(inside):
            fits = not is_first or all(have[c] + k <= target[c] for c, k in of_unit.items())
            if unit not in chosen and fits and gain(unit) > 1e-9:
                chosen.add(unit)
                have.update(of_unit)
    for label in sorted(counts):
        # A class that has only large groups gets the one that does least harm.
        free = [] if have[label] else [unit for unit in range(len(units)) if label in inside[unit]]
        if free and gain(best := max(free, key=gain)) > -np.inf:
            chosen.add(best)
            have.update(inside[best])
    if not chosen:
        what = "groups" if groups else "videos"
        raise ValueError(f"DATASETS.SPLIT: got {len(units)} {what} that no class can spare, allowed: two of each class")
    is_val = np.zeros(len(records), bool)
    is_val[[i for unit in chosen for i in units[unit]]] = True
    return is_val, _notes(counts, target, have, classes, fraction)


def _units(records: Sequence[Record], seed: int, groups: Sequence[str]) -> list[list[int]]:
    """What stays together: the indices of the records of each group, or of each file, in an order by the seed."""
    units: dict[tuple[str, str], list[int]] = {}
    for i, record in enumerate(records):
        key = ("group", groups[i]) if groups and groups[i] else ("file", record["file_name"])
        units.setdefault(key, []).append(i)
    hashed = []
    for (kind, name), indices in units.items():
        # The id, and not the path, so that the split stays when the folder moves.
        name = name if kind == "group" else min(records[i]["video_id"] for i in indices)
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
        raise ValueError(f"got {group!r}, allowed for {name}, which has no such column: ''")
    return [str(value) for value in values]
