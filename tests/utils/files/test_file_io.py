"""Files: whole or not there."""

import errno
import fcntl
import json
import os
import stat
import threading

import pytest

from nlvideo.utils.files import file_io
from nlvideo.utils.files.file_io import PathManager, WholeFile, atomic_write, is_remote, naming, write_json, write_text


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
    fetched = []

    def fetch(url, local):
        fetched.append(url)
        write_json(local, "from the net")

    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(file_io, "_download", fetch)
    with PathManager.open("https://example.org/weights.pth") as file:
        assert json.load(file) == "from the net"
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


def test_names_of_files_keep_their_bytes(tmp_path):
    write_text(tmp_path / "a.csv", os.fsdecode(b"caf\xe9.mp4 1\n"))
    assert (tmp_path / "a.csv").read_bytes() == b"caf\xe9.mp4 1\n"


def full(*rest):
    raise OSError(errno.ENOSPC, "No space left on device")


def hidden(*rest):
    """A full disk as PyTorch's zip writer reports it."""
    try:
        full()
    finally:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")


@pytest.mark.parametrize("write", [full, hidden])
def test_a_full_disk_names_the_file(tmp_path, write):
    path = str(tmp_path / "model.pth")
    with pytest.raises(OSError) as caught:
        atomic_write(path, write)
    assert str(caught.value) == f"[Errno {errno.ENOSPC}] No space left on device: '{path}'"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError) as caught, naming(path):
        write()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, path)


def test_a_checkpoint_that_does_not_fit_names_its_file(tmp_path):
    import resource

    import torch

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(OSError, match=f"File too large: '{tmp_path}/model.pth'"):
            atomic_write(str(tmp_path / "model.pth"), lambda file: torch.save({"a": torch.zeros(2**16)}, file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_writer_that_appends_names_its_file(monkeypatch):
    from nlvideo.utils.events import EventStorage, JSONWriter

    writer = JSONWriter("/dev/full")
    with EventStorage() as storage, pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        storage.put_scalar("loss", 1.0)
        writer.write()


def test_errors_of_other_files_stay_as_they_are(tmp_path):
    other = tmp_path / "other"
    for write in (lambda file: other.open(), lambda file: {}["a"], lambda file: hidden_key(other)):
        with pytest.raises((FileNotFoundError, KeyError)) as caught:
            atomic_write(str(tmp_path / "a"), write)
        assert getattr(caught.value, "filename", str(other)) == str(other)
    with pytest.raises(FileNotFoundError, match="No such file or directory: '.*/none/a'"):
        atomic_write(str(tmp_path / "none" / "a"), full)


def hidden_key(other):
    """A look-up that fails after an error of the system was dealt with."""
    try:
        raise OSError(errno.EAGAIN, "try again")
    except OSError:
        return {}["a"]


def test_what_killed_writers_left_is_swept_and_what_is_being_written_is_not(tmp_path):
    left, busy, other = (tmp_path / name for name in (".a.pth.123.tmp", ".b.pth.1.tmp", ".c.tmp"))
    for path in (left, busy, other):
        path.write_bytes(b"half")
    with open(busy, "rb+") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        file_io._sweep.cache_clear()
        atomic_write(str(tmp_path / "new"), lambda file: file.write(b"x"))
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [".b.pth.1.tmp", ".c.tmp", "new"]
    file_io._sweep.cache_clear()
    with WholeFile(str(tmp_path / "d")) as whole:
        assert not busy.exists() and os.path.exists(whole.temporary)
        # Another process sweeps meanwhile.
        file_io._sweep.cache_clear()
        file_io._sweep(str(tmp_path))
        assert os.path.exists(whole.temporary)


def test_two_threads_that_write_one_file_write_it_whole(tmp_path):
    path = str(tmp_path / "a")
    threads = [
        threading.Thread(target=atomic_write, args=(path, lambda file, i=i: file.write(bytes([i]) * 10**6)))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    content = (tmp_path / "a").read_bytes()
    assert content == content[:1] * 10**6 and os.listdir(tmp_path) == ["a"]


def test_a_path_may_be_an_object(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with PathManager.open(tmp_path / "a.txt") as file:
        assert file.read() == "a"
    assert PathManager.exists(tmp_path / "a.txt") and PathManager.ls(tmp_path) == ["a.txt"]
    assert not is_remote(tmp_path)
