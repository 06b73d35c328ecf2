"""From a config to loaders of training batches and of test videos."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from nlvideo.config import CfgNode
from nlvideo.data.catalog import MetadataCatalog, Record
from nlvideo.data.checks import check_pair, check_records, log_dataset
from nlvideo.data.clip_dataset import TestDataset, TrainDataset, collate_test, collate_train, unusable_dataset
from nlvideo.data.clip_sampling import VideoTooShort
from nlvideo.data.dataset_mapper import MAPPER
from nlvideo.data.datasets import get_dataset
from nlvideo.data.records import chain_records, compact_records
from nlvideo.data.samplers import SAMPLER, InferenceSampler
from nlvideo.utils import comm

_logger = logging.getLogger(__name__)


class TrainLoader:
    """An endless iterator of training batches; see ``collate_train`` for what a batch holds.

    Attributes:
        dataset_size: number of records, over all ranks.
    """

    def __init__(self, loader: DataLoader, dataset_size: int):
        self.loader = loader
        self.dataset_size = dataset_size
        self._batches: Iterator | None = None

    def __iter__(self) -> "TrainLoader":
        return self

    def __next__(self) -> dict[str, Any]:
        if self._batches is None:  # workers start with the first batch, not with the construction
            self._batches = iter(self.loader)
        batch = next(self._batches)
        if isinstance(batch, ValueError):
            self._batches = None
            # A new one: raising an object held here makes a cycle that keeps the workers alive until it is collected.
            raise ValueError(str(batch))
        return batch


class TestLoader:
    """The test videos of this rank, each as a list of one sample; it can be iterated again.

    A sample is the mapper's, with "failed": bool. A failed one has "video": None, and "error" says why.

    Attributes:
        dataset_size: number of records, over all ranks.
    """

    __test__ = False  # not a test class, whatever pytest makes of its name

    def __init__(self, loader: DataLoader, dataset_size: int):
        self.loader = loader
        self.dataset_size = dataset_size

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        errors, failed, num_samples = [], [], 0
        for batch in self.loader:
            num_samples += 1
            if batch[0]["failed"]:
                errors.append(batch[0]["error"])
                failed.append((batch[0]["file_name"], str(batch[0]["error"])))
                _logger.warning("%s: %s; it counts as wrong", *failed[-1])
            yield batch
        if num_samples and len(errors) == num_samples and all(isinstance(error, VideoTooShort) for error in errors):
            raise unusable_dataset(failed, errors)

    def __len__(self) -> int:
        return len(self.loader)


def build_train_loader(cfg: CfgNode, start_iter: int = 0) -> TrainLoader:
    """Build the loader of the training clips of this rank.

    An iteration takes SOLVER.CLIPS_PER_BATCH clips over all ranks, in SOLVER.ACCUMULATE batches per rank. The stream
    depends on the config alone: not on the number of workers, and ``start_iter`` continues it where it would be.

    Args:
        cfg: the config. A SEED below 0 is replaced by one that all ranks agree on.
        start_iter: first iteration of a resumed run.

    Raises:
        ValueError: a dataset is not in order or a value does not fit; one line.
        LookupFailed: an unknown dataset, sampler or mapper.
    """
    if not cfg.DATASETS.TRAIN:
        allowed = "names in the catalog, 'list:FILE', 'folder:DIR', 'wds:PATTERN'"
        raise ValueError(f"DATASETS.TRAIN: got an empty list, allowed: {allowed}")
    records = chain_records([load_dataset(cfg, name) for name in cfg.DATASETS.TRAIN])
    _check_same_classes(cfg.DATASETS.TRAIN)
    for name in cfg.DATASETS.TEST:
        # Named datasets come with their classes; what somebody made is checked now and not after the training.
        if name.startswith(("list:", "folder:", "wds:")):
            multi_label = cfg.MODEL.HEAD.LOSS == "sigmoid"
            check_pair(cfg.DATASETS.TRAIN, records, name, get_dataset(name), multi_label)
    clips = cfg.SOLVER.CLIPS_PER_BATCH
    shares = comm.get_world_size() * cfg.SOLVER.ACCUMULATE
    if clips % shares:
        raise ValueError(
            f"SOLVER.CLIPS_PER_BATCH: got {clips}, allowed: a multiple of {shares}"
            f" ({comm.get_world_size()} ranks x SOLVER.ACCUMULATE {cfg.SOLVER.ACCUMULATE})"
        )
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    sampler = _sampler_class(cfg)(
        records, seed=seed, rank=comm.get_rank(), world_size=comm.get_world_size(), start=start_iter * clips
    )
    mapper = MAPPER.get(cfg.DATALOADER.MAPPER)(cfg, True)
    dataset = TrainDataset(compact_records(records), mapper, seed)
    # Torch runs each worker on one thread and keeps two batches per worker ready.
    workers = cfg.DATALOADER.NUM_WORKERS
    batch_size = clips // shares
    loader = DataLoader(dataset, batch_size, sampler=sampler, collate_fn=collate_train, num_workers=workers)
    return TrainLoader(loader, len(records))


def build_test_loader(cfg: CfgNode, name: str) -> TestLoader:
    """Build the loader of this rank's share of a test dataset, one video at a time.

    Args:
        cfg: the config.
        name: the dataset, usually one of DATASETS.TEST.

    Raises:
        ValueError: the dataset is not in order or a value does not fit; one line.
        LookupFailed: an unknown dataset or mapper.
    """
    records = load_dataset(cfg, name)
    mapper = MAPPER.get(cfg.DATALOADER.MAPPER)(cfg, False)
    sampler = InferenceSampler(len(records), comm.get_rank(), comm.get_world_size())
    dataset = TestDataset(compact_records(records), mapper)
    workers = cfg.DATALOADER.NUM_WORKERS
    loader = DataLoader(dataset, batch_size=1, sampler=sampler, collate_fn=collate_test, num_workers=workers)
    return TestLoader(loader, len(records))


def load_dataset(cfg: CfgNode, name: str) -> Sequence[Record]:
    """Return the records of a dataset, checked against the config and logged.

    Raises:
        ValueError: the dataset is not in order; one line.
        LookupFailed: there is no such dataset.
    """
    records = get_dataset(name)
    check_records(name, records, cfg.MODEL.HEAD.NUM_CLASSES, multi_label=cfg.MODEL.HEAD.LOSS == "sigmoid")
    log_dataset(name, records)
    return records


def _sampler_class(cfg: CfgNode) -> Callable:
    """The sampler of the config; shards are read one after the other unless it says otherwise."""
    name = cfg.DATALOADER.SAMPLER
    if name == "TrainingSampler" and all(dataset.startswith("wds:") for dataset in cfg.DATASETS.TRAIN):
        name = "ShardSampler"
    cls = SAMPLER.get(name)
    return partial(cls, buffer=cfg.DATALOADER.SHUFFLE_BUFFER) if name == "ShardSampler" else cls


def _check_same_classes(names: list[str]) -> None:
    named = {name: MetadataCatalog.get(name).classes for name in names if MetadataCatalog.get(name).classes}
    first = next(iter(named), None)
    for name, classes in named.items():
        if classes != named[first]:
            raise ValueError(f"DATASETS.TRAIN: {first} and {name} name their classes differently")
