"""Files: whole or not there."""

import json
import os
import stat

import pytest
from iopath.common.file_io import HTTPURLHandler

from nlvideo.utils.file_io import PathManager, atomic_write, write_json, write_text


def test_creates_and_replaces(tmp_path):
    path = tmp_path / "a.bin"
    atomic_write(str(path), lambda file: file.write(b"one"))
    atomic_write(str(path), lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(str(path), fail)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_the_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "a.bin"

    def look(file):
        file.write(b"x")
        assert not path.exists()
        # In the same folder: a rename across file systems would copy.
        assert len(list(tmp_path.iterdir())) == 1

    atomic_write(str(path), look)
    assert path.read_bytes() == b"x"


def test_a_killed_runs_leftover_does_not_stand_in_the_way(tmp_path):
    (tmp_path / f".a.bin.{os.getpid()}.tmp").write_bytes(b"rubbish from a run with this process id")
    atomic_write(str(tmp_path / "a.bin"), lambda file: file.write(b"x"))
    assert (tmp_path / "a.bin").read_bytes() == b"x"


def test_others_may_read_it_as_the_umask_says(tmp_path):
    old = os.umask(0o022)
    try:
        atomic_write(str(tmp_path / "a"), lambda file: file.write(b"x"))
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_a_path_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atomic_write("here.bin", lambda file: file.write(b"x"))
    assert (tmp_path / "here.bin").exists()


def test_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        atomic_write(str(tmp_path / "none" / "a"), lambda file: file.write(b"x"))


def test_path_manager_opens_local_paths_and_knows_urls(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with PathManager.open(str(tmp_path / "a.txt")) as file:
        assert file.read() == "text"
    assert PathManager.get_local_path(str(tmp_path / "a.txt")) == str(tmp_path / "a.txt")
    assert not PathManager.exists(str(tmp_path / "b.txt"))


def test_path_manager_fetches_urls(tmp_path, monkeypatch):
    (tmp_path / "fetched.txt").write_text("from the net")
    fetched = []

    def fetch(self, path, **kwargs):
        fetched.append(path)
        return str(tmp_path / "fetched.txt")

    monkeypatch.setattr(HTTPURLHandler, "_get_local_path", fetch)
    with PathManager.open("https://example.org/weights.pth") as file:
        assert file.read() == "from the net"
    assert fetched == ["https://example.org/weights.pth"]


def test_texts_are_utf8_and_json_makes_its_folders(tmp_path):
    write_text(tmp_path / "a.txt", "größer\n")
    assert (tmp_path / "a.txt").read_bytes() == "größer\n".encode()
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "no" / "a.txt", "")
    write_json(str(tmp_path / "new" / "a.json"), {"ä": [1, None, True]})
    assert json.loads((tmp_path / "new/a.json").read_bytes()) == {"ä": [1, None, True]}
    with pytest.raises(TypeError):
        write_json(str(tmp_path / "new" / "a.json"), {"a": object()})
    assert json.loads((tmp_path / "new/a.json").read_bytes()) == {"ä": [1, None, True]}
