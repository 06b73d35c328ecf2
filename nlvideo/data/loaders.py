"""From a record and its place in the stream to batches: torch's datasets and loaders, with errors as users get them."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from nlvideo.data.catalog import Record, label_target, source_of
from nlvideo.data.transforms.batch_mixing import BatchMixer
from nlvideo.data.workers import WorkerWatch, full_memory_explained, signals_blocked
from nlvideo.errors import FORESEEN, VideoDecodeError, VideoTooShort, portable
from nlvideo.utils.system.time_limit import given_up

_logger = logging.getLogger(__name__)
# After so many failed videos in a row, an error says that the dataset is broken.
MAX_ATTEMPTS = 20
# Tells the random numbers after a failure from others of the same seed.
_AGAIN = 2000

# What the mapper makes of a record.
Sample = dict[str, Any]


@dataclass(eq=False)
class TrainDataset(Dataset):
    """Samples for training, by (index of a record, position in the stream).

    The random numbers of a sample depend on the seed, the position and the number of failed tries alone. They also
    choose another record where one cannot be decoded or is too short. ``"failed"`` of the sample lists (path, reason)
    of the records that failed.
    """

    records: Sequence[Record]
    mapper: Callable[..., Any]  #: see ``MAPPER``
    seed: int  #: the run's, at least 0
    watch: WorkerWatch | None = None  #: is told which record is being read
    repeated_clips: int = 1  #: samples that the mapper returns for a record; several come as a list

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> list[Sample] | Exception:
        """Return the samples of a record, or an error. The loader raises it, without the traceback of a worker."""
        index, position = key
        rng = np.random.default_rng([self.seed, position])
        failed: list[tuple[str, Exception]] = []
        tried: set[int] = set()
        while len(tried) < min(MAX_ATTEMPTS, len(self.records)):
            tried.add(index)
            record = self.records[index]
            if self.watch is not None:
                self.watch.note(index)
            try:
                mapped = self.mapper(record, rng)
                samples = mapped if isinstance(mapped, list) else [mapped]
                break
            except (VideoDecodeError, VideoTooShort) as error:
                failed.append((record["file_name"], error))
            except FORESEEN as error:
                return portable(error)
            # Not the same generator: whether the failed try has drawn depends on what this worker has given up before.
            rng = np.random.default_rng([self.seed, position, _AGAIN, len(tried)])
            while index in tried and len(tried) < len(self.records):
                index = int(rng.integers(len(self.records)))
        else:
            return _unusable_dataset(failed)
        if len(samples) != self.repeated_clips:
            makes = f"the mapper {type(self.mapper).__name__} makes {len(samples)} of each video"
            return ValueError(
                f"INPUT.REPEATED_CLIPS: got {self.repeated_clips}, allowed: {len(samples)}, because {makes}"
            )
        # A failed video counts once, even if several clips were to come from it.
        reasons = [(path, _reason(error)) for path, error in failed]
        return [{**sample, "failed": [] if i else reasons} for i, sample in enumerate(samples)]


@dataclass(eq=False)
class TestDataset(Dataset):
    """Test samples by index, with where each video is. One that fails keeps its place, with ``"video": None``."""

    __test__ = False  # pytest takes it for a test by its name

    records: Sequence[Record]
    mapper: Callable[..., Any]  #: see ``MAPPER``
    watch: WorkerWatch | None = None  #: is told which record is being read
    num_classes: int | None = None  #: that of ``label_target``, for videos that fail

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample | Exception:
        record = self.records[index]
        if self.watch is not None:
            self.watch.note(index)
        try:
            return {**self.mapper(record, None), **source_of(record), "failed": False}
        except (VideoDecodeError, VideoTooShort) as error:
            label = label_target(record["label"], self.num_classes)
            sample = {"video": None, "label": label, "video_id": record["video_id"], **source_of(record)}
            # So that the workers of the next test do not try again what this one has given up.
            return {**sample, "failed": True, "error": error, "given_up": dict(given_up)}
        except FORESEEN as error:
            return portable(error)


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, VideoDecodeError) else str(error)


def _unusable_dataset(failed: Sequence[tuple[str, Exception]]) -> ValueError:
    """The error, one line, for a dataset of which no video that was tried could be used."""
    short = [error for _, error in failed if isinstance(error, VideoTooShort)]
    if len(short) == len(failed):
        longest = max(error.num_video_frames for error in short)
        rate = f" at INPUT.FPS {short[-1].fps:g}" if short[-1].fps else ""
        return ValueError(
            f"every video tried ({len(failed)}) is shorter than a clip: a clip needs {short[-1].needed} frames{rate}"
            f" (INPUT.NUM_FRAMES, INPUT.FRAME_STRIDE), the longest video has {longest};"
            " INPUT.SHORT_VIDEO 'error' refuses them, 'wrap' and 'clamp' do not"
        )
    path, error = failed[-1]
    return ValueError(f"none of {len(failed)} videos tried in a row could be used; the last: {path}: {_reason(error)}")


def stack_clips(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return {"video": uint8 (N, C, T, H, W), "label": int64 (N,) or float32 (N, num_classes)} of N clips."""
    labels = [sample["label"] for sample in samples]
    return {
        "video": torch.stack([sample["video"] for sample in samples]),
        "label": torch.stack(labels) if isinstance(labels[0], torch.Tensor) else torch.tensor(labels),
    }


def collate_train(
    groups: Sequence[list[Sample] | Exception], collate: Callable[[list[Sample]], dict[str, Any]] = stack_clips
) -> dict[str, Any] | Exception:
    """Make a training batch of the samples of its videos; if one of them is an error, it is the batch.

    Returns:
        What ``collate`` makes of the samples, and {"video_id": list of str, "num_failed": int, "failed": list of
        (path, reason)}. Clips of one video are neighbours.
    """
    samples: list[Sample] = []
    for group in groups:
        if isinstance(group, Exception):
            return group
        samples += group
    failed = [failure for sample in samples for failure in sample["failed"]]
    ids = [sample["video_id"] for sample in samples]
    return {**collate(samples), "video_id": ids, "num_failed": len(failed), "failed": failed}


@dataclass(eq=False)
class TrainLoader:
    """An endless iterator of training batches; see ``collate_train`` for what a batch holds."""

    loader: DataLoader  #: of batches, or of errors to raise
    dataset_size: int  #: number of records, over all ranks
    watch: WorkerWatch  #: of the loader's workers
    mixer: BatchMixer | None = None  #: mixes the clips of each batch on ``device``, where they stay
    device: torch.device | str = "cpu"
    next_batch: int = 0  #: number of the next batch in this rank's stream
    fingerprint: str = ""  #: of the records, see ``checks.fingerprint``
    _batches: Iterator | None = field(default=None, init=False)

    def __iter__(self) -> "TrainLoader":
        return self

    def __next__(self) -> dict[str, Any]:
        if self._batches is None:  # workers start with the first batch, not with the construction
            with signals_blocked(), full_memory_explained():
                self._batches = iter(self.loader)
        try:
            batch = self.watch.next_of(self._batches)
        except Exception:
            self._batches = None
            raise
        if self.mixer is not None:
            batch["video"] = batch["video"].to(self.device, non_blocking=True)
            batch = self.mixer(batch, self.next_batch)
        self.next_batch += 1
        return batch


@dataclass(eq=False)
class TestLoader:
    """The test videos of this rank, each as a list of one sample; it can be iterated again.

    A sample is the mapper's, with "failed": bool. A failed one has "video": None, and "error" says why.
    """

    __test__ = False  # pytest takes it for a test by its name

    loader: DataLoader
    dataset_size: int  #: number of records, over all ranks
    watch: WorkerWatch  #: of the loader's workers
    failed_as: str = ""  #: what the log says of a video that failed

    def __iter__(self) -> Iterator[list[Sample]]:
        failed: list[tuple[str, Exception]] = []
        num_samples = 0
        with signals_blocked(), full_memory_explained():
            batches = iter(self.loader)
        while (batch := self.watch.next_of(batches)) is not None:
            num_samples += 1
            if batch[0]["failed"]:
                path, error = batch[0]["file_name"], batch[0]["error"]
                given_up.update(batch[0].pop("given_up"))
                failed.append((path, error))
                _logger.warning("%s: %s; %s", path, _reason(error), self.failed_as)
            yield batch
        short = sum(isinstance(error, VideoTooShort) for _, error in failed)
        # The videos of other ranks may be longer.
        if short and short == num_samples == self.dataset_size:
            raise _unusable_dataset(failed)

    def __len__(self) -> int:
        return len(self.loader)
