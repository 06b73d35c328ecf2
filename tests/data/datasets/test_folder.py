"""A folder per class."""

import pytest

from nlvideo.data.catalog import MetadataCatalog
from nlvideo.data.datasets import get_dataset


def test_folders_are_classes_in_alphabetical_order(tmp_path):
    others = ("run/notes.txt", "walk/.b.mp4", ".git/x.mp4", "c.mp4")
    for name in ("walk/b.mp4", "walk/a.AVI", "run/deep/c.webm", *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty class").mkdir()
    name = f"folder:{tmp_path}"
    assert get_dataset(name) == [
        {"file_name": str(tmp_path / "run/deep/c.webm"), "label": 1, "video_id": "run/deep/c.webm"},
        {"file_name": str(tmp_path / "walk/a.AVI"), "label": 2, "video_id": "walk/a.AVI"},
        {"file_name": str(tmp_path / "walk/b.mp4"), "label": 2, "video_id": "walk/b.mp4"},
    ]
    assert MetadataCatalog.get(name).classes == ["empty class", "run", "walk"]


def test_errors(tmp_path):
    with pytest.raises(ValueError, match=f"there is no folder {tmp_path}/nothing"):
        get_dataset(f"folder:{tmp_path}/nothing")
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match="expected one folder per class in .*, found no folders"):
        get_dataset(f"folder:{tmp_path}")
