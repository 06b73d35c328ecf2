"""The names of a dataset's classes, found without reading the dataset."""

from pathlib import Path

import pytest

from nlvideo.data import MetadataCatalog
from nlvideo.data.checks import check_same_classes, dataset_classes
from nlvideo.data.datasets.beacon_render import ACTIONS
from nlvideo.data.datasets.kinetics_names import kinetics400_classes


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


def test_those_of_kinetics_400_are_known_before_it_is_read():
    assert dataset_classes(["kinetics400_train"]) == dataset_classes(["kinetics400_val"]) == list(kinetics400_classes())
    assert dataset_classes(["kinetics600_train"]) == dataset_classes(["kinetics400_mine"]) == []


def test_a_folder_may_spell_a_class_in_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = f"folder:{tmp_path}"
    noted = type(MetadataCatalog.get("x"))(classes=["air_drumming", "massaging_person's_head", '"push up"'])
    monkeypatch.setitem(MetadataCatalog._metadata, name, noted)
    check_same_classes("weights", ["Air drumming", "massaging person's head", "push up"], name)
    with pytest.raises(ValueError, match="class 2 is '\"push up\"', but 'pull ups' in weights"):
        check_same_classes("weights", ["air drumming", "massaging person's head", "pull ups"], name)
