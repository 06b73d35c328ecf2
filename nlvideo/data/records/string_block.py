"""Millions of texts in one block of memory."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

# Hashes are sums of byte x power of this odd number, modulo 2 ** 64: 2 ** 64 over the golden ratio, Knuth's choice.
_BASE = 0x9E3779B97F4A7C15
_CHUNK_BYTES = 1 << 20


class StringBlock(Sequence[str]):
    """Texts as intervals of one array of bytes, which processes share.

    The arrays are torch tensors, because those reach a spawned worker as shared memory and not as a copy.

    Args:
        data: uint8, UTF-8 text, or names as the file system has them (``surrogateescape``); what lies outside the
            intervals does not matter.
        starts: int64 (N,), first byte of each text.
        ends: int64 (N,), the byte after its last.
    """

    def __init__(self, data: np.ndarray, starts: np.ndarray, ends: np.ndarray):
        self._data, self._starts, self._ends = (torch.from_numpy(array) for array in (data, starts, ends))

    @classmethod
    def from_strings(cls, strings: Iterable[str]) -> "StringBlock":
        """Copy texts into a block."""
        data, ends = bytearray(), []
        for string in strings:
            data += string.encode(errors="surrogateescape")
            ends.append(len(data))
        bounds = np.array([0, *ends], np.int64)
        # An empty buffer cannot become an array.
        array = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
        return cls(array, bounds[:-1].copy(), bounds[1:].copy())

    @classmethod
    def concatenate(cls, blocks: Sequence["StringBlock"]) -> "StringBlock":
        """Join blocks."""
        sizes = np.cumsum([0, *(len(block._data) for block in blocks)])
        return cls(
            np.concatenate([block._data.numpy() for block in blocks]),
            np.concatenate([block._starts.numpy() + size for block, size in zip(blocks, sizes)]),
            np.concatenate([block._ends.numpy() + size for block, size in zip(blocks, sizes)]),
        )

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> str:
        start, end = int(self._starts[index]), int(self._ends[index])
        return self._data.numpy()[start:end].tobytes().decode(errors="surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def lengths(self) -> np.ndarray:
        """Return the bytes of each text, int64 (N,)."""
        return (self._ends - self._starts).numpy()

    def hashes(self) -> np.ndarray:
        """Return a 64-bit hash of each text, uint64 (N,): a polynomial in its bytes.

        It is made of running sums over the whole block, a chunk at a time, instead of a loop over texts.
        """
        starts, ends = self._starts.numpy(), self._ends.numpy()
        order = None if np.all(starts[1:] >= starts[:-1]) else np.argsort(starts, kind="stable")
        if order is not None:
            starts, ends = starts[order], ends[order]
        hashes = np.empty(len(starts), np.uint64)
        first = 0
        while first < len(starts):
            last = max(first + 1, int(np.searchsorted(starts, starts[first] + _CHUNK_BYTES)))
            hashes[first:last] = self._hash_chunk(starts[first:last], ends[first:last])
            first = last
        if order is None:
            return hashes
        unsorted = np.empty_like(hashes)
        unsorted[order] = hashes
        return unsorted

    def _hash_chunk(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        begin = starts[0]
        data = self._data.numpy()[begin : ends.max()]
        sums = np.zeros(len(data) + 1, np.uint64)
        np.cumsum((data.astype(np.uint64) + np.uint64(1)) * _powers(len(data)), out=sums[1:])
        # Dividing by the power that the text starts with makes the hash independent of its place.
        return (sums[ends - begin] - sums[starts - begin]) * _powers(len(data) + 1, inverse=True)[starts - begin]


def append_hashes(hashes: np.ndarray, lengths: np.ndarray, suffixes: Sequence[str]) -> np.ndarray:
    """Return the hashes of texts with a suffix appended, from the hashes and lengths of the texts, (N,) each."""
    tails = StringBlock.from_strings(suffixes).hashes()
    return hashes + tails * _powers(int(lengths.max(initial=0)) + 1)[lengths]


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
