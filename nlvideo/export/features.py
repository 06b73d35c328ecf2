"""Features of any layer for every video of a dataset, in shards: resumable, and each rank makes its part."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from nlvideo.config import CfgNode
from nlvideo.data import get_dataset
from nlvideo.data.build import loader_of_records
from nlvideo.data.catalog import Record
from nlvideo.data.checks import check_files, dataset_classes, fingerprint
from nlvideo.data.records.records import SerializedRecords
from nlvideo.data.workers import explained
from nlvideo.export import feature_files
from nlvideo.export.export_files import view_recipe
from nlvideo.layers import fuse_for_inference
from nlvideo.utils import comm
from nlvideo.utils.analysis import find_layer, run_until
from nlvideo.utils.console import progress_bar
from nlvideo.utils.files.file_io import make_writable
from nlvideo.utils.messages import check_one_of

POOLS = ("avg", "none")
VIEWS = ("mean", "keep")
DTYPES = ("float32", "float16")
# One shard is in memory at a time. A rank that is killed loses at most one shard.
_SHARD_BYTES, _MAX_VIDEOS_PER_SHARD = 64 * 2**20, 1000


class LayerOutput:
    """Runs a model up to one of its layers.

    Example:
        >>> LayerOutput(model, "res4.1", pool="avg")(clips).shape
        torch.Size([3, 1024])
    """

    def __init__(self, model: nn.Module, layer: str, pool: str = "avg"):
        """Find the layer.

        Args:
            model: as the `META_ARCH` registry describes, in eval mode.
            layer: name of a sub-module as in ``model.named_modules()``; those of the backbone also without "backbone.".
                "backbone" itself is the map that the head reads.
            pool: "avg" averages a map over time and space, "none" keeps its positions.

        Raises:
            LookupFailed: no such layer; the message lists what is close.
            ValueError: an unknown pool.
        """
        check_one_of("pool", pool, POOLS)
        self.model, self.pool = model, pool
        self.layer, self._module = find_layer(model, layer)
        backbone: Any = getattr(model, "backbone", None)
        inner = self.layer.removeprefix("backbone.")
        is_inside = inner != self.layer and hasattr(backbone, "has_channels_last")
        self._channels_last = is_inside and backbone.has_channels_last(inner)

    @torch.no_grad()
    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, T, H, W) -> float32 (N, C), or (N, C, T', H', W') for a map with pool "none", on the CPU.

        Raises:
            ValueError: the layer does not run at test, or its output is not a tensor with a row for each clip.
        """
        reached, output = run_until(self._module, lambda: self.model([{"video": clips, "video_id": ""}]))
        if not reached:
            raise ValueError(f"layer: {self.layer} does not run at test, allowed: one that does, e.g. 'res5'")
        if isinstance(output, dict) and output:
            # The stages of a backbone: the head reads the last one.
            output = list(output.values())[-1]
        if not isinstance(output, torch.Tensor) or output.dim() < 2 or len(output) != len(clips):
            given = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise ValueError(f"layer: {self.layer} gives {given}, allowed: a tensor with a row per clip, e.g. 'res5'")
        if self._channels_last and output.dim() == 5:
            output = output.permute(0, 4, 1, 2, 3)
        if self.pool == "avg" and output.dim() > 2:
            if output.dim() != 5:
                shape = tuple(output.shape)
                given = f"pool: got 'avg', but {self.layer} gives {shape}, which is no map of five axes"
                raise ValueError(f"{given}; allowed: 'none'")
            output = output.float().mean(dim=(2, 3, 4))
        return output.contiguous().float().cpu()


@dataclass(frozen=True)
class Extraction:
    """What a folder of features holds now."""

    num_videos: int
    shape: tuple[int, ...]  #: of one video
    failed: dict[str, str]  #: video_id -> why it could not be read
    num_made: int  #: shards that this call made
    num_kept: int  #: shards that were there


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

    Call it on every rank. A shard is written only when it is complete. After a run was killed, the same call makes the
    missing shards, with any number of ranks. The files are then the same as without the interruption. Read them with
    :func:`nlvideo.export.load_features`.

    Args:
        model: with its weights, in eval mode.
        cfg: of the model. It decides the test views; TEST.VIEWS_PER_FORWARD of them go through the network at a time.
        dataset: see ``get_dataset``; its labels need not be those of the model.
        layer: see :class:`LayerOutput`.
        output: the folder.
        pool: "avg" for (C,), "none" for the positions of the map, (C, T, H, W).
        views: "mean" averages over the views, "keep" keeps all views, as the first axis.
        dtype: of the files; averages are made in float32.
        format: "npz" or "parquet".
        videos_per_shard: None: as many as make 64 MiB, at most 1000.

    Raises:
        LookupFailed: no such dataset or layer.
        ValueError: a wrong value, a folder that cannot be written, one with features of other settings, or maps that
            differ in size from video to video.
        ImportError: pyarrow is missing.
    """
    check_one_of("views", views, VIEWS)
    check_one_of("dtype", dtype, DTYPES)
    feature_files.check_format(format)
    records = get_dataset(dataset)
    if not records:
        raise ValueError(f"{dataset}: the dataset is empty")
    check_files(dataset, records)
    network = LayerOutput(fuse_for_inference(model, keep=[find_layer(model, layer)[1]]), layer, pool)
    shape = _shape_of_video(network, cfg, views)
    size = _videos_per_shard(shape) if videos_per_shard is None else videos_per_shard
    if size < 1:
        raise ValueError(f"videos_per_shard: got {size}, allowed: 1 or more")
    settings = {
        "dataset": dataset, "num_videos": len(records), "fingerprint": fingerprint(records), "layer": network.layer,
        "pool": pool, "views": views, "shape": list(shape), "dtype": dtype, "format": format, "videos_per_shard": size,
        "model": _model_digest(model, cfg), "recipe": view_recipe(cfg), "amp": cfg.TEST.AMP,
    }  # fmt: skip
    _prepare(output, settings)
    return _Shards(network, cfg, records, output, settings).make()


@dataclass(frozen=True)
class _Shards:
    """Makes the shards of a folder of features. What they hold depends on the settings alone."""

    network: LayerOutput
    cfg: CfgNode
    records: Sequence[Record]
    folder: str
    settings: dict[str, Any]

    def make(self) -> Extraction:
        """Make this rank's part of what is missing; then, on rank 0, the index."""
        paths = feature_files.shard_paths(self.folder, self.settings)
        # Rank 0 decides for all: when a slow rank looks, another one may have finished a shard already.
        missing = comm.all_gather_object([k for k, path in enumerate(paths) if not os.path.exists(path)])[0]
        mine = missing[comm.get_rank() :: comm.get_world_size()]
        # The labels may not fit the model, and the mapper may fail on them. So it gets 0. The index has the labels.
        records = SerializedRecords([{**record, "label": 0} for record in self.records])
        indices = [index for number in mine for index in self._videos(number)]
        loader = loader_of_records(self.cfg, records, indices, failed_as="it has no features")
        progress = progress_bar(loader, desc="features", unit="video", disable=not comm.is_main_process())
        samples = (batch[0] for batch in progress)
        with explained(loader):
            for number in mine:
                self._make_shard(paths[number], self._videos(number), samples)
        comm.synchronize()
        rows = comm.on_main_process(lambda: feature_files.write_index(self.folder, self.settings))
        failed = {row["video_id"]: row["error"] for row in rows if row["failed"]}
        shape = tuple(self.settings["shape"])
        return Extraction(len(self.records), shape, failed, len(missing), len(paths) - len(missing))

    def _videos(self, number: int) -> range:
        size = self.settings["videos_per_shard"]
        return range(number * size, min((number + 1) * size, len(self.records)))

    def _make_shard(self, path: str, indices: range, samples: Iterator[dict[str, Any]]) -> None:
        rows: list[dict[str, Any]] = []
        # A batch never crosses the end of a shard. So the clips of a batch are the same for any number of ranks and
        # after an interruption.
        videos = self._readable(indices, samples, rows)
        found = _features_of(self.network, videos, self.cfg.TEST.VIEWS_PER_FORWARD)
        features = [self._array_of(views) for views in found]
        shape = tuple(self.settings["shape"])
        for row, own in zip((row for row in rows if not row["failed"]), features, strict=True):
            if own.shape != shape:
                given = f"{row['video_id']}: the features have the shape {own.shape}, allowed: {shape}"
                raise ValueError(f"{given}; with TEST.CROP_SIZE 0, use pool 'avg'")
        array = np.stack(features) if features else np.zeros((0, *shape), self.settings["dtype"])
        feature_files.write_shard(path, rows, array)

    def _readable(
        self, indices: range, samples: Iterator[dict[str, Any]], rows: list[dict[str, Any]]
    ) -> Iterator[torch.Tensor]:
        """Append a row for each video, and yield the views of those that could be read."""
        count = 0
        for index in indices:
            sample, record = next(samples), self.records[index]
            row = {"video_id": record["video_id"], "label": record["label"], "row": None, "failed": sample["failed"]}
            rows.append(row)
            if sample["failed"]:
                row["error"] = getattr(sample["error"], "reason", str(sample["error"]))
                continue
            row["row"] = count
            count += 1
            yield sample["video"]

    def _array_of(self, views: torch.Tensor) -> np.ndarray:
        views = views.mean(dim=0) if self.settings["views"] == "mean" else views
        return views.numpy().astype(self.settings["dtype"])


def _features_of(
    network: LayerOutput, videos: Iterable[torch.Tensor], views_per_forward: int
) -> Iterator[torch.Tensor]:
    """Yield the features (V, ...) of videos (V, 3, T, H, W); several of them go through the network together."""
    waiting: list[torch.Tensor] = []

    def _flush() -> Iterator[torch.Tensor]:
        if waiting:
            lengths = [len(video) for video in waiting]
            parts = [network(part) for part in torch.cat(waiting).split(views_per_forward)]
            waiting.clear()
            yield from torch.cat(parts).split(lengths)

    for video in videos:
        if waiting and waiting[0].shape[1:] != video.shape[1:]:
            yield from _flush()
        waiting.append(video)
        if sum(map(len, waiting)) >= views_per_forward:
            yield from _flush()
    yield from _flush()


def _shape_of_video(network: LayerOutput, cfg: CfgNode, views: str) -> tuple[int, ...]:
    """The shape of one video's features, found by running a black clip."""
    side = cfg.TEST.CROP_SIZE or cfg.TEST.SHORT_SIDE
    own = network(torch.zeros(1, 3, cfg.INPUT.NUM_FRAMES, side, side, dtype=torch.uint8)).shape[1:]
    num_views = cfg.TEST.NUM_CLIPS * cfg.TEST.NUM_CROPS * (2 if cfg.TEST.FLIP else 1)
    return (num_views, *own) if views == "keep" else tuple(own)


def _videos_per_shard(shape: tuple[int, ...]) -> int:
    # In memory features are float32, whatever the dtype of the files.
    return max(1, min(_MAX_VIDEOS_PER_SHARD, _SHARD_BYTES // (int(np.prod(shape)) * 4)))


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
    """Write the settings if the folder has none. Then check that they are the same."""

    def settings_there() -> dict[str, Any] | None:
        """Those in the folder."""
        make_writable(folder, "output")
        if feature_files.read_settings(folder) is None:
            feature_files.write_settings(folder, settings, dataset_classes([settings["dataset"]]))
        return feature_files.read_settings(folder)

    found = {"amp": ""} | (comm.on_main_process(settings_there) or {"recipe": {}})
    there, now = ({**content, **content["recipe"]} for content in (found, settings))
    for key, value in now.items():
        if there.get(key) != value and key != "recipe":
            given = f"output: {folder} holds features of another {key}: {there.get(key)!r}, now {value!r}"
            raise ValueError(f"{given}; allowed: another folder")
