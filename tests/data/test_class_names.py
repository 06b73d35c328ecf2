"""The names of a dataset's classes, found without reading the dataset."""

from pathlib import Path

import pytest

from nlvideo.data import MetadataCatalog
from nlvideo.data.checks import dataset_classes
from nlvideo.data.datasets.beacon_render import ACTIONS


def test_a_registered_dataset_has_noted_them():
    assert dataset_classes(["beacon_train"]) == list(ACTIONS)


def test_a_list_has_them_beside_it(tmp_path: Path):
    (tmp_path / "classes.txt").write_text("sit\nstand up\n")
    assert dataset_classes([f"list:{tmp_path}/train.csv"]) == ["sit", "stand up"]


def test_a_folder_has_one_for_each(tmp_path: Path):
    for name in ("b", "a", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "c.mp4").touch()
    assert dataset_classes([f"folder:{tmp_path}"]) == ["a", "b"]


def test_what_reading_has_noted_counts_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = f"folder:{tmp_path}"
    (tmp_path / "new").mkdir()
    monkeypatch.setitem(MetadataCatalog._metadata, name, type(MetadataCatalog.get("x"))(classes=["as", "read"]))
    assert dataset_classes([name]) == ["as", "read"]


def test_the_first_dataset_that_names_them_counts(tmp_path: Path):
    assert dataset_classes([f"list:{tmp_path}/train.csv", "beacon_val"]) == list(ACTIONS)


def test_none_where_nobody_names_them(tmp_path: Path):
    assert dataset_classes([]) == []
    assert dataset_classes([f"list:{tmp_path}/train.csv", f"folder:{tmp_path}/gone", "no_such_dataset"]) == []
