"""Datasets of millions of records: columns of arrays, used as a ``Sequence`` of dicts.

A list of dicts takes about 500 bytes per record. Reading a Python object writes its reference count, so each forked
worker would get a copy of the list bit by bit; a spawned worker would copy it at once. ``CompactRecords`` hold a few
arrays that all workers share, and make a dict when one is asked for. What has to look at all records looks at the
arrays: ``labels_of`` and ``id_hashes`` give them for any sequence of records, lists of dicts included.
"""

import operator
import pickle
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, overload

import numpy as np
import torch

from nlvideo.data.catalog import Record
from nlvideo.utils.files.file_io import join_path

# Hashes are sums of byte x power of this odd number, modulo 2 ** 64: 2 ** 64 over the golden ratio, Knuth's choice.
_BASE = 0x9E3779B97F4A7C15
_CHUNK_BYTES = 1 << 20


class StringBlock:
    """Texts, one after the other, in one array of bytes that processes share.

    The arrays are torch tensors, because a spawned worker gets these as shared memory and not as a copy.

    Args:
        data: uint8, the texts in UTF-8, or names as the file system has them (``surrogateescape``).
        ends: int64 (N,), the byte after the last one of each text.
    """

    def __init__(self, data: np.ndarray, ends: np.ndarray):
        self._data, self._ends = torch.from_numpy(data), torch.from_numpy(ends)

    @classmethod
    def from_strings(cls, strings: Iterable[str]) -> "StringBlock":
        """Copy texts into a block."""
        data, ends = bytearray(), array("q")
        for string in strings:
            data += string.encode(errors="surrogateescape")
            ends.append(len(data))
        # An empty buffer cannot become an array.
        return cls(np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8), np.array(ends, np.int64))

    @classmethod
    def concatenate(cls, blocks: Sequence["StringBlock"]) -> "StringBlock":
        """Join blocks."""
        sizes = np.cumsum([0, *(len(block._data) for block in blocks[:-1])])
        ends = [block._ends.numpy() + size for block, size in zip(blocks, sizes, strict=True)]
        return cls(np.concatenate([block._data.numpy() for block in blocks]), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start, end = int(self._ends[index - 1]) if index else 0, int(self._ends[index])
        return self._data.numpy()[start:end].tobytes().decode(errors="surrogateescape")

    def hashes(self) -> np.ndarray:
        """Return a 64-bit hash of each text, uint64 (N,): a polynomial in its bytes.

        It is made of running sums over the whole block, a chunk at a time, instead of a loop over texts.
        """
        ends = self._ends.numpy()
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        hashes = np.empty(len(ends), np.uint64)
        first = 0
        while first < len(ends):
            last = max(first + 1, int(np.searchsorted(starts, starts[first] + _CHUNK_BYTES)))
            begin = starts[first]
            data = self._data.numpy()[begin : ends[last - 1]].astype(np.uint64)
            sums = np.zeros(len(data) + 1, np.uint64)
            np.cumsum((data + np.uint64(1)) * _powers(len(data)), out=sums[1:])
            # Dividing by the power that the text starts with makes the hash independent of its place.
            places = starts[first:last] - begin
            scale = _powers(len(data) + 1, inverse=True)[places]
            hashes[first:last] = (sums[ends[first:last] - begin] - sums[places]) * scale
            first = last
        return hashes


_tables: dict[bool, np.ndarray] = {}


def _powers(count: int, inverse: bool = False) -> np.ndarray:
    """The first powers of the base, or of its inverse, modulo 2 ** 64; kept, since all chunks need the same."""
    table = _tables.get(inverse, np.zeros(0, np.uint64))
    if len(table) < count:
        base = pow(_BASE, -1, 1 << 64) if inverse else _BASE
        factors = np.full(max(count, _CHUNK_BYTES + 4096), base, np.uint64)
        factors[0] = 1
        table = _tables[inverse] = np.cumprod(factors)
    return table[:count]


class Labels:
    """The labels of a dataset.

    Args:
        values: int64, all labels, record after record.
        ends: int64 (N,), where the labels of each record end in ``values``; None: each has one.
        are_lists: bool (N,), whether a record's label is a list, of any length, or an integer; None: none is a list.
    """

    def __init__(self, values: np.ndarray, ends: np.ndarray | None = None, are_lists: np.ndarray | None = None):
        # Tensors: a spawned worker shares them.
        self._values = torch.from_numpy(values)
        self._ends = None if ends is None else torch.from_numpy(ends)
        self._are_lists = None if are_lists is None else torch.from_numpy(are_lists)

    @classmethod
    def from_values(cls, values: Iterable[int | Sequence[int]]) -> "Labels":
        """Gather the ``"label"`` of records; raise ``ValueError`` where one is no 32-bit integer, or list of them."""
        flat, ends, are_lists = array("q"), array("q"), array("b")
        for value in values:
            given: Iterable[Any] = value if isinstance(value, (list, tuple, np.ndarray)) else [value]
            try:
                labels = [operator.index(label) for label in given]
            except TypeError:
                labels = [2**31]
            if not all(-(2**31) < label < 2**31 for label in labels):
                raise ValueError(f"a label is {value!r:.80}, allowed: an integer of 32 bits, or a list of them")
            flat.extend(labels)
            ends.append(len(flat))
            are_lists.append(given is value)
        if not any(are_lists):
            return cls(np.array(flat, np.int64))
        return cls(np.array(flat, np.int64), np.array(ends, np.int64), np.array(are_lists, bool))

    @classmethod
    def concatenate(cls, parts: Sequence["Labels"]) -> "Labels":
        """Join the labels of several datasets."""
        values = np.concatenate([part.values for part in parts])
        if not any(part.any_lists for part in parts):
            return cls(values)
        counts = np.concatenate([part.counts for part in parts])
        return cls(values, np.cumsum(counts), np.concatenate([part.are_lists for part in parts]))

    @property
    def values(self) -> np.ndarray:
        """All labels, record after record."""
        return self._values.numpy()

    @property
    def counts(self) -> np.ndarray:
        """Number of labels of each record."""
        return np.ones(len(self), np.int64) if self._ends is None else np.diff(self._ends.numpy(), prepend=0)

    @property
    def are_lists(self) -> np.ndarray:
        """Whether the label of a record is a list."""
        return np.zeros(len(self), bool) if self._are_lists is None else self._are_lists.numpy()

    @property
    def any_lists(self) -> bool:
        """Whether any label is a list."""
        return self._are_lists is not None

    @property
    def owners(self) -> np.ndarray:
        """The index of the record that each of ``values`` belongs to."""
        return np.repeat(np.arange(len(self)), self.counts)

    def __len__(self) -> int:
        return len(self._values if self._ends is None else self._ends)

    def __getitem__(self, index: int) -> int | list[int]:
        if self._ends is None:
            return int(self._values[index])
        start = int(self._ends[index - 1]) if index else 0
        labels = self._values[start : int(self._ends[index])].tolist()
        return labels if self.are_lists[index] else labels[0]


class CompactRecords(Sequence[Record]):
    """Base of records that take little memory and that processes share; equal to any sequence of the same records.

    Attributes:
        may_have_spans: False where it is known that no record has ``label_spans``.
    """

    may_have_spans = True

    @abstractmethod
    def record(self, index: int) -> Record:
        """Return a record, with ``0 <= index < len(self)``."""

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self.record(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} was asked for, there are {len(self)}")
        return self.record(index % len(self))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as Python marks what cannot be hashed


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
        return pickle.loads(self._data[start : int(self._ends[index])].numpy().tobytes())


class TableRecords(CompactRecords):
    """Records whose ids are their paths, as in lists and folders; repeated paths get ``#2``, ``#3``, ... appended.

    Args:
        folder: what relative paths are relative to; may be remote.
        videos: the paths.
        labels: their labels.
        numbers: columns by key, such as "start_sec", float64 (N,); NaN where a record has none.
        spans: ``label_spans`` as text, see ``parse_spans``, also an attribute; None: no record has any.
    """

    def __init__(
        self,
        folder: str,
        videos: StringBlock,
        labels: Labels,
        numbers: dict[str, np.ndarray] | None = None,
        spans: StringBlock | None = None,
    ):
        self._folder, self._videos, self._labels, self.spans = folder, videos, labels, spans
        self.may_have_spans = spans is not None
        given = {key: column for key, column in (numbers or {}).items() if not np.isnan(column).all()}
        self._numbers = {key: torch.from_numpy(column) for key, column in given.items()}
        occurrences = _count_occurrences(videos.hashes())
        self._occurrences = None if occurrences is None else torch.from_numpy(occurrences)

    @property
    def labels(self) -> Labels:
        """The labels of all records."""
        return self._labels

    def __len__(self) -> int:
        return len(self._videos)

    def record(self, index: int) -> Record:
        """Return a record."""
        record: Record = {
            "file_name": join_path(self._folder, self._videos[index]),
            "label": self._labels[index],
            "video_id": self._id_of(index),
        }
        for key, column in self._numbers.items():
            if not np.isnan(value := float(column[index])):
                record[key] = value
        if self.spans is not None:
            record["label_spans"] = parse_spans(self.spans[index])
        return record

    def _id_of(self, index: int) -> str:
        occurrence = 1 if self._occurrences is None else int(self._occurrences[index])
        return self._videos[index] + (f"#{occurrence}" if occurrence > 1 else "")

    def id_hashes(self) -> np.ndarray:
        """Return a 64-bit hash of each video id, uint64 (N,)."""
        hashes = self._videos.hashes()
        if self._occurrences is not None:
            again = np.flatnonzero(self._occurrences.numpy() > 1)
            hashes[again] = StringBlock.from_strings(map(self._id_of, again.tolist())).hashes()
        return hashes


class ChainedRecords(CompactRecords):
    """The records of one or several datasets, one after the other."""

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
    if hasattr(records, "labels"):
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
    if hasattr(records, "id_hashes"):
        return records.id_hashes()
    return StringBlock.from_strings(record["video_id"] for record in records).hashes()


def parse_spans(text: str) -> list[tuple[int, float, float]]:
    """Return the (class, start, end) in ``3 0.0 4.5;7 2.1 9.8``, seconds; raise ``ValueError`` for another form."""
    spans = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        label, start_sec, end_sec = part.split()
        spans.append((int(label), float(start_sec), float(end_sec)))
    return spans


def _count_occurrences(hashes: np.ndarray) -> np.ndarray | None:
    """Number equal hashes from 1 on, in order, int32 (N,); None where all differ."""
    order = np.argsort(hashes, kind="stable")
    _, firsts, counts = np.unique(hashes[order], return_index=True, return_counts=True)
    if len(firsts) == len(hashes):
        return None
    occurrences = np.empty(len(hashes), np.int32)
    occurrences[order] = np.arange(len(hashes)) - np.repeat(firsts, counts) + 1
    return occurrences
