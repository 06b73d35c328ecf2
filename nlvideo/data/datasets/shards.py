"""``wds:PATTERN``: videos in tar files as WebDataset has them; ``classes.txt`` beside them names the classes."""

import logging

import numpy as np
import torch

from nlvideo.data.catalog import MetadataCatalog, Record
from nlvideo.data.datasets.listed import CLASSES_FILE, read_classes
from nlvideo.data.records.records import ChainedRecords, CompactRecords, Labels, SerializedRecords, StringBlock
from nlvideo.data.records.shard_files import expand_pattern, read_index, scan_shard
from nlvideo.data.video.paths import member_path
from nlvideo.utils.console import progress_bar
from nlvideo.utils.files.file_io import absolute_path, fetch_file, is_remote, missing_files
from nlvideo.utils.messages import some

_logger = logging.getLogger(__name__)


class ShardRecords(CompactRecords):
    """The samples of tar files, shard after shard.

    Args:
        shards: paths of the tar files.
        shard_sizes: number of samples of each, int64 (S,).
        ids: video ids, N texts.
        places: int64 (N, 2), offset and bytes of each video in its shard.
        labels: of all samples.
        extras: further keys of each record; None: no record has any.
    """

    def __init__(
        self,
        shards: list[str],
        shard_sizes: np.ndarray,
        ids: StringBlock,
        places: np.ndarray,
        labels: Labels,
        extras: CompactRecords | None = None,
    ):
        self.shards, self.shard_sizes, self._ids, self._labels, self._extras = shards, shard_sizes, ids, labels, extras
        self.may_have_spans = extras is not None
        self._places = torch.from_numpy(places)
        self._ends = np.cumsum(shard_sizes)

    @property
    def labels(self) -> Labels:
        """The labels of all records."""
        return self._labels

    def __len__(self) -> int:
        return len(self._ids)

    def record(self, index: int) -> Record:
        """Return a record; its file name is that of a part of a file, see ``member_path``."""
        shard = self.shards[int(np.searchsorted(self._ends, index, side="right"))]
        offset, size = self._places[index].tolist()
        place = {"file_name": member_path(shard, offset, size), "label": self._labels[index]}
        extras = {} if self._extras is None else self._extras.record(index)
        return {**place, "video_id": self._ids[index], **extras}

    def id_hashes(self) -> np.ndarray:
        """Return a 64-bit hash of each video id, uint64 (N,)."""
        return self._ids.hashes()


def load_shards(name: str) -> ShardRecords:
    """Return the records of ``wds:PATTERN`` and note its classes in the ``MetadataCatalog``.

    Raises:
        ValueError: shards are missing or not in order; one line that names the shard and the sample.
    """
    shards = [absolute_path(path) for path in expand_pattern(name.removeprefix("wds:"))]
    if missing := missing_files([path for path in shards if is_remote(path) or not fetch_file(path)]):
        raise ValueError(f"{name}: {len(missing)} of {len(shards)} shards do not exist: {some(missing)}")
    ids, places, labels, extras, num_scanned = [], [], [], [], 0
    for shard in progress_bar(shards, desc="shards", delay=5, leave=False):
        entries = read_index(shard)
        if entries is None:
            entries = scan_shard(shard)
            num_scanned += 1
        ids.append(StringBlock.from_strings(entry[0] for entry in entries))
        places.append(np.array([entry[1:3] for entry in entries], np.int64).reshape(-1, 2))
        labels.append(Labels.from_values(entry[3] for entry in entries))
        extras.append([entry[4] for entry in entries] if any(entry[4] for entry in entries) else None)
    if num_scanned:
        _logger.info("%s: read through %d shards, which have no index beside them", name, num_scanned)
    metadata = MetadataCatalog.get(name)
    metadata.classes_from = f"{shards[0].rpartition('/')[0]}/{CLASSES_FILE}"
    metadata.classes = read_classes(metadata.classes_from)
    joined = Labels.concatenate(labels)
    metadata.evaluator_type = "multilabel" if joined.any_lists else "classification"
    parts = (part or [{}] * len(block) for part, block in zip(extras, ids, strict=True))
    further = ChainedRecords([SerializedRecords(part) for part in parts]) if any(extras) else None
    sizes = np.array([len(block) for block in ids], np.int64)
    return ShardRecords(shards, sizes, StringBlock.concatenate(ids), np.concatenate(places), joined, further)
