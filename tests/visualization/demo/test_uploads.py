"""Uploads go: at the end of a request, when they are old, and when the page ends."""

import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from nlvideo.visualization.demo.uploads import UploadFolder


def put(uploads, name, age_sec=0.0):
    """An upload of a certain age."""
    path = uploads.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"video")
    os.utime(path, (time.time() - age_sec,) * 2)
    return path


def test_a_file_is_lent_and_deleted(uploads):
    path = put(uploads, "hash/clip.mp4")
    with uploads.deleted_afterwards(str(path)) as lent:
        assert lent.read_bytes() == b"video"
    assert list(uploads.path.iterdir()) == []


def test_it_is_deleted_after_an_error(uploads):
    path = put(uploads, "hash/clip.mp4")
    with pytest.raises(RuntimeError), uploads.deleted_afterwards(path):
        raise RuntimeError
    assert list(uploads.path.iterdir()) == []


def test_a_file_that_two_hold_goes_with_the_second(uploads):
    path = put(uploads, "hash/clip.mp4")
    with uploads.deleted_afterwards(path):
        with uploads.deleted_afterwards(path):
            pass
        assert path.exists()
    assert not path.exists()


def test_a_file_that_came_again_is_left_to_its_request(uploads):
    path = put(uploads, "hash/clip.mp4", age_sec=5)
    with uploads.deleted_afterwards(path):
        put(uploads, "hash/clip.mp4")
    with uploads.deleted_afterwards(path):
        pass
    assert not path.exists()


def test_what_is_lent_is_not_swept(uploads):
    path = put(uploads, "hash/clip.mp4", age_sec=10_000)
    with uploads.deleted_afterwards(path):
        uploads.sweep()
        assert path.exists()


def test_other_uploads_stay(uploads):
    first, second, third = (put(uploads, name) for name in ("hash/a.mp4", "hash/b.mp4", "other/a.mp4"))
    with uploads.deleted_afterwards(first):
        pass
    assert not first.exists() and second.exists() and third.exists()


def test_files_elsewhere_are_neither_lent_nor_deleted(uploads, tmp_path):
    outside = tmp_path / "mine.mp4"
    outside.write_bytes(b"mine")
    link = uploads.path / "link.mp4"
    link.symlink_to(outside)
    for path in (outside, uploads.path / ".." / outside.relative_to("/"), link):
        with pytest.raises(ValueError, match="only uploaded files"), uploads.deleted_afterwards(path):
            pass
    assert outside.read_bytes() == b"mine"


def test_an_upload_that_has_gone(uploads):
    with pytest.raises(ValueError, match="drop the video again"), uploads.deleted_afterwards(uploads.path / "a/b.mp4"):
        pass


def test_only_old_files_are_swept(uploads):
    old, new = put(uploads, "hash/old.mp4", age_sec=601), put(uploads, "other/new.mp4", age_sec=500)
    piece = put(uploads, "tmp123", age_sec=1e4)
    uploads.sweep()
    assert not old.exists() and not old.parent.exists() and not piece.exists() and new.exists()


def test_it_sweeps_by_itself():
    with UploadFolder(keep_sec=0.0, sweep_every_sec=0.01) as uploads:
        path = put(uploads, "hash/clip.mp4", age_sec=1)
        deadline = time.time() + 5
        while path.exists() and time.time() < deadline:
            time.sleep(0.01)
        assert not path.exists()


def test_the_folder_is_private_and_goes_at_the_end():
    threads = threading.active_count()
    with UploadFolder() as uploads:
        assert stat.S_IMODE(uploads.path.stat().st_mode) == 0o700
        put(uploads, "hash/clip.mp4")
    assert not uploads.path.exists() and threading.active_count() == threads
    uploads.close()


def test_what_is_there_is_counted(uploads):
    put(uploads, "hash/a.mp4")
    put(uploads, "b.mp4")
    assert uploads.num_bytes() == 10


def test_what_a_killed_server_has_left_is_swept_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # It says where its folder is, and lives until it is killed.
    script = (
        "import tempfile, time; from nlvideo.visualization.demo.uploads import UploadFolder;"
        f"tempfile.tempdir = {str(tmp_path)!r}; folder = UploadFolder(); print(folder.path, flush=True); time.sleep(60)"
    )
    server = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    theirs = Path(server.stdout.readline().strip())
    (theirs / "clip.mp4").write_bytes(b"video")
    others = tmp_path / "nlvideo_demo_link"
    (tmp_path / "mine").mkdir()
    others.symlink_to(tmp_path / "mine")
    with UploadFolder():
        assert (theirs / "clip.mp4").exists()  # it lives
    server.kill()
    server.wait()
    with UploadFolder() as ours:
        assert not theirs.parent.exists() and ours.path.exists() and (tmp_path / "mine").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "nlvideo_demo_link"]
