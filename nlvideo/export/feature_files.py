"""Files of features: a folder with its settings, shards of arrays and an index. docs/export.md describes them.

Nothing here needs torch.
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlvideo.data.datasets.listed import CLASSES_FILE, read_classes, write_classes
from nlvideo.utils.files.file_io import FileFormat, atomic_write, write_json, write_text
from nlvideo.utils.messages import check_one_of

FORMATS = ("npz", "parquet")
_SETTINGS, _INDEX = "features.json", "index.jsonl"
_FORMAT = FileFormat("nlvideo features", 1, key="kind")


@dataclass(frozen=True)
class Features:
    """The features of a dataset, in the order of its videos, without those that failed.

    For each video they are (C,) pooled or (C, T, H, W), after an axis of views if these were kept.
    """

    features: np.ndarray  #: (num_videos, ...)
    video_ids: list[str]
    labels: list[Any]  #: class indices, or lists of them
    classes: list[str]  #: names of the dataset's classes; empty where they have none
    failed: dict[str, str]  #: video_id -> why it could not be read
    settings: dict[str, Any]  #: what the features are of: dataset, layer, pool, views, ...


def check_format(format: str) -> None:
    """Make sure that a format can be written here.

    Raises:
        ValueError: an unknown format.
        ImportError: pyarrow is missing.
    """
    check_one_of("format", format, FORMATS)
    if format == "parquet":
        _pyarrow()


def shard_paths(folder: str, settings: dict[str, Any]) -> list[str]:
    """Return the paths of all shards of a whole folder."""
    count = -(-settings["num_videos"] // settings["videos_per_shard"])
    return [os.path.join(folder, f"features_{number:05d}.{settings['format']}") for number in range(count)]


def write_shard(path: str, rows: Sequence[dict[str, Any]], features: np.ndarray) -> None:
    """Write a shard, whole or not at all, to a path that ends in .npz or .parquet.

    Args:
        rows: one per video: "video_id", "label", "row" (None if it failed), "failed" and, if it failed, "error".
        features: (rows that did not fail, ...).
    """
    index = json.dumps(rows, ensure_ascii=False)
    buffer = io.BytesIO()
    if path.endswith(".npz"):
        np.savez(buffer, features=features, index=np.array(index))
    else:
        pa = _pyarrow()
        good = [row for row in rows if not row["failed"]]
        flat = pa.array(np.ascontiguousarray(features).reshape(-1))
        columns = {
            "video_id": pa.array([row["video_id"] for row in good], pa.string()),
            "label": pa.array([row["label"] for row in good]),
            "features": pa.FixedSizeListArray.from_arrays(flat, int(np.prod(features.shape[1:]))),
        }
        notes = {"index": index, "shape": json.dumps(features.shape)}
        pa.parquet.write_table(pa.table(columns).replace_schema_metadata(notes), buffer)
    atomic_write(path, lambda file: file.write(buffer.getbuffer()))


def read_shard(path: str) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return what `write_shard` was given.

    Raises:
        ValueError: not a shard; one line.
    """
    try:
        if path.endswith(".npz"):
            with np.load(path) as arrays:
                return json.loads(str(arrays["index"])), arrays["features"]
        table = _pyarrow().parquet.read_table(path)
        notes = table.schema.metadata
        column = table["features"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return json.loads(notes[b"index"]), column.reshape(json.loads(notes[b"shape"]))
    except ImportError:
        raise
    except Exception as error:  # whatever a zip file, NumPy, Arrow or JSON may say of other bytes
        raise ValueError(f"{path}: not a shard of features: {' '.join(str(error).split())}") from None


def write_settings(folder: str, settings: dict[str, Any], classes: Sequence[str] = ()) -> None:
    """Note in a folder what its features are of, and the names of the classes."""
    if classes:
        write_classes(os.path.join(folder, CLASSES_FILE), classes)
    write_json(os.path.join(folder, _SETTINGS), {**_FORMAT.header(), **settings})


def read_settings(folder: str) -> dict[str, Any] | None:
    """Return what the features of a folder are of, or None if it has none.

    Raises:
        ValueError: the file is of another kind or version.
    """
    path = os.path.join(folder, _SETTINGS)
    if not os.path.isfile(path):
        return None
    with open(path, encoding="utf8") as file:
        return _FORMAT.read(path, file)


def write_index(folder: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Write the index of a folder whose shards are complete, a line for each video, and return its rows."""
    paths = shard_paths(folder, settings)
    rows = [{**row, "shard": os.path.basename(path)} for path in paths for row in read_shard(path)[0]]
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    write_text(os.path.join(folder, _INDEX), text)
    return rows


def iterate_shards(folder: str) -> Iterator[tuple[list[dict[str, Any]], np.ndarray]]:
    """Yield the rows and the features of each shard, one shard in memory at a time.

    Raises:
        ValueError: the folder holds no features, or not all of them yet.
    """
    yield from map(read_shard, shard_paths(folder, _complete_settings(folder)))


def load_features(folder: str) -> Features:
    """Read the features of a dataset, the ``--output`` of tools/extract_features.py, into memory.

    Example:
        >>> found = load_features("output/features")
        >>> found.features.shape, len(found.labels)
        ((800, 128), 800)

    Raises:
        ValueError: the folder holds no features, or not all of them yet.
        ImportError: the shards are Parquet and pyarrow is missing.
    """
    shards = list(iterate_shards(folder))
    rows = [row for shard_rows, _ in shards for row in shard_rows]
    good = [row for row in rows if not row["failed"]]
    return Features(
        features=np.concatenate([array for _, array in shards]),
        video_ids=[row["video_id"] for row in good],
        labels=[row["label"] for row in good],
        classes=read_classes(os.path.join(os.path.abspath(folder), CLASSES_FILE)),
        failed={row["video_id"]: row["error"] for row in rows if row["failed"]},
        settings=_complete_settings(folder),
    )


def _complete_settings(folder: str) -> dict[str, Any]:
    settings = read_settings(folder)
    if settings is None:
        raise ValueError(f"{folder}: there is no {_SETTINGS}: not a folder of features")
    if not os.path.isfile(os.path.join(folder, _INDEX)):
        raise ValueError(f"{folder}: not complete, there is no {_INDEX}; the same extraction again finishes it")
    return settings


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError("format 'parquet' needs pyarrow: pip install 'nlvideo[parquet]'") from None
    return pyarrow
