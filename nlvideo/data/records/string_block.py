"""Millions of texts in one block of memory."""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import torch

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
