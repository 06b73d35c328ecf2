"""Videos that are in two datasets, by their files and by their content: a test on what was trained on says little."""

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence

import numpy as np

from nlvideo.data.catalog import Record
from nlvideo.data.many_files import look_at_files
from nlvideo.data.records.records import id_hashes
from nlvideo.data.video.paths import split_member_path
from nlvideo.utils.console import log_once

# Of a larger dataset so many records, evenly spread, and those whose ids the other one has, among so many.
MAX_COMPARED, _MAX_IDS = 5_000, 100_000
# Files that are opened where sizes are the same, and what is read of each: its beginning, middle and end.
_MAX_READ, _PART_BYTES = 2_000, 1 << 14


def warn_of_shared_videos(
    train: Sequence[str], train_records: Sequence[Record], test: str, test_records: Sequence[Record]
) -> None:
    """Log, once, how many videos of a test are in the training data, too, or are parts of files that are.

    Args:
        train: names of the training datasets.
        train_records: all their records.
        test: name of the test dataset.
        test_records: its records.
    """
    pairs, compared = find_shared_videos(train_records, test_records)
    if pairs:
        (trained, tested), names = pairs[0], ", ".join(train)
        log_once(
            f"{test}: {len(pairs)} of {compared} videos are in the training data ({names}), too, whole or in part, such as"
            f" {tested}{f', which is {trained}' if trained != tested else ''}: results on them say little about new videos"
        )


def find_shared_videos(one: Sequence[Record], other: Sequence[Record]) -> tuple[list[tuple[str, str]], int]:
    """Return the videos that are in both datasets: the same file, also under two names, or a copy of it.

    Parts of one file count, whichever they are. Remote files are left out. Copies are told by their size and a hash of
    parts of them; folders of frames count where they are the same folder.

    Returns:
        (file of one, file of the other) for each shared video, and how many videos of the other were looked at.
    """
    if not len(one) or not len(other):
        return [], 0
    hashes = [id_hashes(records) if max(len(one), len(other)) > MAX_COMPARED else None for records in (one, other)]
    files, files_of_other = _distinct_files(one, *hashes), _distinct_files(other, *hashes[::-1])
    facts, facts_of_other = (
        [found for found in look_at_files(_look_at, paths, "shared videos") if found]
        for paths in (files, files_of_other)
    )
    known = {identity: path for path, identity, _ in facts}
    pairs = [(known[identity], path) for path, identity, _ in facts_of_other if identity in known]
    sizes = {size for _, _, size in facts if size}
    others = [(path, size) for path, identity, size in facts_of_other if size in sizes and identity not in known]
    sizes = {size for _, size in others[:_MAX_READ]}
    copied = [(path, size) for path, _, size in facts if size in sizes]
    hashed, hashed_others = (look_at_files(_hash_of, found[:_MAX_READ], "shared videos") for found in (copied, others))
    originals = {key: path for key, (path, _) in zip(hashed, copied) if key}
    pairs += [(originals[key], path) for key, (path, _) in zip(hashed_others, others) if key in originals]
    return pairs, len(files_of_other)


def _distinct_files(records: Sequence[Record], hashes: np.ndarray | None, others: np.ndarray | None) -> list[str]:
    picked: Iterable[int] = range(len(records))
    if len(records) > MAX_COMPARED:
        spread = np.linspace(0, len(records) - 1, MAX_COMPARED).astype(np.int64)
        # Not isin, which sorts all of both.
        some = np.sort(others[:: -(-len(others) // _MAX_IDS)])
        places = np.minimum(np.searchsorted(some, hashes), len(some) - 1)
        picked = np.union1d(spread, np.flatnonzero(some[places] == hashes)[:MAX_COMPARED]).tolist()
    return list(dict.fromkeys(records[index]["file_name"] for index in picked))


def _look_at(path: str) -> tuple[str, tuple[int, int, int], int] | None:
    """A path; its device, inode and offset in a shard; its bytes, 0 of a folder. None of what cannot be looked at."""
    file, offset, size = split_member_path(path) or (path, 0, None)
    try:
        status = os.stat(file)
    except OSError:  # of a remote path, too
        return None
    size = status.st_size if size is None else size
    return path, (status.st_dev, status.st_ino, offset), size if stat.S_ISREG(status.st_mode) else 0


def _hash_of(item: tuple[str, int]) -> bytes | None:
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
    return digest.digest()
