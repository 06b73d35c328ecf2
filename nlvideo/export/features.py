"""Features of any layer for every video of a dataset, in shards: resumable, and each rank makes its part."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from nlvideo.config import CfgNode
from nlvideo.data import TestLoader, get_dataset
from nlvideo.data.build import loader_of_records
from nlvideo.data.catalog import Record
from nlvideo.data.checks import check_files, fingerprint
from nlvideo.data.records.records import SerializedRecords
from nlvideo.data.workers import explained
from nlvideo.export.feature_files import (
    check_format,
    num_shards,
    read_settings,
    shard_name,
    write_index,
    write_settings,
    write_shard,
)
from nlvideo.export.layer_output import LayerOutput
from nlvideo.export.recipe import view_recipe
from nlvideo.utils import comm
from nlvideo.utils.console import progress_bar
from nlvideo.utils.files.file_io import make_writable
from nlvideo.utils.messages import one_of

VIEWS = ("mean", "keep")
DTYPES = ("float32", "float16")
# A shard is what is in memory, and what is lost when a run is killed.
_SHARD_BYTES, _MAX_VIDEOS_PER_SHARD = 64 * 2**20, 1000


@dataclass(frozen=True)
class Extraction:
    """What a folder of features holds now."""

    num_videos: int
    #: of one video
    shape: tuple[int, ...]
    #: video_id -> why it could not be read
    failed: dict[str, str]
    #: shards that this call made, and shards that were there
    num_made: int
    num_kept: int


def extract_features(
    model: nn.Module,
    cfg: CfgNode,
    dataset: str,
    layer: str,
    output: str,
    *,
    pool: str = "avg",
    views: str = "mean",
    dtype: str = "float32",
    format: str = "npz",
    videos_per_shard: int | None = None,
) -> Extraction:
    """Write the features of a layer for the test views of every video of a dataset.

    Call it on every rank. A shard appears once it is complete, so that a run that was killed continues with the shards
    that are missing, with any number of ranks; the files are then those of an uninterrupted run. Read them with
    :func:`nlvideo.export.feature_files.load_features`.

    Args:
        model: with its weights, in eval mode.
        cfg: of the model; its test views, TEST.VIEWS_PER_FORWARD of them at a time.
        dataset: a name in the catalog, ``list:FILE`` or ``folder:DIR``; its labels need not be those of the model.
        layer: see :class:`LayerOutput`.
        output: the folder.
        pool: "avg" for (C,), "none" for the positions of the map, (C, T, H, W).
        views: "mean" averages over the views, "keep" has an axis of them in front.
        dtype: of the files; averages are made in float32.
        format: "npz" or "parquet".
        videos_per_shard: None: as many as make 64 MiB, at most 1000.

    Raises:
        LookupFailed: no such dataset or layer.
        ValueError: a wrong value, a folder that cannot be written, one with features of other settings, or maps that
            differ in size from video to video.
        ImportError: pyarrow is missing.
    """
    for name, value, allowed in (("--views", views, VIEWS), ("--dtype", dtype, DTYPES)):
        if value not in allowed:
            raise one_of(name, value, allowed)
    check_format(format)
    records = get_dataset(dataset)
    if not records:
        raise ValueError(f"{dataset}: the dataset is empty")
    check_files(dataset, records)
    network = LayerOutput(model, layer, pool)
    shape = _row_shape(network, cfg, views)
    size = videos_per_shard or _videos_per_shard(shape, dtype)
    if size < 1:
        raise ValueError(f"--videos-per-shard: got {size}, allowed: 1 or more")
    settings = {
        "dataset": dataset, "num_videos": len(records), "fingerprint": fingerprint(records), "layer": network.layer,
        "pool": pool, "views": views, "shape": list(shape), "dtype": dtype, "format": format, "videos_per_shard": size,
        "model": _model_digest(model, cfg), "recipe": view_recipe(cfg),
    }  # fmt: skip
    _prepare(output, settings)
    return _Shards(network, cfg, records, output, settings).make()


class _Shards:
    """The part of the work that depends on nothing but the settings."""

    def __init__(
        self, network: LayerOutput, cfg: CfgNode, records: Sequence[Record], folder: str, settings: dict[str, Any]
    ):
        self.network, self.cfg, self.records, self.folder, self.settings = network, cfg, records, folder, settings
        self.size = settings["videos_per_shard"]

    def make(self) -> Extraction:
        """Make this rank's part of what is missing; then, on rank 0, the index."""
        paths = [self._path(number) for number in range(num_shards(self.settings))]
        # As rank 0 sees it: another rank may have finished a shard by the time that a slow one looks.
        missing = comm.all_gather_object([k for k, path in enumerate(paths) if not os.path.exists(path)])[0]
        mine = missing[comm.get_rank() :: comm.get_world_size()]
        loader = self._loader([index for number in mine for index in self._videos(number)])
        progress = progress_bar(loader, desc="features", unit="video", disable=not comm.is_main_process())
        samples = (batch[0] for batch in progress)
        with explained(loader):
            for number in mine:
                self._make_shard(number, samples)
        comm.synchronize()
        rows = write_index(self.folder, self.settings) if comm.is_main_process() else []
        comm.synchronize()
        failed = {row["video_id"]: row["error"] for row in rows if row["failed"]}
        shape = tuple(self.settings["shape"])
        return Extraction(len(self.records), shape, failed, len(missing), len(paths) - len(missing))

    def _path(self, number: int) -> str:
        return os.path.join(self.folder, shard_name(number, self.settings["format"]))

    def _videos(self, number: int) -> range:
        return range(number * self.size, min((number + 1) * self.size, len(self.records)))

    def _loader(self, indices: list[int]) -> TestLoader:
        # The labels may be of other classes than the model's, of which the mapper would make a vector.
        records = SerializedRecords([{**record, "label": 0} for record in self.records])
        return loader_of_records(self.cfg, records, indices, "it has no features")

    def _make_shard(self, number: int, samples: Iterator[dict[str, Any]]) -> None:
        rows, features = [], []
        # Batches end with the shard: how a run was divided and interrupted does not decide which clips share one.
        batch = _Batch(self.network, self.cfg.TEST.VIEWS_PER_FORWARD)
        for index in self._videos(number):
            sample, record = next(samples), self.records[index]
            row = {"video_id": record["video_id"], "label": record["label"], "row": None, "failed": sample["failed"]}
            if sample["failed"]:
                row["error"] = getattr(sample["error"], "reason", str(sample["error"]))
            else:
                row["row"] = sum(not other["failed"] for other in rows)
                features += map(self._row, batch.add(sample["video"]))
            rows.append(row)
        features += map(self._row, batch.flush())
        shape = tuple(self.settings["shape"])
        for row, own in zip([row for row in rows if not row["failed"]], features):
            if own.shape != shape:
                raise ValueError(
                    f"{row['video_id']}: the features are {own.shape}, others {shape}, allowed with TEST.CROP_SIZE 0:"
                    " --pool avg"
                )
        array = np.stack(features) if features else np.zeros((0, *shape), self.settings["dtype"])
        write_shard(self._path(number), rows, array)

    def _row(self, views: torch.Tensor) -> np.ndarray:
        views = views.mean(dim=0) if self.settings["views"] == "mean" else views
        return views.numpy().astype(self.settings["dtype"])


class _Batch:
    """Views of several videos that go through the network together."""

    def __init__(self, network: LayerOutput, views_per_forward: int):
        self.network, self.views_per_forward = network, views_per_forward
        self._waiting: list[torch.Tensor] = []

    def add(self, video: torch.Tensor) -> list[torch.Tensor]:
        """Take the views (V, 3, T, H, W) of a video; return the features of those that are done, (V, ...) each."""
        done = []
        if self._waiting and self._waiting[0].shape[1:] != video.shape[1:]:
            done = self.flush()
        self._waiting.append(video)
        full = sum(map(len, self._waiting)) >= self.views_per_forward
        return [*done, *self.flush()] if full else done

    def flush(self) -> list[torch.Tensor]:
        """Return the features of the videos that wait."""
        if not self._waiting:
            return []
        lengths = [len(video) for video in self._waiting]
        parts = [self.network(part) for part in torch.cat(self._waiting).split(self.views_per_forward)]
        self._waiting = []
        return list(torch.cat(parts).split(lengths))


def _row_shape(network: LayerOutput, cfg: CfgNode, views: str) -> tuple[int, ...]:
    """The shape of one video's features, from a black clip."""
    side = cfg.TEST.CROP_SIZE or cfg.TEST.SHORT_SIDE
    own = network(torch.zeros(1, 3, cfg.INPUT.NUM_FRAMES, side, side, dtype=torch.uint8)).shape[1:]
    num_views = cfg.TEST.NUM_CLIPS * cfg.TEST.NUM_CROPS * (2 if cfg.TEST.FLIP else 1)
    return (num_views, *own) if views == "keep" else tuple(own)


def _videos_per_shard(shape: tuple[int, ...], dtype: str) -> int:
    # In memory they are float32, and one by one before they are stacked.
    row_bytes = int(np.prod(shape)) * 4
    return max(1, min(_MAX_VIDEOS_PER_SHARD, _SHARD_BYTES // row_bytes))


def _model_digest(model: nn.Module, cfg: CfgNode) -> str:
    """Sixteen hex digits that depend on the network and its weights, not on where they are."""
    node = cfg.MODEL.clone()
    node.defrost()
    node.DEVICE = node.WEIGHTS = ""
    digest = hashlib.sha256(node.dump().encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _prepare(folder: str, settings: dict[str, Any]) -> None:
    """Note the settings, or compare them with those of the features that are there."""
    if comm.is_main_process():
        make_writable(folder, "--output")
        if read_settings(folder) is None:
            write_settings(folder, settings)
    comm.synchronize()
    there, now = ({**content, **content["recipe"]} for content in (read_settings(folder), settings))
    for key, value in now.items():
        if there.get(key) != value and key != "recipe":
            raise ValueError(f"--output: {folder} holds features of another {key}: {there.get(key)!r}, now {value!r}")
