"""Paths with a scheme through fsspec: what is tried again, what is kept, and what is said. No store is needed."""

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nlvideo.data import get_dataset, open_video
from nlvideo.data.records.shard_files import expand_pattern, scan_shard
from nlvideo.dataset_tools.shard_writing import write_shards
from nlvideo.utils.files import file_io, remote
from nlvideo.utils.files.file_io import PathManager, file_exists, local_path, missing_files


class Store:
    """Stands for fsspec's file system: its objects by path, and errors to raise first."""

    def __init__(self):
        self.objects, self.errors, self.reads = {}, [], []

    def info(self, path):
        if path in self.objects:
            return {"type": "file", "size": len(self.objects[path]), "ETag": hash(self.objects[path])}
        if any(name.startswith(path + "/") for name in self.objects):
            return {"type": "directory", "size": 0}
        raise FileNotFoundError(path)

    def cat_file(self, path, start, end):
        self.reads.append((path, start, end))
        if self.errors:
            raise self.errors.pop(0)
        return self.objects[path][start:end]

    def ls(self, path, detail):
        return sorted(
            {"/".join(name.split("/")[: path.count("/") + 2]) for name in self.objects if name.startswith(path)}
        )

    def put(self, folder):
        for path in folder.rglob("*"):
            if path.is_file():
                self.objects[f"b/{path.relative_to(folder)}"] = path.read_bytes()


@pytest.fixture()
def store(monkeypatch, tmp_path):
    """What is below ``some://`` for fsspec."""
    store = Store()
    monkeypatch.setattr(remote, "_connector", lambda path: lambda: (store, path.removeprefix("some://").rstrip("/")))
    monkeypatch.setattr(file_io, "_WAITS", (0.0,) * 3)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    remote.shard_info.cache_clear()
    return store


def content(path, part=None):
    return Path(remote.fetch(path, part)).read_bytes()


def test_packages_that_are_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ImportError, match=r"s3://b/a.csv: needs pip install 'nlvideo\[remote\]' \("):
        get_dataset("list:s3://b/a.csv")
    # A video that needs a package is no damaged video.
    with pytest.raises(ImportError, match="s3://b/a.mp4"):
        open_video("s3://b/a.mp4")


def test_fsspec_is_imported_only_for_a_path_that_needs_it(tmp_path):
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "fsspec", None)
        assert not file_exists(str(tmp_path / "a")) and local_path(str(tmp_path)) == str(tmp_path)


def test_a_store_of_fsspec(monkeypatch, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    fsspec.filesystem("memory").pipe("/bucket/a.txt", b"text")
    assert content("memory://bucket/a.txt") == b"text"
    assert PathManager.ls("memory://bucket") == ["a.txt"] and PathManager.isdir("memory://bucket")
    with pytest.raises(FileNotFoundError, match=r"memory://bucket/b.txt: not found$"):
        local_path("memory://bucket/b.txt")
    with pytest.raises(OSError, match="no path handler is registered for nowhere://"):
        local_path("nowhere://a")


def test_a_forked_process_leaves_the_connections_of_its_parent_alone(monkeypatch, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setattr(remote, "_stores", {})
    remote.with_store("memory://bucket", lambda store, inner: None)
    (store,) = remote._stores.values()
    # What fsspec does first in a forked process.
    fsspec.get_filesystem_class("memory").clear_instance_cache()
    assert list(remote._stores.values()) == [store]


def test_copies(store, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK", 3)
    store.objects["b/x.csv"] = b"0123456789"
    first = local_path("some://b/x.csv")
    assert Path(first).read_bytes() == b"0123456789" and first.endswith("-x.csv")
    assert [stop - start for _, start, stop in store.reads] == [3, 3, 3, 1]
    assert local_path("some://b/x.csv") == first and len(store.reads) == 4
    with PathManager.open("some://b/x.csv") as file:
        assert file.read() == "0123456789"
    store.objects["b/x.csv"] = b"other"
    assert content("some://b/x.csv") == b"other"
    time_of_second = os.stat(local_path("some://b/x.csv")).st_mtime_ns
    assert content("some://b/x.csv", (1, 2)) == b"th"
    # A copy that was removed comes back with its time: indices and transcoded videos depend on it.
    os.unlink(local_path("some://b/x.csv"))
    assert os.stat(local_path("some://b/x.csv")).st_mtime_ns == time_of_second != os.stat(first).st_mtime_ns
    with pytest.raises(ValueError, match="got the mode 'w', allowed for a remote path"):
        PathManager.open("some://b/x.csv", "w")


def test_a_long_name(store):
    store.objects[name := f"b/{'视' * 76}.mp4"] = b"0123"
    assert content(f"some://{name}") == b"0123"


def test_an_object_that_changes_while_it_is_read(store, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK", 3)
    store.objects["b/x"] = b"0123456789"
    read = store.cat_file

    def read_and_change(path, start, end):
        data = read(path, start, end)
        store.objects["b/x"] = b"abcdefghij"
        return data

    store.cat_file = read_and_change
    with pytest.raises(ConnectionError, match="some://b/x: it changed while it was read"):
        remote.fetch("some://b/x")
    # Nothing is kept of it.
    assert content("some://b/x") == b"abcdefghij"


def test_what_is_tried_again(store, caplog):
    store.objects["b/x"] = b"0123"
    store.errors = [ConnectionResetError("reset"), OSError(errno.EBUSY, "slow down"), TimeoutError()]
    assert remote.read_range("some://b/x", 1, 3) == b"12" and caplog.text.count("trying again") == 3
    store.errors = [ConnectionResetError("reset")] * 4
    with pytest.raises(ConnectionError, match="some://b/x: no success in 4 tries: reset"):
        remote.read_range("some://b/x", 0, 1)
    with pytest.raises(ConnectionError, match="1 bytes came instead of 2"):
        remote.read_range("some://b/x", 3, 5)


class NoCredentialsError(Exception):
    """As the package of a store may have it."""


@pytest.mark.parametrize(
    "error, kind, message",
    [
        (PermissionError("Forbidden"), PermissionError, r"some://b/x: access denied \(Forbidden\): check the cred"),
        (NoCredentialsError("Unable to locate"), PermissionError, "access denied"),
        (FileNotFoundError("The specified bucket does not exist"), FileNotFoundError, r"not found \(The specified"),
        (OSError(errno.EINVAL, "bad request"), OSError, "some://b/x: .*bad request"),
        (ValueError("no such option"), OSError, "some://b/x: no such option"),
    ],
)
def test_what_is_not_tried_again(store, error, kind, message):
    store.objects["b/x"], store.errors = b"0123", [error]
    with pytest.raises(kind, match=message):
        remote.read_range("some://b/x", 0, 1)
    assert len(store.reads) == 1


def test_a_store_that_fails_is_no_damaged_video(store):
    # Else another video would take its place, and the stream of clips would change.
    store.objects["b/x.mp4"], store.errors = b"0123", [ConnectionResetError("reset")] * 4
    with pytest.raises(ConnectionError):
        open_video("some://b/x.mp4")


def test_many_files_are_listed(store):
    store.objects = {f"b/{i}": b"" for i in range(30)}
    store.info = None
    assert missing_files([f"some://b/{i}" for i in range(32)]) == ["some://b/30", "some://b/31"]


@pytest.fixture()
def usage(store, monkeypatch):
    """The use of a disk that is nearly full, with the copies a to d; all but d were used long ago."""
    monkeypatch.setattr(remote, "_FREE_BYTES", 5)
    usage = type("usage", (), {"total": 1000, "free": 8})
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda path: usage)
    store.objects = {f"b/{name}": b"1234" for name in "abcde"}
    monkeypatch.setattr(remote, "_look_again", 0.0)
    usage.paths = [local_path(f"some://b/{name}") for name in "abcd"]
    for age, path in zip((4000, 3000, 2000, 0), usage.paths, strict=True):
        os.utime(path, (os.stat(path).st_atime - age,) * 2)
    monkeypatch.setattr(remote, "_look_again", 0.0)
    return usage


def kept(usage):
    """Fetch another object, and return which of the copies are still there."""
    local_path("some://b/e")
    return [os.path.exists(path) for path in usage.paths]


def test_room_is_made(usage):
    writing = Path(usage.paths[0]).with_name(".f.1.tmp")
    writing.touch()
    os.utime(writing, (0, 0))
    local_path("some://b/a")  # used just now
    # To twice 5 bytes free, beside those of the new one: two of those that were used longest ago.
    assert kept(usage) == [True, False, False, True] and writing.exists()


def test_a_copy_that_is_used_meanwhile_stays(usage, monkeypatch):
    unlink = os.unlink

    def use_and_unlink(path):
        os.utime(usage.paths[1])
        unlink(path)

    with monkeypatch.context() as patch:
        patch.setattr(remote.os, "unlink", use_and_unlink)
        assert kept(usage) == [False, True, False, True]


@pytest.mark.parametrize("ended", [False, True])
def test_one_process_at_a_time_makes_room(usage, monkeypatch, ended):
    def lock(file, inherited):
        if not ended:
            raise BlockingIOError
        usage.free = 100  # the other process has made room

    monkeypatch.setattr(remote, "lock_file", lock)
    assert kept(usage) == [True] * 4


def test_a_copy_that_is_removed_when_it_is_wanted(store, monkeypatch):
    store.objects["b/x"] = b"0123"
    local, utime = remote.fetch("some://b/x"), os.utime

    def remove_first(path, **options):
        monkeypatch.setattr(remote.os, "utime", utime)
        os.unlink(path)
        utime(path, **options)

    monkeypatch.setattr(remote.os, "utime", remove_first)
    assert content("some://b/x") == b"0123" and Path(local).exists()


def test_shards_are_not_fetched_as_a_whole(store, tmp_path, make_video, monkeypatch):
    for i in range(4):
        make_video(tmp_path / f"{i}.mp4", num_frames=30, size=(64, 64))
    (tmp_path / "list.csv").write_text("".join(f"{i}.mp4 {i % 2}\n" for i in range(4)))
    write_shards(get_dataset(f"list:{tmp_path}/list.csv"), expand_pattern(f"{tmp_path}/far/a.tar"))
    store.put(tmp_path / "far")
    records = get_dataset("wds:some://b/a.tar")
    assert not [read for read in store.reads if read[0] == "b/a.tar"], "the index was enough"
    with open_video(records[2]["file_name"]) as video, open_video(tmp_path / "2.mp4") as local:
        assert np.array_equal(video.get_frames([20, 3]), local.get_frames([20, 3]))
    ((_, start, stop),) = [read for read in store.reads if read[0] == "b/a.tar"]
    assert stop - start == (tmp_path / "2.mp4").stat().st_size
    # Without an index, headers are read.
    monkeypatch.setattr(remote, "_HEADER_BLOCK", 1024)
    store.reads.clear()
    assert scan_shard("some://b/a.tar") == scan_shard(str(tmp_path / "far/a.tar"))
    assert sum(stop - start for _, start, stop in store.reads) < len(store.objects["b/a.tar"]) // 2
    store.objects["b/a.tar"] += b"more"
    remote.shard_info.cache_clear()
    with pytest.raises(ValueError, match="a.tar.index: this index is for a shard of"):
        get_dataset("wds:some://b/a.tar")


def test_folders_of_frames(store, tmp_path):
    for i in range(3):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i}.png")
    store.objects = {f"b/f/{path.name}": path.read_bytes() for path in tmp_path.glob("*.png")}
    with open_video("some://b/f") as video:
        assert video.num_frames == 3 and video.get_frames([2])[0, 0, 0, 0] == 2
    assert {path for path, _, _ in store.reads} == {"b/f/2.png"}
