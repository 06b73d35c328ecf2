"""What a training and a test iterate over: torch's loaders, with errors and failures as this library reports them."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from nlvideo.data.clip_dataset import unusable_dataset
from nlvideo.data.transforms.batch_mixing import BatchMixer
from nlvideo.data.workers import WorkerWatch, full_memory_explained, signals_blocked
from nlvideo.errors import VideoTooShort
from nlvideo.utils.system.time_limit import given_up

_logger = logging.getLogger(__name__)


class TrainLoader:
    """An endless iterator of training batches; see ``collate_train`` for what a batch holds.

    Attributes:
        dataset_size: number of records, over all ranks.
        fingerprint: of the records, see ``checks.fingerprint``.
        watch: of the loader's workers.
    """

    def __init__(
        self,
        loader: DataLoader,
        dataset_size: int,
        watch: WorkerWatch,
        mixer: BatchMixer | None = None,
        device: torch.device | str = "cpu",
        first_batch: int = 0,
        fingerprint: str = "",
    ):
        """Put the parts together.

        Args:
            loader: of batches, or of errors to raise.
            dataset_size: number of records.
            watch: of the loader's workers.
            mixer: mixes the clips of each batch, or None.
            device: where they are mixed, and then stay.
            first_batch: number of the first batch in this rank's stream.
            fingerprint: of the records.
        """
        self.loader = loader
        self.dataset_size = dataset_size
        self.fingerprint = fingerprint
        self.watch = watch
        self._mixer, self._device, self._number = mixer, device, first_batch
        self._batches: Iterator | None = None

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
        if self._mixer is not None:
            batch["video"] = batch["video"].to(self._device, non_blocking=True)
            batch = self._mixer(batch, self._number)
        self._number += 1
        return batch


class TestLoader:
    """The test videos of this rank, each as a list of one sample; it can be iterated again.

    A sample is the mapper's, with "failed": bool. A failed one has "video": None, and "error" says why.

    Attributes:
        dataset_size: number of records, over all ranks.
        watch: of the loader's workers.
    """

    __test__ = False  # not a test class, whatever pytest makes of its name

    def __init__(self, loader: DataLoader, dataset_size: int, watch: WorkerWatch, failed_as: str = ""):
        self.loader, self.dataset_size, self.watch, self._failed_as = loader, dataset_size, watch, failed_as

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        errors, failed, num_samples = [], [], 0
        with signals_blocked(), full_memory_explained():
            batches = iter(self.loader)
        while (batch := self.watch.next_of(batches)) is not None:
            num_samples += 1
            if batch[0]["failed"]:
                errors.append(batch[0]["error"])
                given_up.update(batch[0].pop("given_up"))
                failed.append((batch[0]["file_name"], getattr(errors[-1], "reason", str(errors[-1]))))
                _logger.warning("%s: %s; %s", *failed[-1], self._failed_as)
            yield batch
        if num_samples and len(errors) == num_samples and all(isinstance(error, VideoTooShort) for error in errors):
            raise unusable_dataset(failed, errors)

    def __len__(self) -> int:
        return len(self.loader)
