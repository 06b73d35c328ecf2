"""From a config to loaders of training batches and of test videos."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from nlvideo.config import CfgNode
from nlvideo.data.catalog import MetadataCatalog, Record
from nlvideo.data.checks import check_pair, check_records, check_same_classes, fingerprint, log_dataset
from nlvideo.data.clip_dataset import TestDataset, TrainDataset, collate_test, collate_train
from nlvideo.data.dataset_mapper import MAPPER
from nlvideo.data.datasets import get_dataset
from nlvideo.data.loaders import TestLoader, TrainLoader
from nlvideo.data.records.records import chain_records, compact_records
from nlvideo.data.samplers import SAMPLER, InferenceSampler
from nlvideo.data.shared_videos import warn_of_shared_videos
from nlvideo.data.transforms.batch_mixing import BatchMixer
from nlvideo.data.workers import WorkerWatch, begin_worker
from nlvideo.errors import LookupFailed
from nlvideo.utils import comm
from nlvideo.utils.system.env import uses_cuda


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
    records = _training_records(cfg)
    clips, repeated = cfg.SOLVER.CLIPS_PER_BATCH, cfg.INPUT.REPEATED_CLIPS
    batch_size = _batch_size(cfg)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    # The stream is one of videos; each gives as many clips to the batch as are repeated.
    start = start_iter * clips // repeated
    sampler = _sampler_class(cfg)(
        records, seed=seed, rank=comm.get_rank(), world_size=comm.get_world_size(), start=start
    )
    mapper = MAPPER.get(cfg.DATALOADER.MAPPER, "DATALOADER.MAPPER")(cfg, True)
    mixer = build_batch_mixer(cfg, batch_size, seed)
    shared = compact_records(records)
    watch = WorkerWatch(shared, cfg.DATALOADER.NUM_WORKERS)
    cuda = uses_cuda(cfg.MODEL.DEVICE)
    loader = DataLoader(
        TrainDataset(shared, mapper, seed, watch, repeated),
        batch_size=batch_size // repeated,
        sampler=sampler,
        collate_fn=collate_train,
        # From pinned memory clips are copied to the GPU while it computes.
        pin_memory=cuda,
        **_worker_options(cfg),
    )
    device = cfg.MODEL.DEVICE if cfg.MODEL.DEVICE != "auto" else "cuda" if cuda else "cpu"
    first_batch = start_iter * cfg.SOLVER.ACCUMULATE
    return TrainLoader(loader, len(records), watch, mixer, device, first_batch, fingerprint(records))


def build_test_loader(cfg: CfgNode, name: str) -> TestLoader:
    """Build the loader of this rank's share of a test dataset, one video at a time.

    Args:
        cfg: the config.
        name: the dataset, usually one of DATASETS.TEST.

    Raises:
        ValueError: the dataset is not in order or a value does not fit; one line.
        LookupFailed: an unknown dataset or mapper.
    """
    records = load_dataset(cfg, name, "DATASETS.TEST")
    sampler = InferenceSampler(len(records), comm.get_rank(), comm.get_world_size())
    return loader_of_records(cfg, compact_records(records), sampler)


def loader_of_records(
    cfg: CfgNode, records: Sequence[Record], indices: Iterable[int], failed_as: str = "it counts as wrong"
) -> TestLoader:
    """Build the loader of chosen records as in a test; ``failed_as`` is said of those that cannot be read."""
    mapper = MAPPER.get(cfg.DATALOADER.MAPPER, "DATALOADER.MAPPER")(cfg, False)
    watch = WorkerWatch(records, cfg.DATALOADER.NUM_WORKERS)
    # All views of a video are some 200 MB: one per worker waits, not two. Nor are they pinned: only
    # TEST.VIEWS_PER_FORWARD of them go to the GPU at once, from a copy.
    options = _worker_options(cfg, prefetch=1)
    num_classes = cfg.MODEL.HEAD.NUM_CLASSES if cfg.MODEL.HEAD.LOSS == "sigmoid" else None
    dataset = TestDataset(records, mapper, watch, num_classes)
    loader = DataLoader(dataset, batch_size=1, sampler=indices, collate_fn=collate_test, **options)
    return TestLoader(loader, len(records), watch, failed_as)


def build_batch_mixer(cfg: CfgNode, batch_size: int, seed: int) -> BatchMixer | None:
    """Build what SOLVER.MIX asks for; None where it is off.

    Args:
        cfg: the config.
        batch_size: clips that meet in a batch of one rank.
        seed: at least 0.

    Raises:
        ValueError: there is nothing to mix a clip with.
    """
    mix = cfg.SOLVER.MIX
    if not (mix.MIXUP_ALPHA or mix.CUTMIX_ALPHA) or not mix.PROB:
        return None
    if batch_size < 2:
        shares = f"{comm.get_world_size()} ranks x SOLVER.ACCUMULATE {cfg.SOLVER.ACCUMULATE}"
        raise ValueError(
            f"SOLVER.CLIPS_PER_BATCH: got {cfg.SOLVER.CLIPS_PER_BATCH} for {shares}, allowed with SOLVER.MIX: at least"
            " two clips in each batch"
        )
    classes = cfg.MODEL.HEAD.NUM_CLASSES
    return BatchMixer(classes, mix.MIXUP_ALPHA, mix.CUTMIX_ALPHA, mix.PROB, seed, comm.get_rank())


def _training_records(cfg: CfgNode) -> Sequence[Record]:
    if not cfg.DATASETS.TRAIN:
        allowed = "names in the catalog, 'list:FILE', 'folder:DIR', 'wds:PATTERN'"
        raise ValueError(f"DATASETS.TRAIN: got an empty list, allowed: {allowed}")
    records = chain_records([load_dataset(cfg, name, "DATASETS.TRAIN") for name in cfg.DATASETS.TRAIN])
    _check_same_classes(cfg.DATASETS.TRAIN)
    for name in cfg.DATASETS.TEST:
        # Now and not after the training.
        tested = _checked_records(cfg, name, "DATASETS.TEST")
        with _key_named("DATASETS.TEST"):
            check_pair(cfg.DATASETS.TRAIN, records, name, tested, cfg.MODEL.HEAD.LOSS == "sigmoid")
        if comm.is_main_process():
            warn_of_shared_videos(cfg.DATASETS.TRAIN, records, name, tested)
    return records


def _batch_size(cfg: CfgNode) -> int:
    """The clips of one batch of one rank."""
    clips, repeated, accumulate = cfg.SOLVER.CLIPS_PER_BATCH, cfg.INPUT.REPEATED_CLIPS, cfg.SOLVER.ACCUMULATE
    shares = comm.get_world_size() * accumulate
    if clips % (shares * repeated):
        factors = f"{comm.get_world_size()} ranks x SOLVER.ACCUMULATE {accumulate}"
        factors += f" x INPUT.REPEATED_CLIPS {repeated}" if repeated > 1 else ""
        raise ValueError(f"SOLVER.CLIPS_PER_BATCH: got {clips}, allowed: a multiple of {shares * repeated} ({factors})")
    return clips // shares


def _worker_options(cfg: CfgNode, prefetch: int = 2) -> dict[str, Any]:
    """Arguments of a ``DataLoader``: torch runs each worker on one thread and keeps ``prefetch`` batches of it ready."""
    workers = cfg.DATALOADER.NUM_WORKERS
    if workers == 0:
        return {"num_workers": 0}
    # Without a batch for so long, the workers are looked at.
    options = {"prefetch_factor": prefetch, "timeout": 30, "worker_init_fn": partial(begin_worker, os.getpid())}
    return {"num_workers": workers, **options}


def load_dataset(cfg: CfgNode, name: str, key: str) -> Sequence[Record]:
    """Return the records of a dataset, checked against the config and logged.

    Args:
        cfg: the config.
        name: the dataset.
        key: of the config, which names it; errors begin with it.

    Raises:
        ValueError: the dataset is not in order; one line.
        LookupFailed: there is no such dataset.
    """
    records = _checked_records(cfg, name, key)
    log_dataset(name, records)
    return records


def _checked_records(cfg: CfgNode, name: str, key: str) -> Sequence[Record]:
    with _key_named(key):
        records = get_dataset(name)
        check_records(name, records, cfg.MODEL.HEAD.NUM_CLASSES, multi_label=cfg.MODEL.HEAD.LOSS == "sigmoid")
    return records


@contextmanager
def _key_named(key: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, LookupFailed) as error:
        # Not type(error): some classes, such as UnicodeError, take other arguments.
        kind = LookupFailed if isinstance(error, LookupFailed) else ValueError
        raise kind(f"{key}: {error}") from None


def _sampler_class(cfg: CfgNode) -> Callable:
    """The sampler of the config; shards are read one after the other unless it says otherwise."""
    name = cfg.DATALOADER.SAMPLER
    if name == "TrainingSampler" and all(dataset.startswith("wds:") for dataset in cfg.DATASETS.TRAIN):
        name = "ShardSampler"
    cls = SAMPLER.get(name, "DATALOADER.SAMPLER")
    return partial(cls, buffer=cfg.DATALOADER.SHUFFLE_BUFFER) if name == "ShardSampler" else cls


def _check_same_classes(names: list[str]) -> None:
    named = {name: MetadataCatalog.get(name).classes for name in names if MetadataCatalog.get(name).classes}
    first = next(iter(named), None)
    for name in named:
        with _key_named("DATASETS.TRAIN"):
            check_same_classes(first, named[first], name)
