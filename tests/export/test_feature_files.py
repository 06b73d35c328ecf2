"""Files of features: what is written is read again, in either format."""

import json
from pathlib import Path

import numpy as np
import pytest

from nlvideo.export.feature_files import (
    check_format,
    iterate_shards,
    load_features,
    read_settings,
    read_shard,
    shard_paths,
    write_index,
    write_settings,
    write_shard,
)

SETTINGS = {"num_videos": 5, "videos_per_shard": 2}


def shard_name(number, format):
    """The file name of a shard."""
    paths = shard_paths("folder", {"num_videos": number + 1, "videos_per_shard": 1, "format": format})
    assert len(paths) == number + 1
    return Path(paths[number]).name


def rows_of(*labels):
    """Rows of a shard; a label of None is a video that failed."""
    rows, good = [], 0
    for number, label in enumerate(labels):
        failed = label is None
        label, place = (7, None) if failed else (label, good)
        row = {"video_id": f"é{number}", "label": label, "row": place, "failed": failed}
        rows.append({**row, "error": "no such file"} if failed else row)
        good += not failed
    return rows


@pytest.fixture(params=["npz", "parquet"])
def format(request):
    """Either format."""
    if request.param == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra: parquet)")
    return request.param


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(3,), (2, 3, 1, 2, 2)], ids=str)
def test_a_shard_is_read_as_it_was_written(tmp_path, format, shape, dtype):
    path = str(tmp_path / shard_name(3, format))
    assert path.endswith(f"features_00003.{format}")
    rows = rows_of(1, None, 2)
    array = np.random.default_rng(0).normal(size=(2, *shape)).astype(dtype)
    write_shard(path, rows, array)
    read_rows, read_array = read_shard(path)
    assert read_rows == rows and read_array.dtype == dtype
    np.testing.assert_array_equal(read_array, array)
    assert [p.name for p in tmp_path.iterdir()] == [f"features_00003.{format}"]


def test_a_shard_of_failures_and_labels_that_are_lists(tmp_path, format):
    path = str(tmp_path / shard_name(0, format))
    write_shard(path, rows_of(None), np.zeros((0, 4), np.float32))
    rows, array = read_shard(path)
    assert rows[0]["error"] == "no such file" and array.shape == (0, 4)
    write_shard(path, rows_of([0, 2], []), np.ones((2, 4), np.float32))
    rows, _ = read_shard(path)
    assert [row["label"] for row in rows] == [[0, 2], []]


def test_parquet_is_a_plain_table(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra: parquet)")
    write_shard(str(tmp_path / "a.parquet"), rows_of(1, None, 2), np.arange(6, dtype=np.float32).reshape(2, 3))
    table = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert table == [
        {"video_id": "é0", "label": 1, "features": [0, 1, 2]}, {"video_id": "é2", "label": 2, "features": [3, 4, 5]},
    ]  # fmt: skip


def write_folder(folder, format):
    """Five videos in three shards, of which the second fails."""
    settings = {**SETTINGS, "format": format}
    write_settings(str(folder), settings)
    for number, labels in enumerate([(0, None), (2, 3), (4,)]):
        rows = rows_of(*labels)
        array = np.array([[label, 0.5] for label in labels if label is not None], np.float32)
        write_shard(str(folder / shard_name(number, format)), rows, array)
    return settings


def test_a_folder_is_read_whole_or_shard_by_shard(tmp_path, format):
    settings = write_folder(tmp_path, format)
    with pytest.raises(ValueError, match="not complete, there is no index.jsonl; the same extraction again"):
        load_features(str(tmp_path))
    rows = write_index(str(tmp_path), settings)
    lines = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert lines == rows and len(lines) == 5
    assert lines[2] == {"video_id": "é0", "label": 2, "row": 0, "failed": False, "shard": f"features_00001.{format}"}
    assert lines[1]["failed"] and lines[1]["row"] is None
    found = load_features(str(tmp_path))
    np.testing.assert_array_equal(found.features, [[0, 0.5], [2, 0.5], [3, 0.5], [4, 0.5]])
    assert found.labels == [0, 2, 3, 4] and found.failed == {"é1": "no such file"} and found.settings == settings
    for line in lines:
        if not line["failed"]:
            assert read_shard(str(tmp_path / line["shard"]))[1][line["row"]][0] == line["label"]
    assert [len(array) for _, array in iterate_shards(str(tmp_path))] == [1, 2, 1]


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no features.json: not a folder of features"):
        load_features(str(tmp_path))
    (tmp_path / "features.json").write_text('{"kind": "cake", "version": 1}')
    with pytest.raises(ValueError, match="not a features file: 'kind' is not 'nlvideo features'"):
        read_settings(str(tmp_path))
    (tmp_path / "features.json").write_text("[]")
    with pytest.raises(ValueError, match="features.json: not a features file"):
        load_features(str(tmp_path))
    (tmp_path / "a.npz").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="a.npz: not a shard of features"):
        read_shard(str(tmp_path / "a.npz"))


def test_unknown_formats_and_a_missing_package(monkeypatch):
    with pytest.raises(ValueError, match="format: got 'csv', allowed: 'npz', 'parquet'"):
        check_format("csv")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"format 'parquet' needs pyarrow: pip install 'nlvideo\[parquet\]'"):
        check_format("parquet")
    check_format("npz")
