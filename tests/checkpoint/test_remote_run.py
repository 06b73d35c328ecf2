"""A run in object storage: what is uploaded, in which order, what is removed, and what a fresh machine gets."""

import logging
import os
from pathlib import Path

import pytest
import torch.distributed as dist

from nlvideo.checkpoint import remote_run
from nlvideo.checkpoint.remote_run import RemoteRun, finish_uploads
from nlvideo.engine.script import exit_code_of, results_uploaded
from nlvideo.errors import UploadFailed
from nlvideo.utils import comm
from nlvideo.utils.files import file_io
from nlvideo.utils.system.env import INVOCATIONS

fsspec = pytest.importorskip("fsspec")
URL = "memory://bucket/runs/a"


@pytest.fixture(autouse=True)
def store(monkeypatch, tmp_path):
    """fsspec's store in memory, empty, and an empty current folder."""
    monkeypatch.setattr(file_io, "_WAITS", (0.0,))
    # Only what a test asks for is uploaded.
    monkeypatch.setattr(remote_run, "_LOOK_SEC", 1000.0)
    monkeypatch.chdir(tmp_path)
    store = fsspec.filesystem("memory", use_listings_cache=False)
    store.store.clear()
    yield store
    remote_run._running.clear()
    store.store.clear()


def write(folder, **files):
    for name, text in files.items():
        path = Path(folder, name.replace("__", "/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        (path if path.suffix or "last" in name else path.with_suffix(".pth")).write_text(text)


def started(resume=False, eval_only=False, keep=0, invocations="{}"):
    run = RemoteRun(URL)
    run.fetch(resume, eval_only, keep)
    Path(run.folder, INVOCATIONS).write_text(invocations)
    run.start()
    return run


def there(store):
    """The names and contents of what the store has."""
    return {name.removeprefix("/bucket/runs/a/"): store.cat(name).decode() for name in store.find("/bucket")}


def test_the_address():
    assert RemoteRun("s3://bucket/runs//a/").folder == "output/s3/bucket/runs/a"
    for url in ("s3://", "s3://bucket/../a"):
        with pytest.raises(ValueError, match="OUTPUT_DIR: got 's3://.*, allowed: s3://BUCKET/FOLDER"):
            RemoteRun(url)


def test_a_disk_by_its_address(tmp_path):
    run = RemoteRun(f"file://{tmp_path}/far/run")
    run.fetch(False, False, 0)
    write(run.folder, **{INVOCATIONS: "{}", "inference__a.txt": "a"})
    run.start()
    finish_uploads()
    assert (tmp_path / "far/run/inference/a.txt").read_text() == "a"


def test_what_is_uploaded_and_removed(store):
    run = started()
    assert there(store) == {INVOCATIONS: "{}"}
    write(run.folder, model_0000001="1", model_0000002="2", inference__a="r", last_checkpoint="model_0000002.pth\n")
    write(run.folder, **{"metrics.json": "m"})
    Path(run.folder, ".model_0000003.pth.1.tmp").write_text("half")
    run._upload()
    names = {
        "model_0000001.pth",
        "model_0000002.pth",
        "inference/a.pth",
        "metrics.json",
        "last_checkpoint",
        INVOCATIONS,
    }
    assert set(there(store)) == names
    # The older checkpoint goes; what changed is uploaded.
    Path(run.folder, "model_0000001.pth").unlink()
    write(run.folder, model_0000003="3", last_checkpoint="model_0000003.pth\n")
    finish_uploads()
    assert set(there(store)) == names - {"model_0000001.pth"} | {"model_0000003.pth"}
    assert there(store)["last_checkpoint"] == "model_0000003.pth\n"


def test_the_last_checkpoint_is_named_after_it_is_there(store, monkeypatch):
    run = started()
    write(run.folder, model_0000001="1", last_checkpoint="model_0000001.pth\n")
    run._upload()
    put = run._put

    def fail(name, before):
        if name == "model_0000002.pth":
            raise ConnectionError("reset")
        put(name, before)

    monkeypatch.setattr(run, "_put", fail)
    write(run.folder, model_0000002="2", last_checkpoint="model_0000002.pth\n")
    Path(run.folder, "model_0000001.pth").unlink()
    with pytest.raises(
        UploadFailed, match="OUTPUT_DIR: 2 of 3 files are not uploaded: reset. The files are in output/memory"
    ):
        finish_uploads()
    # What a fresh machine would go on from is still there.
    assert there(store)["last_checkpoint"] == "model_0000001.pth\n" and there(store)["model_0000001.pth"] == "1"


def test_a_folder_that_is_removed_removes_nothing(store):
    run = started()
    write(run.folder, model_0000001="1", last_checkpoint="model_0000001.pth\n")
    run._upload()
    for path in Path(run.folder).iterdir():
        path.unlink()
    finish_uploads()
    assert set(there(store)) == {"model_0000001.pth", "last_checkpoint", INVOCATIONS}


@pytest.mark.parametrize("keep", [0, 2])
def test_a_fresh_machine(store, monkeypatch, tmp_path, keep):
    run = started()
    write(run.folder, model_0000001="1", model_0000002="2", model_best="b", earlier_1__model_final="f")
    write(run.folder, last_checkpoint="model_0000002.pth\n", **{"metrics.json": "m"})
    finish_uploads()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(ValueError, match=f"OUTPUT_DIR: got '{URL}', which holds a run that this machine does not have"):
        started()
    run = started(resume=True, keep=keep)
    files = {name for name in run._local_files() if name != INVOCATIONS}
    assert files == {"model_0000002.pth", "model_best.pth", "last_checkpoint", "metrics.json"} | (
        {"model_0000001.pth"} if keep else set()
    )
    # The next run that is moved aside must not replace this one.
    assert os.path.isdir(f"{run.folder}/earlier_1")
    # The local run is now the same: nothing to fetch.
    Path(run.folder, "metrics.json").write_text("own")
    again = started(resume=True)
    assert Path(again.folder, "metrics.json").read_text() == "own"
    finish_uploads()
    assert there(store)["earlier_1/model_final.pth"] == "f"


def test_the_run_that_is_further_on_counts(store, monkeypatch, tmp_path):
    run = started()
    write(run.folder, model_0000002="old", last_checkpoint="model_0000002.pth\n")
    finish_uploads()
    store.pipe("/bucket/runs/a/model_0000004.pth", b"new")
    store.pipe("/bucket/runs/a/last_checkpoint", b"model_0000004.pth\n")
    run = started(resume=True)
    assert Path(run.folder, "model_0000004.pth").read_text() == "new"
    assert Path(run.folder, "earlier_1/model_0000002.pth").read_text() == "old"
    write(run.folder, model_final="end", last_checkpoint="model_final.pth\n")
    # The upload was killed. The local run is further on.
    run = started(resume=True)
    finish_uploads()
    assert there(store)["last_checkpoint"] == "model_final.pth\n" and there(store)["model_final.pth"] == "end"


def test_a_run_that_is_moved_aside_is_not_lost(store):
    run = started()
    write(run.folder, model_0000001="old", last_checkpoint="model_0000001.pth\n")
    finish_uploads()
    # As a new run on this machine does it.
    run = started()
    write(run.folder, earlier_1__model_0000001="old")
    write(run.folder, model_0000001="new")
    order = []
    put = run._put
    run._put = lambda name, before: (order.append(name), put(name, before))
    finish_uploads()
    assert order[0] == "earlier_1/model_0000001.pth" and there(store)["model_0000001.pth"] == "new"


def test_bytes_that_change_on_their_way(store, monkeypatch):
    run = started()
    write(run.folder, **{"a.txt": "right"})
    info = store.__class__.info
    other = {"size": 4}
    monkeypatch.setattr(store.__class__, "info", lambda self, path: {**info(self, path), **other})
    with pytest.raises(UploadFailed, match="the store has other bytes than were sent"):
        finish_uploads()
    # An MD5 that is another: the bytes are read back, and they are right.
    other = {"ETag": '"' + "0" * 32 + '"'}
    run = started()
    finish_uploads()
    assert not run._checksums
    monkeypatch.setattr(store.__class__, "cat_file", lambda self, path, start, end: b"wrong"[: end - start])
    with pytest.raises(ConnectionError, match="the store has other bytes than were sent"):
        started()


def test_checksums(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_run, "_PART", 4)
    run = RemoteRun(URL)
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    for etag, same in (
        ("781e5e245d69b566979b86e28d23f2c7", True),
        ("781e5e245d69b566979b86e28d23f2c8", False),
        # The MD5 of the three MD5s of 0123, 4567 and 89.
        ("61e3716e3a7767581863b67c4e785584-3", True),
        ("61e3716e3a7767581863b67c4e785585-3", False),
    ):
        assert run._is_same(str(path), {"size": 10, "ETag": f'"{etag}"'}, sure=True) is same
    assert run._is_same(str(path), {"size": 10, "md5Hash": "eB5eJF1ptWaXm4bijSPyxw=="}, sure=True)
    # Parts of another size: the checksum says nothing.
    assert run._is_same(str(path), {"size": 10, "ETag": '"' + "0" * 32 + '-7"'})
    assert not run._is_same(str(path), {"size": 10, "ETag": '"' + "0" * 32 + '-7"'}, sure=True)


def test_the_thread(store, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(remote_run, "_LOOK_SEC", 0.01)
    monkeypatch.setattr(remote_run, "_FULL_SEC", 0.02)
    run = started()
    put = run._put
    run._put = lambda *arguments: (_ for _ in ()).throw(ConnectionError("down"))
    write(run.folder, model_0000001="1", last_checkpoint="model_0000001.pth\n")
    for _ in range(500):
        if "Uploads to" in caplog.text:
            break
        run._ending.wait(0.01)
    run._put = put
    for _ in range(500):
        if "last_checkpoint" in there(store):
            break
        run._ending.wait(0.01)
    assert set(there(store)) == {"model_0000001.pth", "last_checkpoint", INVOCATIONS}
    # One line for the outage.
    assert caplog.text.count("Uploads to memory://bucket/runs/a fail: down. The run goes on") == 1
    finish_uploads()


def test_the_end_of_a_script(store, caplog):
    run = started()
    run._put = lambda *arguments: (_ for _ in ()).throw(ConnectionError("down"))
    write(run.folder, **{"a.txt": "a"})
    with pytest.raises(UploadFailed) as caught:
        results_uploaded()(lambda: None)()
    assert exit_code_of(caught.value) == 1
    run = started()
    run._put = lambda *arguments: (_ for _ in ()).throw(ConnectionError("down"))
    write(run.folder, **{"b.txt": "b"})

    def main():
        """A run with an error of its own."""
        raise ValueError("own")

    with pytest.raises(ValueError, match="own"):
        results_uploaded()(main)()
    assert "OUTPUT_DIR: 1 of" in caplog.text or "OUTPUT_DIR: 2 of" in caplog.text


def test_no_rank_waits_for_the_last_upload(monkeypatch):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    monkeypatch.setattr(remote_run, "finish_uploads", lambda: done.append(dist.is_initialized()))
    done = []
    results_uploaded()(lambda: done.append(dist.is_initialized()))()
    comm.finish()
    assert done == [True, False]


@pytest.mark.parametrize("broken, message", [
    ("pipe_file", "OUTPUT_DIR: 1 of 4 files are not uploaded: down. "),
    ("rm_file", "OUTPUT_DIR: removed files are still in the store: down. "),
])  # fmt: skip
def test_the_end_says_what_is_missing(store, monkeypatch, broken, message):
    def fail(*arguments, **options):
        """The store is gone."""
        raise ConnectionError("down")

    run = started()
    write(run.folder, model_0000001="1", a="1", last_checkpoint="model_0000001.pth\n")
    if broken == "rm_file":
        run._upload()
        os.remove(os.path.join(run.folder, "a.pth"))
    monkeypatch.setattr(remote_run, "with_store", lambda url, work: work(store, url.partition("://")[2]))
    monkeypatch.setattr(store, broken, fail)
    with pytest.raises(UploadFailed) as caught:
        finish_uploads()
    assert str(caught.value).startswith(message)


def test_a_look_that_fails_does_not_end_the_thread(store, monkeypatch, caplog):
    monkeypatch.setattr(remote_run, "_LOOK_SEC", 0.01)
    run = started()
    errors, look = [OSError("stale handle")], run._tag
    monkeypatch.setattr(run, "_tag", lambda: look() if not errors else (_ for _ in ()).throw(errors.pop()))
    for _ in range(500):
        if "stale handle" in caplog.text:
            break
        run._ending.wait(0.01)
    assert run._thread.is_alive()
    finish_uploads()
