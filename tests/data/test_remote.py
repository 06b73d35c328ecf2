"""Paths with a scheme go through iopath: lists, videos, names of classes, shards and their indexes."""

import functools
import http.server
import itertools
import os
import threading
import time

import pytest
from iopath.common.file_io import PathHandler

from nlvideo.config import get_cfg
from nlvideo.data import MetadataCatalog, VideoDecodeError, build_train_loader, get_dataset, open_video
from nlvideo.data.datasets.list_files import format_list
from nlvideo.data.datasets.listed import read_classes
from nlvideo.data.records.shard_files import expand_pattern
from nlvideo.dataset_tools.indexing import IndexingResult, index_videos
from nlvideo.dataset_tools.shard_writing import write_shards
from nlvideo.dataset_tools.transcode import TranscodeOptions, transcode_dataset, transcode_video
from nlvideo.tools.lib.survey import survey_dataset, survey_video
from nlvideo.utils.files import file_io
from nlvideo.utils.files.file_io import (
    PathManager,
    absolute_path,
    file_exists,
    is_remote,
    join_path,
    local_path,
    place_in_cache,
)


class FarHandler(PathHandler):
    """``far://`` is a folder of this machine."""

    def __init__(self, root):
        super().__init__()
        self.root = str(root)

    def _get_supported_prefixes(self):
        return ["far://"]

    def _get_local_path(self, path, force=False, **kwargs):
        local = os.path.join(self.root, path.removeprefix("far://"))
        if not os.path.exists(local):
            raise FileNotFoundError(f"{path} is not there")
        return local

    def _isfile(self, path, **kwargs):
        return os.path.isfile(os.path.join(self.root, path.removeprefix("far://")))

    def _exists(self, path, **kwargs):
        return os.path.exists(os.path.join(self.root, path.removeprefix("far://")))

    def _open(self, path, mode="r", buffering=-1, **kwargs):
        return open(self._get_local_path(path), mode, buffering, **kwargs)


@pytest.fixture()
def far(tmp_path, make_video):
    """A far folder of five videos of two classes and their list."""
    root = tmp_path / "far"
    for i in range(5):
        make_video(root / f"set/videos/{i}.mp4", num_frames=8 + i)
    lines = [*(f"videos/{i}.mp4 {i % 2}\n" for i in range(4)), "far://set/videos/4.mp4 0\n"]
    (root / "set/train.csv").write_text("".join(lines))
    (root / "set/classes.txt").write_text("a\nb\n")
    PathManager.register_handler(FarHandler(root), allow_override=True)
    return root


def test_paths():
    assert [is_remote(path) for path in ("s3://a/b", "x+y.z://a", "/a", "a:b", "a/x://b")] == [True, True] + [False] * 3
    assert join_path("far://a", "b/c.mp4") == join_path("far://a/", "b/c.mp4") == "far://a/b/c.mp4"
    assert join_path("s3://b/v/", "./a.mp4") == "s3://b/v/a.mp4" and join_path("s3://b", "./a") == "s3://b/a"
    assert join_path("s3://b/v/w", "../a.mp4") == "s3://b/v/a.mp4" and join_path("s3://b/v", "../../a") == "s3://b/a"
    assert join_path("/a", "far://b") == "far://b" and join_path("far://a", "/b") == "/b"
    assert join_path("/a/", "./b") == "/a/b" and absolute_path("far://a/../b") == "far://a/../b"
    assert absolute_path("x") == f"{os.getcwd()}/x" and local_path("/a") == "/a"


def test_indices_of_far_videos(far, tmp_path):
    paths = [f"far://set/videos/{i}.mp4" for i in range(5)]
    found = index_videos([*paths, "far://none.mp4"], tmp_path / "index")
    assert found.num_indexed == 5 and [path for path, _ in found.failed] == ["far://none.mp4"]
    assert index_videos(paths, tmp_path / "index").num_known == 5
    with open_video(paths[3], index_dir=str(tmp_path / "index")) as video:
        assert video.num_frames == 11


def test_unknown_schemes_and_missing_files(far):
    with pytest.raises(OSError, match="nowhere://a.mp4: no path handler is registered for nowhere://"):
        local_path("nowhere://a.mp4")
    with pytest.raises(VideoDecodeError, match="far://none.mp4: not fetched: far://none.mp4 is not there"):
        open_video("far://none.mp4")
    assert file_exists("far://set/train.csv") and not file_exists("far://set/other.csv")
    assert file_exists("http://127.0.0.1:9/a.mp4"), "a handler that cannot tell"
    with pytest.raises(ValueError, match="there is no file far://none.csv"):
        get_dataset("list:far://none.csv")


def test_lists_and_videos(far, tmp_path):
    name = "list:far://set/train.csv"
    records = get_dataset(name)
    assert [record["file_name"] for record in records] == [f"far://set/videos/{i}.mp4" for i in range(5)]
    assert [record["video_id"] for record in records][3:] == ["videos/3.mp4", "far://set/videos/4.mp4"]
    assert MetadataCatalog.get(name).classes == read_classes("far://set/classes.txt") == ["a", "b"]
    with open_video(records[4]["file_name"]) as video:
        assert video.num_frames == 12
    # A local list of remote videos, as a tool writes it.
    (tmp_path / "local.csv").write_text(format_list(records, tmp_path))
    assert [r["file_name"] for r in get_dataset(f"list:{tmp_path}/local.csv")] == [r["file_name"] for r in records]


@pytest.mark.parametrize("kind", ["list", "wds"])
def test_training_reads_from_afar(far, kind):
    name = "list:far://set/train.csv"
    if kind == "wds":
        write_shards(get_dataset(name), expand_pattern(f"{far}/shards/{{0..1}}.tar"))
        name = "wds:far://shards/{0..1}.tar"
    cfg = get_cfg()
    cfg.merge_from_list([
        "DATASETS.TRAIN", [name], "MODEL.HEAD.NUM_CLASSES", 2, "SOLVER.CLIPS_PER_BATCH", 5, "INPUT.NUM_FRAMES", 4,
        "INPUT.FRAME_STRIDE", 1, "INPUT.SHORT_SIDE_RANGE", [24, 32], "INPUT.CROP_SIZE", 24, "DATALOADER.NUM_WORKERS", 1,
    ])  # fmt: skip
    batches = list(itertools.islice(build_train_loader(cfg), 2))
    for batch in batches:
        assert len(set(batch["video_id"])) == 5 and batch["num_failed"] == 0
    (far / "set/videos/2.mp4").unlink()
    if kind == "list":
        with pytest.raises(ValueError, match="1 of 5 videos do not exist: far://set/videos/2.mp4"):
            build_train_loader(cfg)


def test_tools_read_from_afar(far, tmp_path):
    name = "list:far://set/train.csv"
    survey, _ = survey_dataset(get_dataset(name), 1)
    assert [facts.num_frames for facts in survey.good] == [8, 9, 10, 11, 12]
    done, listed = transcode_dataset(name, get_dataset(name), f"{tmp_path}/out", TranscodeOptions(preset="ultrafast"))
    assert all(result.error is None for result in done)
    assert [r["file_name"] for r in get_dataset(f"list:{listed}")] == [f"{tmp_path}/out/{i}.mp4" for i in range(5)]


def test_tools_know_remote_folders_of_frames(tmp_path, make_frames):
    path = f"file://{make_frames(tmp_path / 'frames', num_frames=3)}"
    record = {"file_name": path, "video_id": "a", "label": 0}
    facts = survey_video([record])
    assert (facts.error, facts.num_frames, facts.codec) == (None, 3, "images")
    assert index_videos([path], tmp_path / "index") == IndexingResult()
    result = transcode_video((path, f"{tmp_path}/a.mp4", TranscodeOptions(), False))
    assert result.error == "a folder of frames: transcoding is for video files"
    with pytest.raises(ValueError, match="a: file://.*/frames is a folder; shards hold video files"):
        write_shards([record], [f"{tmp_path}/x.tar"])


@pytest.mark.parametrize("kind", [ConnectionError, PermissionError])
def test_an_outage_is_no_fault_of_the_video(far, monkeypatch, kind):
    def fails(*arguments, **options):
        raise kind("no answer")

    monkeypatch.setattr(FarHandler, "_get_local_path", fails)
    with pytest.raises(kind, match="no answer"):
        survey_video([{"file_name": "far://set/videos/0.mp4", "video_id": "a"}])


@pytest.fixture()
def server(tmp_path, monkeypatch):
    """The address of a server of the files in ``tmp_path / "web"``."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "web").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *arguments: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_lists_and_videos_by_http(server, tmp_path, make_video):
    make_video(tmp_path / "web/videos/a.mp4", num_frames=7)
    (tmp_path / "web/train.csv").write_text("videos/a.mp4 0\n")
    (record,) = get_dataset(f"list:{server}/train.csv")
    assert (
        record["file_name"] == f"{server}/videos/a.mp4"
        and MetadataCatalog.get(f"list:{server}/train.csv").classes == []
    )
    with open_video(record["file_name"]) as video:
        assert video.num_frames == 7
    with pytest.raises(ValueError, match=f"there is no file {server}/none.csv"):
        get_dataset(f"list:{server}/none.csv")


def test_names_of_files_by_http(server, tmp_path, make_video):
    names = ["walk/my video.mp4", "vidéo#2/a.mp4", "vidéo#3/a.mp4", "100%25.mp4"]
    for num_frames, name in enumerate(names, 5):
        make_video(tmp_path / "web" / name.replace("%25", "%"), num_frames=num_frames)
    for num_frames, name in enumerate(names, 5):
        with open_video(f"{server}/{name}") as video:
            assert video.num_frames == num_frames
    # A query is part of the name in the cache, where iopath looks.
    for query in ("?download=true", f"?key={'x' * 300}"):
        assert local_path(f"{server}/100%25.mp4{query}") == place_in_cache(f"{server}/100%25.mp4{query}")
    assert place_in_cache("http://h/a/w.pth?download=true") == f"{tmp_path}/cache/h/a/w.pth?download=true"


def test_a_server_that_fails_is_no_damaged_video(server, tmp_path, make_video, monkeypatch, caplog):
    make_video(tmp_path / "web/a.mp4", num_frames=7)
    monkeypatch.setattr(file_io, "_WAITS", (0.0,) * 4)
    monkeypatch.setattr(file_io, "_SILENT_SEC", 0.5)
    failures, answer = ["silent", "busy", "short", "closed"], http.server.SimpleHTTPRequestHandler.do_GET

    def fail_first(self):
        failure = failures.pop(0) if failures else ""
        if failure == "silent":
            time.sleep(1)
        elif failure == "busy":
            self.send_error(503)
        elif failure == "short":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"abc")
        elif not failure:
            answer(self)

    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "do_GET", fail_first)
    with open_video(f"{server}/a.mp4") as video:
        assert video.num_frames == 7
    assert not failures and [record.args[0] for record in caplog.records] == [f"{server}/a.mp4"] * 4
    assert "timed out" in caplog.text and "503" in caplog.text and "3 bytes came instead of 100" in caplog.text
    for read in (open_video, lambda path: get_dataset(f"list:{path}")):
        with pytest.raises(ConnectionError, match="http://127.0.0.1:9/a: no success in 5 tries: .*refused"):
            read("http://127.0.0.1:9/a")
    # One that is not there is not asked for again.
    caplog.clear()
    with pytest.raises(VideoDecodeError, match=f"not fetched: {server}/b.mp4: HTTP Error 404"):
        open_video(f"{server}/b.mp4")
    assert not caplog.records


@pytest.mark.parametrize("name", ["list:nowhere://set/train.csv", "wds:nowhere://set/{0..2}.tar"])
def test_what_needs_a_handler_says_which(name):
    with pytest.raises(
        OSError, match="nowhere://set/.*: no path handler is registered for nowhere://; a plugin can"
    ) as caught:
        get_dataset(name)
    assert "\n" not in str(caught.value) and "PathManager.register_handler" in str(caught.value)
