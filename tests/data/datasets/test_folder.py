"""A folder per class."""

import logging
import os
import shutil

import pytest

from nlvideo.data.catalog import MetadataCatalog
from nlvideo.data.datasets import get_dataset


def test_folders_are_classes_in_alphabetical_order(tmp_path):
    others = ("run/notes.txt", "walk/.b.mp4", ".git/x.mp4", "c.mp4")
    for name in ("walk/b.mp4", "walk/a.AVI", "run/deep/c.webm", *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    name = f"folder:{tmp_path}"
    assert get_dataset(name) == [
        {"file_name": str(tmp_path / "run/deep/c.webm"), "label": 0, "video_id": "run/deep/c.webm"},
        {"file_name": str(tmp_path / "walk/a.AVI"), "label": 1, "video_id": "walk/a.AVI"},
        {"file_name": str(tmp_path / "walk/b.mp4"), "label": 1, "video_id": "walk/b.mp4"},
    ]
    assert MetadataCatalog.get(name).classes == ["run", "walk"]


def test_a_picture_beside_a_video_is_no_video(tmp_path, caplog):
    for name in ("run/s1/a.mp4", "run/s1/cover.jpg", "run/s2/0.jpg", "run/s2/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with caplog.at_level(logging.INFO):
        records = get_dataset(f"folder:{tmp_path}")
    assert [record["video_id"] for record in records] == ["run/s1/a.mp4", "run/s2"]
    assert f"folder:{tmp_path}: left out: pictures beside videos: 1 (run/s1/cover.jpg)" in caplog.text


def test_errors(tmp_path):
    with pytest.raises(ValueError, match=f"there is no folder {tmp_path}/nothing"):
        get_dataset(f"folder:{tmp_path}/nothing")
    for name in ("a.mp4", "full/a.mp4", "half empty/notes.txt", "half empty/b.part"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    left_out = "left out: not videos by their extension: 2 .half empty/b.part"
    message = f"the class 'half empty' has no video, allowed: .*; {left_out}"
    with pytest.raises(ValueError, match=message) as caught:
        get_dataset(f"folder:{tmp_path}/set")
    assert "\n" not in str(caught.value)
    (tmp_path / "a.mp4").touch()
    shutil.rmtree(tmp_path / "set")
    with pytest.raises(ValueError, match="expected one folder per class in .*, found no folders"):
        get_dataset(f"folder:{tmp_path}")


def test_the_folder_above_the_parts_of_a_dataset_is_noticed(tmp_path, caplog):
    for name in ("parts/val/run/a.mp4", "parts/train/run/b.mp4", "classes/train/a.mp4", "classes/tram/b.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    get_dataset(f"folder:{tmp_path}/classes")
    assert not caplog.text, "a class may be called train"
    get_dataset(name := f"folder:{tmp_path}/parts")
    assert f"train, val are taken as classes. For parts of a dataset, give {name}/train, {name}/val" in caplog.text


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


def test_what_cameras_write_and_linked_folders_count_too(tmp_path, caplog):
    cameras = ("b.MTS", "c.m2ts", "d.3gp", "e.ogv", "f.vob", "g.asf", "h.mxf", "i.f4v", "j.h264")
    for name in (
        "d/run/a.mp4",
        *(f"d/walk/{name}" for name in cameras),
        "more/k.mp4",
        "d/walk/notes.txt",
        "d/stray.mp4",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "d/walk/session").symlink_to("../../more")
    (tmp_path / "d/walk/gone.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "more/back").symlink_to("../d/walk")
    (tmp_path / "more/self").symlink_to("self")
    records = get_dataset(f"folder:{tmp_path}/d")
    assert [record["video_id"] for record in records] == [
        "run/a.mp4", *(f"walk/{name}" for name in cameras), "walk/session/k.mp4",
    ]  # fmt: skip
    for reason in ("broken links: 2 (walk/gone.mp4, walk/session/self)", "(walk/notes.txt)", "class: 1 (stray.mp4)",
                   "links to folders that were counted before: 1 (walk/session/back)"):  # fmt: skip
        assert reason in caplog.text
    caplog.clear()
    get_dataset(f"folder:{tmp_path}/d")
    assert not caplog.text, "said again"


def test_names_that_are_not_utf8(tmp_path, make_video):
    folder = os.fsencode(tmp_path / "e")
    for name in (b"a\xe9/x.mp4", b"b/caf\xe9.mp4"):
        os.makedirs(os.path.dirname(os.path.join(folder, name)))
        os.rename(make_video(tmp_path / "x.mp4", num_frames=4), os.path.join(folder, name))
    records = get_dataset(f"folder:{tmp_path}/e")
    assert [os.fsencode(r["file_name"]) for r in records] == [folder + b"/a\xe9/x.mp4", folder + b"/b/caf\xe9.mp4"]
    assert MetadataCatalog.get(f"folder:{tmp_path}/e").classes == [os.fsdecode(b"a\xe9"), "b"]
