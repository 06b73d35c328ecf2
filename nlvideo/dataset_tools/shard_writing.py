"""A dataset written into shards."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nlvideo.data.catalog import Record
from nlvideo.data.datasets.listed import CLASSES_FILE, read_classes, write_classes
from nlvideo.data.records.shard_files import OPTIONAL_KEYS, read_index, write_shard
from nlvideo.utils.console import progress_bar
from nlvideo.utils.files.file_io import must_be_local
from nlvideo.utils.messages import some


@dataclass
class WrittenShards:
    """What ``write_shards`` did."""

    written: list[str]  #: paths of shards
    kept: list[str]  #: paths of shards that were there already
    num_bytes: int  #: of all of them


def write_shards(
    records: Sequence[Record],
    shards: Sequence[str],
    *,
    classes: Sequence[str] = (),
    shuffle_seed: int | None = 0,
    num_workers: int = 1,
    overwrite: bool = False,
) -> WrittenShards:
    """Spread the records of a dataset evenly over shards, with an index beside each and ``classes.txt`` beside all.

    A shard that is there and holds what it should is kept, so that an interrupted run goes on where it was.

    Args:
        records: of video files.
        shards: paths of the tar files, all in one folder, which is made.
        classes: their names, if they have any.
        shuffle_seed: records are shuffled once before they are spread, because a list sorted by class would make
            shards of one class; None keeps their order.
        num_workers: shards written at once.
        overwrite: replace shards that hold something else.

    Raises:
        ValueError: a shard is named twice, there are too many, files would be overwritten, or a video is a folder.
        OSError: a video cannot be read or a shard not be written.
    """
    if not 0 < len(shards) <= len(records):
        raise ValueError(f"got {len(shards)} shards for {len(records)} videos, allowed: 1 to {len(records)} shards")
    must_be_local("shards", shards[0])
    if len(set(shards)) < len(shards):
        raise ValueError(f"shards: got {max(shards, key=shards.count)} twice, allowed: each name once")
    if len({os.path.dirname(path) for path in shards}) > 1:
        raise ValueError(f"the shards lie in several folders, allowed: one; got {shards[0]} and others")
    folder = os.path.dirname(os.path.abspath(shards[0]))
    order = np.arange(len(records))
    if shuffle_seed is not None:
        order = np.random.default_rng(shuffle_seed).permutation(len(records))
    bounds = [len(records) * i // len(shards) for i in range(len(shards) + 1)]
    parts = {path: range(begin, end) for path, (begin, end) in zip(shards, pairwise(bounds), strict=True)}

    def _chosen(path: str) -> list[Record]:
        return [records[int(order[place])] for place in parts[path]]

    kept = [path for path in shards if os.path.exists(path) and _holds(path, _chosen(path))]
    todo = [path for path in shards if path not in set(kept)]
    others = list(filter(os.path.exists, todo))
    names = f"{folder}/{CLASSES_FILE}"
    if not overwrite and classes and os.path.exists(names) and read_classes(names) != list(classes):
        raise ValueError(f"{names} names other classes; --overwrite replaces it")
    if others and not overwrite:
        raise ValueError(f"shards with other videos or without an index: {some(others)}; --overwrite replaces them")
    os.makedirs(folder, exist_ok=True)
    if classes:
        write_classes(names, classes)
    # Threads do: copying files waits for disks. After an error, what has not begun is left out.
    with ThreadPoolExecutor(num_workers) as pool:
        done = pool.map(lambda path: write_shard(path, _chosen(path), parts[path].start), todo)
        list(progress_bar(done, total=len(todo), desc="shards", delay=5))
    return WrittenShards(todo, kept, sum(os.path.getsize(path) for path in shards))


def _holds(path: str, records: Sequence[Record]) -> bool:
    """Whether a shard is there, whole and made of these records."""
    try:
        entries = read_index(path)
    except ValueError:
        return False
    expected = [_identity(record["video_id"], record["label"], record) for record in records]
    if entries is None or [_identity(entry[0], entry[3], entry[4]) for entry in entries] != expected:
        return False
    # A local video that has another size has changed. Remote ones are not asked for.
    sizes = {record["file_name"]: entry[2] for record, entry in zip(records, entries, strict=True)}
    return all(os.path.getsize(path) == size for path, size in sizes.items() if os.path.exists(path))


def _identity(video_id: str, label: int | list[int], extras: dict) -> str:
    # As JSON has it: an index holds lists where a record holds tuples.
    return json.dumps([video_id, label, {key: extras[key] for key in OPTIONAL_KEYS if key in extras}])
