"""From a config to loaders of training batches and of test videos."""

import logging
import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from nlvideo.config import CfgNode
from nlvideo.config.validate import check_resolved
from nlvideo.data import checks
from nlvideo.data.catalog import Record
from nlvideo.data.checks import common_classes, key_named
from nlvideo.data.dataset_mapper import MAPPER
from nlvideo.data.datasets import get_dataset
from nlvideo.data.loaders import TestDataset, TestLoader, TrainDataset, TrainLoader, collate_train, stack_clips
from nlvideo.data.records.records import chain_records, compact_records
from nlvideo.data.samplers import SAMPLER, class_balanced_subset
from nlvideo.data.transforms.batch_mixing import BatchMixer
from nlvideo.data.workers import WorkerWatch, begin_worker
from nlvideo.utils import comm
from nlvideo.utils.system.env import uses_cuda

logger = logging.getLogger(__name__)

# The training records that `read_training_data` has read, by what they depend on, until a loader takes them.
_read_before: dict[tuple, Sequence[Record]] = {}


def build_train_loader(cfg: CfgNode, start_iter: int = 0, first_clip: int | None = None) -> TrainLoader:
    """Build the loader of the training clips of this rank.

    An iteration takes SOLVER.CLIPS_PER_BATCH clips over all ranks, in SOLVER.ACCUMULATE batches per rank. The stream
    depends on the config alone, not on the number of workers. A resumed run enters it at ``start_iter``, or at the clip
    ``first_clip`` of the stream where earlier iterations took other numbers of clips. A SEED below 0 is replaced by one
    that all ranks agree on.

    Raises:
        ValueError: a dataset is faulty or a value does not fit; one line.
        LookupFailed: an unknown dataset, sampler or mapper.
    """
    check_resolved(cfg, "MODEL.HEAD.NUM_CLASSES")
    if _data_of(cfg) not in _read_before:
        read_training_data(cfg)
    records = _read_before.pop(_data_of(cfg))
    clips, repeated = cfg.SOLVER.CLIPS_PER_BATCH, cfg.INPUT.REPEATED_CLIPS
    rank, world_size = comm.get_rank(), comm.get_world_size()
    batches = world_size * cfg.SOLVER.ACCUMULATE
    if clips % (batches * repeated):
        factors = _shares(cfg) + (f" x INPUT.REPEATED_CLIPS {repeated}" if repeated > 1 else "")
        allowed = f"a multiple of {batches * repeated} ({factors})"
        raise ValueError(f"SOLVER.CLIPS_PER_BATCH: got {clips}, allowed: {allowed}")
    batch_size = clips // batches
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    # The sampler counts videos. Each gives INPUT.REPEATED_CLIPS clips to the batch.
    start = (start_iter * clips if first_clip is None else first_clip) // repeated
    sampler_class = _sampler_class(cfg)
    options = sampler_class.options(cfg) if hasattr(sampler_class, "options") else {}
    sampler = sampler_class(records, seed=seed, rank=rank, world_size=world_size, start=start, **options)
    shared = compact_records(records)
    watch = WorkerWatch(shared, cfg.DATALOADER.NUM_WORKERS)
    cuda = uses_cuda(cfg.MODEL.DEVICE)
    mapper = MAPPER.get(cfg.DATALOADER.MAPPER, "DATALOADER.MAPPER")(cfg, True)
    loader = DataLoader(
        TrainDataset(shared, mapper, seed, watch, repeated),
        batch_size=batch_size // repeated,
        sampler=sampler,
        collate_fn=partial(collate_train, collate=getattr(mapper, "collate", stack_clips)),
        # From pinned memory clips are copied to the GPU while it computes.
        pin_memory=cuda,
        **_worker_options(cfg),
    )
    device = cfg.MODEL.DEVICE if cfg.MODEL.DEVICE != "auto" else "cuda" if cuda else "cpu"
    mixer, first_batch = build_batch_mixer(cfg, batch_size, seed), start_iter * cfg.SOLVER.ACCUMULATE
    return TrainLoader(loader, len(records), watch, mixer, device, first_batch, checks.fingerprint(records))


def read_training_data(cfg: CfgNode) -> tuple[Sequence[Record], int]:
    """Return the records of DATASETS.TRAIN and how many classes they have, checked, and compared with the test sets.

    MODEL.HEAD.NUM_CLASSES may be 0. The next ``build_train_loader`` of this data takes the records from here: there may
    be ten million of them.

    Raises:
        ValueError: a dataset is faulty; one line.
        LookupFailed: an unknown dataset.
    """
    train, head = cfg.DATASETS.TRAIN, cfg.MODEL.HEAD
    if not train:
        allowed = "names in the catalog, 'list:FILE', 'folder:DIR', 'wds:PATTERN'"
        raise ValueError(f"DATASETS.TRAIN: got an empty list, allowed: {allowed}")
    parts, counts = zip(*(_load_dataset(cfg, name, "DATASETS.TRAIN") for name in train), strict=True)
    records, num_classes = chain_records(parts), max(counts)
    with key_named("DATASETS.TRAIN"):
        common_classes(train)
    for name in cfg.DATASETS.TEST:
        # An error in a test dataset comes now, not after the training.
        with key_named("DATASETS.TEST"):
            tested = get_dataset(name)
            checks.check_pair(train, records, name, tested, head.LOSS == "sigmoid")
            _check_records(cfg, name, tested, head.NUM_CLASSES or num_classes, spans_count=False)
        if comm.is_main_process():
            checks.warn_of_shared_videos(train, records, name, tested)
    _read_before.clear()
    _read_before[_data_of(cfg)] = records
    return records, num_classes


def build_test_loader(cfg: CfgNode, name: str, max_videos: int = 0) -> TestLoader:
    """Build the loader of this rank's share of a test dataset, one video at a time.

    It takes at most ``max_videos`` of them, see `class_balanced_subset`; 0: all.

    Raises:
        ValueError: the dataset is faulty or a value does not fit; one line.
        LookupFailed: an unknown dataset or mapper.
    """
    check_resolved(cfg, "MODEL.HEAD.NUM_CLASSES")
    records, _ = _load_dataset(cfg, name, "DATASETS.TEST")
    if 0 < max_videos < len(records):
        logger.info("%s: %d of its %d videos, evenly spread over the classes", name, max_videos, len(records))
        records = [records[i] for i in class_balanced_subset(records, max_videos)]
    share = share_of_rank(len(records), comm.get_rank(), comm.get_world_size())
    return loader_of_records(cfg, compact_records(records), share)


def share_of_rank(size: int, rank: int, world_size: int) -> range:
    """Return the records of one rank in a test of ``size``: neighbours, each record exactly once over all ranks."""
    return range(size * rank // world_size, size * (rank + 1) // world_size)


def loader_of_records(
    cfg: CfgNode, records: Sequence[Record], indices: Iterable[int], failed_as: str = "it counts as wrong"
) -> TestLoader:
    """Build a test loader of chosen records. The log says ``failed_as`` of each video that cannot be read."""
    watch = WorkerWatch(records, cfg.DATALOADER.NUM_WORKERS)
    num_classes = cfg.MODEL.HEAD.NUM_CLASSES if cfg.MODEL.HEAD.LOSS == "sigmoid" else None
    mapper = MAPPER.get(cfg.DATALOADER.MAPPER, "DATALOADER.MAPPER")(cfg, False)
    # All views of a video are some 200 MB: one video per worker waits, not two. They are not pinned, because only
    # TEST.VIEWS_PER_FORWARD of them go to the GPU at once, from a copy. Lists stay lists: videos may differ in size.
    loader = DataLoader(
        TestDataset(records, mapper, watch, num_classes),
        batch_size=1,
        sampler=indices,
        collate_fn=list,
        **_worker_options(cfg, 1),
    )
    return TestLoader(loader, len(records), watch, failed_as)


def build_batch_mixer(cfg: CfgNode, batch_size: int, seed: int) -> BatchMixer | None:
    """Build what SOLVER.MIX asks for, for batches of ``batch_size`` clips of one rank; None where it is off.

    Raises:
        ValueError: there is nothing to mix a clip with.
    """
    mix = cfg.SOLVER.MIX
    if not (mix.MIXUP_ALPHA or mix.CUTMIX_ALPHA) or not mix.PROB:
        return None
    if batch_size < 2:
        given = f"got {cfg.SOLVER.CLIPS_PER_BATCH} for {_shares(cfg)}"
        raise ValueError(f"SOLVER.CLIPS_PER_BATCH: {given}, allowed with SOLVER.MIX: at least two clips in each batch")
    classes = cfg.MODEL.HEAD.NUM_CLASSES
    return BatchMixer(classes, mix.MIXUP_ALPHA, mix.CUTMIX_ALPHA, mix.PROB, seed, comm.get_rank())


def _data_of(cfg: CfgNode) -> tuple:
    """What `read_training_data` depends on, besides the number of classes."""
    return (*cfg.DATASETS.TRAIN, None, *cfg.DATASETS.TEST, cfg.MODEL.HEAD.LOSS, cfg.INPUT.FPS > 0)


def _shares(cfg: CfgNode) -> str:
    return f"{comm.get_world_size()} ranks x SOLVER.ACCUMULATE {cfg.SOLVER.ACCUMULATE}"


def _worker_options(cfg: CfgNode, prefetch: int = 2) -> dict[str, Any]:
    """Arguments of a ``DataLoader``. Each worker computes on one thread and has up to ``prefetch`` batches ready."""
    if not cfg.DATALOADER.NUM_WORKERS:
        return {}
    # After 30 seconds without a batch, WorkerWatch looks at the workers.
    options = {"prefetch_factor": prefetch, "timeout": 30, "worker_init_fn": partial(begin_worker, os.getpid())}
    return {"num_workers": cfg.DATALOADER.NUM_WORKERS, **options}


def _load_dataset(cfg: CfgNode, name: str, key: str) -> tuple[Sequence[Record], int]:
    """The records of a dataset, checked against the config, and its number of classes; errors begin with the key."""
    with key_named(key):
        records = get_dataset(name)
        num_classes = _check_records(cfg, name, records, cfg.MODEL.HEAD.NUM_CLASSES, key == "DATASETS.TRAIN")
    checks.log_dataset(name, records)
    return records, num_classes


def _check_records(cfg: CfgNode, name: str, records: Sequence[Record], num_classes: int, spans_count: bool) -> int:
    multi_label, by_time = cfg.MODEL.HEAD.LOSS == "sigmoid", cfg.INPUT.FPS > 0
    return checks.check_records(name, records, num_classes, multi_label, by_time, spans_count)


def _sampler_class(cfg: CfgNode) -> Any:
    """The sampler of the config. If all data is in shards, they are read one after the other by default."""
    name = cfg.DATALOADER.SAMPLER
    if name == "TrainingSampler" and all(dataset.startswith("wds:") for dataset in cfg.DATASETS.TRAIN):
        name = "ShardSampler"
    return SAMPLER.get(name, "DATALOADER.SAMPLER")
