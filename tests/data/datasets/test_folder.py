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


def test_folders_of_frames_are_videos(tmp_path, make_frames, make_video):
    make_frames(tmp_path / "run/a", num_frames=3)
    make_frames(tmp_path / "run/deep/b", num_frames=3, name="{}.png")
    make_frames(tmp_path / "walk/.thumbnails", num_frames=1)
    make_frames(tmp_path / "walk", num_frames=1)
    make_video(tmp_path / "walk/c.mp4", num_frames=3)
    records = get_dataset(f"folder:{tmp_path}")
    assert [(record["video_id"], record["label"]) for record in records] == [
        ("run/a", 0), ("run/deep/b", 0), ("walk/c.mp4", 1),
    ]  # fmt: skip
