"""Datasets of millions of records: columns of arrays, used as a ``Sequence`` of dicts.

A list of dicts takes about 500 bytes per record and is copied into each forked worker bit by bit, because merely
reading a Python object writes its reference count; a spawned worker would copy it at once. ``CompactRecords`` hold a
few arrays that all workers share, and make a dict when one is asked for. What has to look at all records looks at the
arrays: ``labels_of`` and ``id_hashes`` give them for any sequence of records, plain lists included.
"""

import operator
import pickle
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from nlvideo.data.catalog import Record
from nlvideo.data.records.string_block import StringBlock, append_hashes
from nlvideo.utils.files.file_io import join_path


class Labels:
    """The labels of a dataset.

    Args:
        values: int64, all labels, record after record.
        ends: int64 (N,), where the labels of each record end in ``values``; None: each has one.
        are_lists: bool (N,), whether a record's label is a list, of any length, or an integer; None: none is a list.
    """

    def __init__(self, values: np.ndarray, ends: np.ndarray | None = None, are_lists: np.ndarray | None = None):
        self._arrays = [None if a is None else torch.from_numpy(a) for a in (values, ends, are_lists)]

    @classmethod
    def from_values(cls, values: Iterable[int | Sequence[int]]) -> "Labels":
        """Gather the ``"label"`` of records.

        Raises:
            ValueError: one is no integer of 32 bits, or list of them.
        """
        flat, ends, are_lists = array("q"), array("q"), array("b")
        for value in values:
            is_list = isinstance(value, (list, tuple, np.ndarray))
            try:
                labels = [operator.index(label) for label in (value if is_list else [value])]
            except TypeError:
                labels = [2**31]
            if not all(-(2**31) < label < 2**31 for label in labels):
                raise ValueError(f"a label is {value!r:.80}, allowed: an integer of 32 bits, or a list of them")
            flat.extend(labels)
            ends.append(len(flat))
            are_lists.append(is_list)
        columns = [np.array(flat, np.int64), np.array(ends, np.int64), np.array(are_lists, bool)]
        return cls(*columns) if columns[2].any() else cls(columns[0])

    @classmethod
    def concatenate(cls, parts: Sequence["Labels"]) -> "Labels":
        """Join the labels of several datasets."""
        if not any(part.any_lists for part in parts):
            return cls(np.concatenate([part.values for part in parts]))
        counts = np.concatenate([part.counts for part in parts])
        return cls(
            np.concatenate([part.values for part in parts]),
            np.cumsum(counts),
            np.concatenate([part.are_lists for part in parts]),
        )

    @property
    def values(self) -> np.ndarray:
        """All labels, record after record."""
        return self._arrays[0].numpy()

    @property
    def counts(self) -> np.ndarray:
        """Number of labels of each record."""
        if self._arrays[1] is None:
            return np.ones(len(self), np.int64)
        return np.diff(self._arrays[1].numpy(), prepend=0)

    @property
    def are_lists(self) -> np.ndarray:
        """Whether the label of a record is a list."""
        return np.zeros(len(self), bool) if self._arrays[2] is None else self._arrays[2].numpy()

    @property
    def any_lists(self) -> bool:
        """Whether any label is a list."""
        return self._arrays[2] is not None

    @property
    def owners(self) -> np.ndarray:
        """The index of the record that each of ``values`` belongs to."""
        indices = np.arange(len(self))
        return indices if self._arrays[1] is None else np.repeat(indices, self.counts)

    def __len__(self) -> int:
        return len(self._arrays[0] if self._arrays[1] is None else self._arrays[1])

    def __getitem__(self, index: int) -> int | list[int]:
        values, ends, are_lists = self._arrays
        if ends is None:
            return int(values[index])
        labels = values[int(ends[index - 1]) if index else 0 : int(ends[index])].tolist()
        return labels if are_lists[index] else labels[0]


class CompactRecords(Sequence[Record]):
    """Base of records that take little memory and that processes share; equal to any sequence of the same records.

    Attributes:
        may_have_spans: False where it is known that no record has ``label_spans``.
    """

    may_have_spans = True
    _labels: Labels | None = None  # where they are known without a look at each record

    @abstractmethod
    def record(self, index: int) -> Record:
        """Return a record, with ``0 <= index < len(self)``."""

    @property
    def labels(self) -> Labels:
        """The labels of all records."""
        return Labels.from_values(record["label"] for record in self) if self._labels is None else self._labels

    def id_hashes(self) -> np.ndarray:
        """Return a 64-bit hash of each video id, uint64 (N,)."""
        return StringBlock.from_strings(record["video_id"] for record in self).hashes()

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self.record(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} was asked for, there are {len(self)}")
        return self.record(index % len(self))

    def __iter__(self) -> Iterator[Record]:
        return (self.record(index) for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other))

    __hash__ = None


class SerializedRecords(CompactRecords):
    """Any records, pickled one by one into one block of memory."""

    def __init__(self, records: Iterable[Record]):
        data, ends = bytearray(), array("q")
        for record in records:
            data += pickle.dumps(record, protocol=-1)
            ends.append(len(data))
        self._ends = torch.from_numpy(np.array(ends, np.int64))
        self._data = torch.frombuffer(data, dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def record(self, index: int) -> Record:
        """Return a record."""
        start = int(self._ends[index - 1]) if index else 0
        return pickle.loads(memoryview(self._data[start : int(self._ends[index])].numpy()))


class TableRecords(CompactRecords):
    """Records whose ids are their paths, as in lists and folders; repeated paths get ``#2``, ``#3``, ... appended.

    Args:
        folder: what relative paths are relative to; may be remote.
        videos: the paths.
        labels: their labels.
        numbers: columns by key, such as "start_sec", float64 (N,); NaN where a record has none.
        spans: ``label_spans`` as text, see ``parse_spans``; None: no record has any.
    """

    def __init__(
        self,
        folder: str,
        videos: StringBlock,
        labels: Labels,
        numbers: dict[str, np.ndarray] | None = None,
        spans: StringBlock | None = None,
    ):
        self.folder, self.videos, self._labels, self.spans = folder, videos, labels, spans
        self.may_have_spans = spans is not None
        given = {key: column for key, column in (numbers or {}).items() if not np.isnan(column).all()}
        self._numbers = {key: torch.from_numpy(column) for key, column in given.items()}
        occurrences = _count_occurrences(videos.hashes())
        self._occurrences = None if occurrences is None else torch.from_numpy(occurrences)

    def __len__(self) -> int:
        return len(self.videos)

    def record(self, index: int) -> Record:
        """Return a record."""
        video = self.videos[index]
        occurrence = 1 if self._occurrences is None else int(self._occurrences[index])
        record: dict[str, Any] = {
            "file_name": join_path(self.folder, video),
            "label": self._labels[index],
            "video_id": video if occurrence == 1 else f"{video}#{occurrence}",
        }
        for key, column in self._numbers.items():
            if not np.isnan(value := float(column[index])):
                record[key] = value
        if self.spans is not None:
            record["label_spans"] = parse_spans(self.spans[index])
        return record

    def id_hashes(self) -> np.ndarray:
        """Return a 64-bit hash of each video id, uint64 (N,)."""
        hashes = self.videos.hashes()
        if self._occurrences is not None:
            again = self._occurrences.numpy() > 1
            suffixes = [f"#{occurrence}" for occurrence in self._occurrences.numpy()[again].tolist()]
            hashes[again] = append_hashes(hashes[again], self.videos.lengths()[again], suffixes)
        return hashes


class ChainedRecords(CompactRecords):
    """The records of several datasets, one after the other.

    Args:
        parts: at least one.
    """

    def __init__(self, parts: Sequence[Sequence[Record]]):
        self.parts = list(parts)
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def record(self, index: int) -> Record:
        """Return a record."""
        part = bisect_right(self._ends, index)
        return self.parts[part][index - (self._ends[part - 1] if part else 0)]

    @property
    def labels(self) -> Labels:
        """The labels of all records."""
        return Labels.concatenate([labels_of(part) for part in self.parts])

    def id_hashes(self) -> np.ndarray:
        """Return a 64-bit hash of each video id, uint64 (N,)."""
        return np.concatenate([id_hashes(part) for part in self.parts])


def compact_records(records: Sequence[Record]) -> CompactRecords:
    """Return records that are compact already as they are, and others serialized."""
    if isinstance(records, ChainedRecords):
        return ChainedRecords([compact_records(part) for part in records.parts])
    return records if isinstance(records, CompactRecords) else SerializedRecords(records)


def chain_records(parts: Sequence[Sequence[Record]]) -> Sequence[Record]:
    """Return the records of one or several datasets as one sequence."""
    return parts[0] if len(parts) == 1 else ChainedRecords(parts)


def labels_of(records: Sequence[Record]) -> Labels:
    """Return the labels of any sequence of records."""
    if isinstance(records, CompactRecords):
        return records.labels
    return Labels.from_values(record["label"] for record in records)


def span_labels_of(records: Sequence[Record]) -> Labels | None:
    """Return the classes in the ``label_spans`` of each of any records; None where no record has any."""
    if not getattr(records, "may_have_spans", True):
        return None
    spans = [record.get("label_spans") for record in records]
    if all(some is None for some in spans):
        return None
    return Labels.from_values([span[0] for span in some or ()] for some in spans)


def shard_sizes(records: Sequence[Record]) -> np.ndarray:
    """Return the number of records in each shard, int64 (S,); all that come from no shard count as one."""
    if isinstance(records, ChainedRecords):
        return np.concatenate([shard_sizes(part) for part in records.parts])
    return getattr(records, "shard_sizes", np.array([len(records)], np.int64))


def id_hashes(records: Sequence[Record]) -> np.ndarray:
    """Return a 64-bit hash of each video id of any sequence of records, uint64 (N,)."""
    if isinstance(records, CompactRecords):
        return records.id_hashes()
    return StringBlock.from_strings(record["video_id"] for record in records).hashes()


def parse_spans(text: str) -> list[tuple[int, float, float]]:
    """Return the (class, start, end) in ``3 0.0 4.5;7 2.1 9.8``; seconds.

    Raises:
        ValueError: the text is not of that form.
    """
    spans = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        label, start_sec, end_sec = part.split()
        spans.append((int(label), float(start_sec), float(end_sec)))
    return spans


def _count_occurrences(hashes: np.ndarray) -> np.ndarray | None:
    """Number equal hashes from 1 on, in order, int32 (N,); None where all differ."""
    ordered = np.sort(hashes)
    if not (ordered[1:] == ordered[:-1]).any():
        return None
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    firsts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(np.append(firsts, len(ordered)))
    occurrences = np.empty(len(hashes), np.int32)
    occurrences[order] = np.arange(len(hashes)) - np.repeat(firsts, lengths) + 1
    return occurrences
