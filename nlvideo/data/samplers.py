"""The order of the training records, over epochs, ranks and resumed runs.

A sampler is a function of the position in one endless stream that all ranks share: position ``p`` goes to rank
``p % world_size``. Position alone decides record and chance, so a run can enter the stream anywhere at once, and the
number of workers or ranks changes nothing in it::

    position    0  1  2  3 | 4  5  6  7 | ...
    rank 0      x     x    | x     x    |
    rank 1         x     x |    x     x |          two ranks, batches of two clips
                iteration 0  iteration 1
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np

from nlvideo.config import CfgNode
from nlvideo.data.catalog import Record
from nlvideo.data.records.records import labels_of, shard_sizes
from nlvideo.utils.registry import Registry

logger = logging.getLogger(__name__)

SAMPLER = Registry(
    "SAMPLER",
    """Decides the order of the training records.

    Created as ``cls(records, seed=, rank=, world_size=, start=)``: the sequence of the training records (``labels_of``
    gives their labels), a seed of at least 0 that all ranks share, and the first position in the stream of all ranks,
    above 0 in a resumed run. Iterating it yields ``(index of a record, position)`` without end, for the positions
    ``start + rank``, ``start + rank + world_size``, ...: the position seeds the chance of its sample. What is at a
    position must depend on records, seed and position alone. Otherwise a resumed run would differ.
    ``StreamSampler`` is a base class that does so. A class with ``options(cfg) -> dict`` is created with these keyword
    arguments, too.
    """,
)


class StreamSampler(ABC):
    """Base class: subclasses say which record is at a position of the endless stream. ``SAMPLER`` has the arguments.

    Raises:
        ValueError: the dataset is empty.
    """

    def __init__(self, records: Sequence[Record], *, seed: int = 0, rank: int = 0, world_size: int = 1, start: int = 0):
        if len(records) == 0:
            raise ValueError("a sampler needs at least one record, got an empty dataset")
        self.size = len(records)
        self.seed, self.rank, self.world_size, self.start = seed, rank, world_size, start
        self._permutations: dict[int, tuple[int, np.ndarray]] = {}

    @abstractmethod
    def index_at(self, position: int) -> int:
        """Return the index of the record at a position of the stream."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        position = self.start + self.rank
        while True:
            yield self.index_at(position), position
            position += self.world_size

    def permutation(self, size: int, epoch: int, purpose: int) -> np.ndarray:
        """Return a permutation that depends on the seed, the epoch and the purpose; the last of each purpose is kept.

        Purposes differ from each other, and from those of the random numbers of clips, whose seeds are similar.
        """
        if purpose not in self._permutations or self._permutations[purpose][0] != epoch:
            rng = np.random.default_rng([self.seed, epoch, purpose])
            self._permutations[purpose] = (epoch, self._shuffle(size, rng))
        return self._permutations[purpose][1]

    def _shuffle(self, size: int, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(size)


@SAMPLER.register()
class TrainingSampler(StreamSampler):
    """Shuffled epochs, one after the other: every record once per epoch."""

    def index_at(self, position: int) -> int:
        """Return the index of the record at a position of the stream."""
        epoch, offset = divmod(position, self.size)
        return int(self.permutation(self.size, epoch, 1)[offset])


@SAMPLER.register()
class RepeatFactorSampler(TrainingSampler):
    """Shuffled epochs in which videos of rare classes repeat (LVIS, Gupta et al., CVPR 2019, Appendix B).

    A class that the share f of the videos has gets the factor r = max(1, sqrt(threshold / f)), and a video the largest
    factor of its classes. An epoch has each video floor(r) or ceil(r) times, r on average. The draws are spread evenly
    over the sum of all factors, from a random start and in random order: so all epochs have the same length, and the
    stream can be entered anywhere. That length is rounded up, which makes r larger by less than one video in an epoch.

    Args:
        threshold: a class that fewer videos have is repeated (LVIS: 0.001).
    """

    def __init__(self, records: Sequence[Record], *, threshold: float = 0.001, **kwargs: int):
        super().__init__(records, **kwargs)
        labels = labels_of(records)
        _, classes, counts = np.unique(labels.values, return_inverse=True, return_counts=True)
        factors = np.ones(len(records))
        np.maximum.at(factors, labels.owners, np.sqrt(threshold * len(records) / counts)[classes])
        self.size = math.ceil(round(factors.sum(), 6))
        self.factors = factors * (self.size / factors.sum())
        logger.info("RepeatFactorSampler: an epoch has %d clips of %d videos", self.size, len(records))

    @staticmethod
    def options(cfg: CfgNode) -> dict[str, float]:
        """Return the arguments that the config gives."""
        return {"threshold": cfg.DATALOADER.REPEAT_THRESHOLD}

    def _shuffle(self, size: int, rng: np.random.Generator) -> np.ndarray:
        order = rng.permutation(len(self.factors))
        # Draws stay away from the ends of the interval, where the rounding of sums would choose the video.
        draws = np.arange(size) + rng.uniform(1e-6, 1 - 1e-6)
        drawn = order[np.searchsorted(self.factors[order].cumsum(), draws)]
        return rng.permutation(drawn)


@SAMPLER.register()
class ShardSampler(TrainingSampler):
    """Shuffled epochs that read shards one after the other: every record once per epoch.

    The shards come in shuffled order. Records are shuffled over a distance of about ``buffer`` records, as in a buffer
    that a reader of the stream fills. So what is read at a time lies in few shards, which the file system caches. The
    order is computed from numbers before anything is read, and depends neither on workers nor on ranks. Records that
    are in no shard count as one shard.

    Args:
        buffer: in records; 1 keeps the order within a shard.
    """

    def __init__(self, records: Sequence[Record], *, buffer: int = 4096, **kwargs: int):
        super().__init__(records, **kwargs)
        self.buffer = buffer
        self.shard_sizes = shard_sizes(records)

    @staticmethod
    def options(cfg: CfgNode) -> dict[str, int]:
        """Return the arguments that the config gives."""
        return {"buffer": cfg.DATALOADER.SHUFFLE_BUFFER}

    def _shuffle(self, size: int, rng: np.random.Generator) -> np.ndarray:
        starts = np.cumsum(self.shard_sizes) - self.shard_sizes
        order = rng.permutation(len(starts))
        sizes = self.shard_sizes[order]
        # Shard after shard, each from its first record on.
        sequence = np.arange(size) + np.repeat(starts[order] - (np.cumsum(sizes) - sizes), sizes)
        delayed = np.arange(size) + rng.uniform(0, self.buffer, size)
        return sequence[np.argsort(delayed)]


@SAMPLER.register()
class ClassBalancedSampler(StreamSampler):
    """Every class equally often, however many videos it has.

    The stream is rounds over all classes in shuffled order; each class runs through shuffled epochs of its own videos.
    A video with several labels counts in each of its classes; a class without videos in none.
    """

    def __init__(self, records: Sequence[Record], **kwargs: int):
        super().__init__(records, **kwargs)
        labels = labels_of(records)
        order = np.argsort(labels.values, kind="stable")
        firsts = np.flatnonzero(np.diff(labels.values[order])) + 1
        self.members = np.split(labels.owners[order], firsts)

    def index_at(self, position: int) -> int:
        """Return the index of the record at a position of the stream."""
        turn, offset = divmod(position, len(self.members))
        chosen = int(self.permutation(len(self.members), turn, 2)[offset])
        members = self.members[chosen]
        epoch, offset = divmod(turn, len(members))
        return int(members[self.permutation(len(members), epoch, 3 + chosen)[offset]])


def class_balanced_subset(records: Sequence[Record], count: int) -> list[int]:
    """Choose records that stand for a whole dataset: as many of each class as there are, evenly spread over its order.

    The choice depends on nothing but the labels. A class with too few leaves its share to the others. A record with
    several labels counts in its first class; records without a label are a class of their own.

    Returns:
        The increasing positions of ``count`` records, which are fewer than there are.
    """
    labels, first = labels_of(records), np.full(len(records), -1)
    owners, places = np.unique(labels.owners, return_index=True)
    first[owners] = labels.values[places]
    _, classes, sizes = np.unique(first, return_inverse=True, return_counts=True)
    shares = np.zeros_like(sizes)
    while left := count - shares.sum():
        hungry = np.flatnonzero(shares < sizes)
        # If there is not one for each class, the classes that get one are evenly spread, too.
        hungry = hungry[np.arange(min(left, len(hungry))) * len(hungry) // min(left, len(hungry))]
        shares[hungry] = np.minimum(shares[hungry] + left // len(hungry), sizes[hungry])
    members = np.split(np.argsort(classes, kind="stable"), np.cumsum(sizes)[:-1])
    chosen = [own[(2 * np.arange(n) + 1) * len(own) // (2 * n)] for own, n in zip(members, shares, strict=True) if n]
    return sorted(np.concatenate(chosen).tolist())
