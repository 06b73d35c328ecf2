"""The map-style datasets that the loader's workers run: a record and its place in the stream become a sample."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from nlvideo.data.catalog import Record, label_target, source_of
from nlvideo.data.workers import WorkerWatch
from nlvideo.errors import FORESEEN, VideoDecodeError, VideoTooShort, portable
from nlvideo.utils.system.time_limit import given_up

# Records tried in place of one that fails, before the dataset itself is taken to be broken.
MAX_ATTEMPTS = 20


class TrainDataset(Dataset):
    """Samples for training, by (index of a record, position in the stream).

    The chance of a sample comes from the seed and the position alone. A record that cannot be decoded, or is too short,
    is replaced by another one drawn from the same chance; the sample's ``"failed"`` lists (path, reason) of such.

    Args:
        records: the dataset.
        mapper: see ``MAPPER``.
        seed: the run's, at least 0.
        watch: is told which record is being read.
        repeated_clips: samples that the mapper returns of each record, as a list where it is not one.
    """

    def __init__(
        self,
        records: Sequence[Record],
        mapper: Callable,
        seed: int,
        watch: WorkerWatch | None = None,
        repeated_clips: int = 1,
    ):
        self.records, self.mapper, self.seed = records, mapper, seed
        self.watch, self.repeated_clips = watch, repeated_clips

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> list[dict[str, Any]] | Exception:
        """Return the samples of a record, or the error to raise, such as that no replacement works either.

        The error is returned, so that it reaches the user without a worker's traceback around it.
        """
        index, position = key
        rng = np.random.default_rng([self.seed, position])
        failed: list[tuple[str, str]] = []
        errors, tried = [], set()
        while len(tried) < min(MAX_ATTEMPTS, len(self.records)):
            tried.add(index)
            record = self.records[index]
            if self.watch is not None:
                self.watch.note(index)
            try:
                return self._samples(record, rng, failed)
            except (VideoDecodeError, VideoTooShort) as error:
                errors.append(error)
                failed.append((record["file_name"], getattr(error, "reason", str(error))))
            except FORESEEN as error:
                return portable(error)
            while index in tried and len(tried) < len(self.records):
                index = int(rng.integers(len(self.records)))
        return unusable_dataset(failed, errors)

    def _samples(
        self, record: Record, rng: np.random.Generator, failed: list[tuple[str, str]]
    ) -> list[dict[str, Any]] | ValueError:
        mapped = self.mapper(record, rng)
        samples = mapped if isinstance(mapped, list) else [mapped]
        if len(samples) != self.repeated_clips:
            allowed = f"allowed with {type(self.mapper).__name__}, which makes {len(samples)} per video: {len(samples)}"
            return ValueError(f"INPUT.REPEATED_CLIPS: got {self.repeated_clips}, {allowed}")
        # What failed was one video, however many clips were to come of it.
        return [{**sample, "failed": [] if i else failed} for i, sample in enumerate(samples)]


class TestDataset(Dataset):
    """Samples for testing, by index, with where their videos are; one that fails keeps its place, ``"video": None``.

    Args:
        records: the dataset.
        mapper: see ``MAPPER``.
        watch: is told which record is being read.
        num_classes: length of the label vector of a video that fails; None for one label. See ``label_target``.
    """

    __test__ = False  # not a test class, whatever pytest makes of its name

    def __init__(
        self,
        records: Sequence[Record],
        mapper: Callable,
        watch: WorkerWatch | None = None,
        num_classes: int | None = None,
    ):
        self.records, self.mapper, self.watch, self.num_classes = records, mapper, watch, num_classes

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any] | Exception:
        record = self.records[index]
        if self.watch is not None:
            self.watch.note(index)
        try:
            return {**self.mapper(record, None), **source_of(record), "failed": False}
        except (VideoDecodeError, VideoTooShort) as error:
            label = label_target(record["label"], self.num_classes)
            sample = {"video": None, "label": label, "video_id": record["video_id"]}
            # The workers of the next test start with what these have given up.
            return {**sample, **source_of(record), "failed": True, "error": error, "given_up": dict(given_up)}
        except FORESEEN as error:
            return portable(error)


def unusable_dataset(failed: list[tuple[str, str]], errors: list[Exception]) -> ValueError:
    """Return the error, one line, for a dataset of which no video that was tried could be used."""
    path, reason = failed[-1]
    if all(isinstance(error, VideoTooShort) for error in errors):
        needed, longest = errors[-1].needed, max(error.num_video_frames for error in errors)
        return ValueError(
            f"every video tried ({len(failed)}) is shorter than a clip: INPUT.NUM_FRAMES at INPUT.FRAME_STRIDE needs {needed}"
            f" frames, the longest video has {longest}; INPUT.SHORT_VIDEO 'error' refuses them, 'wrap' and 'clamp' do not"
        )
    return ValueError(f"none of {len(failed)} videos tried in a row could be used; the last: {path}: {reason}")


def collate_train(groups: list[list[dict[str, Any]] | Exception]) -> dict[str, Any] | Exception:
    """Stack the samples of the videos of a training batch; an error among them becomes the batch.

    Returns:
        {"video": uint8 (N, C, T, H, W), "label": int64 (N,) or float32 (N, num_classes), "video_id": list of str,
        "num_failed": int, "failed": list of (path, reason)}. Clips of one video are neighbours.
    """
    for group in groups:
        if isinstance(group, Exception):
            return group
    samples = [sample for group in groups for sample in group]
    labels = [sample["label"] for sample in samples]
    failed = [failure for sample in samples for failure in sample["failed"]]
    return {
        "video": torch.stack([sample["video"] for sample in samples]),
        "label": torch.stack(labels) if isinstance(labels[0], torch.Tensor) else torch.tensor(labels),
        "video_id": [sample["video_id"] for sample in samples],
        "num_failed": len(failed),
        "failed": failed,
    }


def collate_test(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave the samples as they are: videos at test may differ in size."""
    return samples
