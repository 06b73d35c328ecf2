"""Lists, videos, shards, weights and results in S3, by its real protocol: moto's server and a bad network."""

import http.client
import http.server
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nlvideo.checkpoint import read_file
from nlvideo.config import get_cfg
from nlvideo.data import build_train_loader, get_dataset, open_video
from nlvideo.data.records.shard_files import expand_pattern
from nlvideo.dataset_tools.shard_writing import write_shards
from nlvideo.utils.files import file_io, remote
from nlvideo.utils.files.file_io import missing_files

pytestmark = pytest.mark.slow

s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")
moto_core = pytest.importorskip("moto.core")
moto_s3 = pytest.importorskip("moto.s3.models")

ROOT = Path(__file__).resolve().parents[2]
# What the proxy does with a request.
PASS, BUSY, RESET, CUT, SLOW, DENY = "pass", "503", "reset", "cut", "slow", "403"
DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Proxy"

    def handle_request(self) -> None:
        """Pass a request on, with the fault that the server chooses for it."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.choose(self.command, self.path)
        if fault == RESET:
            return self._reset()
        if fault in (BUSY, DENY):
            text = SLOW_DOWN if fault == BUSY else DENIED
            return self._answer(int(fault), [], b"" if self.command == "HEAD" else text, len(text))
        if fault == SLOW:
            time.sleep(0.5)
        connection = http.client.HTTPConnection(*self.server.behind)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content, size = answer.read(), int(answer.headers.get("Content-Length", 0))
        connection.close()
        self.server.requests.append((self.command, self.path, len(content), len(body)))
        headers = [item for item in answer.getheaders() if item[0].lower() not in ("content-length", "connection")]
        # The store has done the work, and the answer is lost on its way.
        self._answer(answer.status, headers, content[: len(content) // 2] if fault == CUT else content, size)
        if fault == CUT:
            self._reset()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_request

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, size: int) -> None:
        self.send_response_only(status)
        for name, value in [*headers, ("Content-Length", str(size))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def _reset(self) -> None:
        # Closing with this option sends RST.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


class Proxy(http.server.ThreadingHTTPServer):
    """A bad network: ``choose`` names the fault of each request, and ``requests`` notes those that the server got."""

    daemon_threads = True

    def __init__(self, behind: tuple[str, int]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.requests = behind, []
        self.choose: Callable[[str, str], str] = lambda method, path: PASS
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: connections break here."""

    def of(self, *methods: str, containing: str = "") -> list[tuple[str, str, int, int]]:
        """The requests of these methods."""
        return [request for request in self.requests if request[0] in methods and containing in request[1]]


@pytest.fixture(scope="module")
def store() -> Iterator[tuple[str, int]]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture()
def network(store: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """An empty bucket ``set`` behind a network, which the environment names."""
    with Proxy(store) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        for name, value in {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "FVCORE_CACHE": str(tmp_path / "cache"),
        }.items():
            monkeypatch.setenv(name, value)
        bucket().reset()
        s3fs.S3FileSystem.clear_instance_cache()
        remote.shard_info.cache_clear()
        monkeypatch.setattr(file_io, "_WAITS", (0.1,) * 6)
        bucket().create_bucket("set", "us-east-1")
        proxy.requests.clear()
        yield proxy
        proxy.shutdown()


def bucket():
    """What the server has, without a network."""
    return moto_s3.s3_backends[moto_core.DEFAULT_ACCOUNT_ID]["aws"]


def put(folder: Path, prefix: str = "") -> None:
    """Put the files below a folder into the bucket."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            bucket().put_object("set", prefix + str(path.relative_to(folder)), path.read_bytes())


@pytest.fixture()
def videos(network: Proxy, tmp_path: Path, make_video: Callable) -> Path:
    """A folder of six videos of two classes and their list, in the bucket, too."""
    folder = tmp_path / "set"
    for i in range(6):
        make_video(folder / f"videos/{i}.mp4", num_frames=8 + i)
    (folder / "train.csv").write_text("".join(f"videos/{i}.mp4 {i % 2}\n" for i in range(6)))
    put(folder)
    network.requests.clear()
    return folder


def config(name: str, **changes: object):
    cfg = get_cfg()
    words: dict[str, object] = {
        "DATASETS.TRAIN": [name], "MODEL.HEAD.NUM_CLASSES": 2, "SOLVER.CLIPS_PER_BATCH": 3, "INPUT.NUM_FRAMES": 4,
        "INPUT.FRAME_STRIDE": 1, "INPUT.SHORT_SIDE_RANGE": [24, 32], "INPUT.CROP_SIZE": 24, "DATALOADER.NUM_WORKERS": 0,
        "SEED": 1, **changes,
    }  # fmt: skip
    cfg.merge_from_list([word for item in words.items() for word in item])
    return cfg


def test_lists_videos_and_weights(videos, network, tmp_path):
    records = get_dataset("list:s3://set/train.csv")
    assert [record["file_name"] for record in records] == [f"s3://set/videos/{i}.mp4" for i in range(6)]
    network.requests.clear()
    with open_video("s3://set/videos/5.mp4") as video, open_video(videos / "videos/5.mp4") as local:
        assert np.array_equal(video.get_frames([12, 3, 7]), local.get_frames([12, 3, 7]))
    # A question and a read, of no more bytes than the video has; the second time the question alone.
    size = (videos / "videos/5.mp4").stat().st_size
    assert [request[2] for request in network.of("GET")] == [size] and len(network.of("HEAD")) == 1
    open_video("s3://set/videos/5.mp4").close()
    assert len(network.of("GET")) == 1 and len(network.of("HEAD")) == 2
    # A list that is written again is another list.
    bucket().put_object("set", "train.csv", b"videos/0.mp4 0\n")
    assert len(get_dataset("list:s3://set/train.csv")) == 1
    torch.save({"model": {"a": torch.ones(3)}}, tmp_path / "w.pth")
    put(tmp_path, "weights/")
    assert read_file("s3://set/weights/w.pth")["model"]["a"].sum() == 3


def test_folders_of_frames(network, tmp_path):
    for i in range(20):
        (tmp_path / "frames/a").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), (i, i, i)).save(tmp_path / f"frames/a/{i}.png")
    put(tmp_path / "frames")
    network.requests.clear()
    with open_video("s3://set/a", fps=5) as video:
        assert video.num_frames == 20 and video.get_frames([11, 2])[:, 0, 0, 0].tolist() == [11, 2]
    # The listing, and the two images: the header of the first is not needed.
    assert len(network.of("GET", containing=".png")) == 2


def test_mistakes_are_one_line(network):
    for name, message in (
        ("list:s3://set/none.csv", "there is no file s3://set/none.csv"),
        ("list:s3://nowhere/a.csv", r"s3://nowhere/a.csv: not found \(The specified bucket does not exist\)"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            get_dataset(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"s3://set/none.pth: not found$"):
        read_file("s3://set/none.pth")
    # Nothing of this was tried again.
    assert len(network.requests) < 20


def test_faults_while_reading(videos, network):
    expected = (videos / "videos/5.mp4").read_bytes()
    faults = iter([BUSY, RESET, CUT, CUT, BUSY, RESET, CUT, SLOW])
    network.choose = lambda method, path: next(faults, PASS) if method == "GET" else PASS
    assert Path(remote.fetch("s3://set/videos/5.mp4")).read_bytes() == expected
    assert next(faults, None) is None
    network.choose = lambda method, path: RESET
    with pytest.raises(ConnectionError, match="s3://set/videos/4.mp4: no success in 7 tries: .*"):
        open_video("s3://set/videos/4.mp4")


def test_wrong_credentials(network, store, tmp_path, monkeypatch):
    """The server checks keys from here on, and knows none."""

    def check_after(requests: str) -> None:
        connection = http.client.HTTPConnection(*store)
        connection.request("POST", "/moto-api/reset-auth", requests)
        connection.getresponse().read()

    bucket().put_object("set", "a.csv", b"a.mp4 0\n")
    check_after("0")
    try:
        with pytest.raises(PermissionError, match=r"s3://set/a.csv: access denied \(Forbidden\): check the cred"):
            get_dataset("list:s3://set/a.csv")
        assert len(network.requests) <= 2
        run = train(tmp_path / "one", "OUTPUT_DIR", "s3://set/runs/a")
        assert run.returncode == 2 and len(run.stderr.splitlines()) == 1, run.stderr
        assert run.stderr.startswith("train_net.py: s3://set/runs/a: access denied ("), run.stderr
    finally:
        check_after("inf")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(PermissionError, match=r"s3://set/a.csv: access denied \(Unable to locate credentials\)"):
        get_dataset("list:s3://set/a.csv")


def test_a_bucket_of_ten_thousand_objects(network):
    for i in range(10_000):
        bucket().put_object("set", f"many/{i}.mp4", b"")
    network.requests.clear()
    names = [f"s3://set/many/{i}.mp4" for i in range(10_000)]
    assert missing_files([*names, "s3://set/many/x.mp4"]) == ["s3://set/many/x.mp4"]
    assert len(network.requests) <= 12


TINY = [
    "MODEL.HEAD.NUM_CLASSES", "2", "MODEL.BACKBONE.DEPTH", "18", "MODEL.BACKBONE.WIDTH", "0.125",
    "INPUT.NUM_FRAMES", "4", "INPUT.FRAME_STRIDE", "1", "INPUT.SHORT_SIDE_RANGE", "[24, 32]", "INPUT.CROP_SIZE", "24",
    "DATALOADER.NUM_WORKERS", "1", "SOLVER.CLIPS_PER_BATCH", "3", "SOLVER.LOG_PERIOD", "1", "SOLVER.STEPS", "[2]",
    "DATASETS.TEST", "[]", "SEED", "1",
]  # fmt: skip
CONFIG = str(ROOT / "configs" / "quickstart" / "instant_test.yaml")


def train(folder: Path, *words: object, resume: bool = False, **variables: str) -> subprocess.CompletedProcess:
    """Run tools/train_net.py in a folder, which stands for a machine."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config-file", CONFIG, *["--resume"] * resume]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    words = (*TINY, *map(str, words))
    return subprocess.run([*command, *words], cwd=folder, env=environment, capture_output=True, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a run, without those that a process writes for itself and the log, which goes on after an upload."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name != "log.txt"}


def in_store(prefix: str) -> dict[str, bytes]:
    keys = {name: key.value for name, key in bucket().buckets["set"].keys.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): value for name, value in keys.items() if not name.endswith("log.txt")}


def losses(metrics: bytes) -> list[tuple[int, float]]:
    return [(line["iteration"], line["total_loss"]) for line in map(json.loads, metrics.splitlines())]


def test_a_run_on_two_machines(videos, network, tmp_path):
    words = ["DATASETS.TRAIN", "['list:s3://set/train.csv']", "SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2]
    words += ["OUTPUT_DIR", "s3://set/runs/a", "SOLVER.CHECKPOINT_KEEP", 1]
    whole = train(tmp_path / "alone", *words, "OUTPUT_DIR", "here", FVCORE_CACHE=str(tmp_path / "other"))
    assert whole.returncode == 0, whole.stderr
    first = train(tmp_path / "one", *words, "SOLVER.MAX_ITER", 5)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "one/output/s3/set/runs/a"
    assert in_store("runs/a/") == contents(folder)
    assert {name for name in contents(folder) if name.endswith(".pth")} == {"model_0000004.pth", "model_final.pth"}
    # As if it had been stopped after four.
    bucket().put_object("set", "runs/a/last_checkpoint", b"model_0000004.pth\n")
    refused = train(tmp_path / "two", *words)
    assert refused.returncode == 2 and "which holds a run that this machine does not have" in refused.stderr
    second = train(tmp_path / "two", *words, resume=True)
    assert second.returncode == 0, second.stderr
    folder = tmp_path / "two/output/s3/set/runs/a"
    assert in_store("runs/a/") == contents(folder)
    assert losses(in_store("runs/a/")["metrics.json"]) == losses((tmp_path / "alone/here/metrics.json").read_bytes())


def test_faults_while_training(videos, network, tmp_path):
    """Resets and 503s at random moments: nothing is missing, and the stream is the same."""
    write_shards(get_dataset(f"list:{videos}/train.csv"), expand_pattern(f"{videos}/{{0..1}}.tar"))
    for path in videos.glob("*.tar*"):
        bucket().put_object("set", path.name, path.read_bytes())
    words = ["SOLVER.MAX_ITER", 200, "SOLVER.CHECKPOINT_PERIOD", 20, "SOLVER.CHECKPOINT_KEEP", 2]
    local = [f"list:{videos}/train.csv", f"wds:{videos}/{{0..1}}.tar"]
    alone = train(tmp_path / "alone", *words, "DATASETS.TRAIN", local, "OUTPUT_DIR", "here")
    assert alone.returncode == 0, alone.stderr
    chance, faults = random.Random(0), []

    def choose(method: str, path: str) -> str:
        """A fault for one in some requests, until there were twenty, and for as many answers that come late."""
        if chance.random() < 0.05:
            return SLOW
        if len(faults) == 20 or chance.random() > (0.03 if method == "HEAD" else 0.25):
            return PASS
        faults.append((method, chance.choice([BUSY, RESET] if method == "HEAD" else [BUSY, RESET, CUT])))
        return faults[-1][1]

    network.choose = choose
    far = ["list:s3://set/train.csv", "wds:s3://set/{0..1}.tar"]
    run = train(tmp_path / "far", *words, "DATASETS.TRAIN", far, "OUTPUT_DIR", "s3://set/runs/a")
    assert run.returncode == 0, run.stderr
    assert len(faults) == 20 and {method for method, _ in faults} >= {"GET", "HEAD", "PUT"}, faults
    folder = tmp_path / "far/output/s3/set/runs/a"
    assert in_store("runs/a/") == contents(folder)
    assert {"model_0000180.pth", "model_0000160.pth", "model_final.pth"} < in_store("runs/a/").keys()
    assert losses(in_store("runs/a/")["metrics.json"]) == losses((tmp_path / "alone/here/metrics.json").read_bytes())
    one, other = (torch.load(f / "model_final.pth")["model"] for f in (folder, tmp_path / "alone/here"))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_uploads_that_are_refused(videos, network, tmp_path):
    network.choose = lambda method, path: DENY if method == "PUT" and "model_final" in path else PASS
    words = ["DATASETS.TRAIN", "['list:s3://set/train.csv']", "SOLVER.MAX_ITER", 3, "OUTPUT_DIR", "s3://set/runs/a"]
    run = train(tmp_path / "one", *words)
    lines = run.stderr.splitlines()
    assert run.returncode == 1 and len(lines) == 1, run.stderr
    assert "OUTPUT_DIR: " in lines[0] and "files are not uploaded: s3://set/runs/a/model_final.pth: access" in lines[0]
    network.choose = lambda method, path: PASS
    run = train(tmp_path / "one", *words, resume=True)
    assert run.returncode == 0, run.stderr
    assert in_store("runs/a/") == contents(tmp_path / "one/output/s3/set/runs/a")


# Prints the peak of the memory in MiB after the first batches and after many.
MEASURE = """
import resource, sys
from tests.services.test_s3 import config
from nlvideo.data import build_train_loader
loader = build_train_loader(config(sys.argv[1]))
for i in range(30):
    next(loader)
    if i in (2, 29):
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_shards_are_streams(network, tmp_path, make_video):
    """A shard of 60 MiB: the first batch needs little of it, and the memory does not grow with it."""
    for i in range(30):
        path = tmp_path / f"set/{i}.mp4"
        make_video(path, num_frames=8)
        with open(path, "ab") as file:  # an atom of MP4 that is free to hold anything
            file.write(struct.pack(">I4s", 2 << 20, b"free") + bytes((2 << 20) - 8))
    (tmp_path / "set/train.csv").write_text("".join(f"{i}.mp4 {i % 2}\n" for i in range(30)))
    write_shards(get_dataset(f"list:{tmp_path}/set/train.csv"), [f"{tmp_path}/set/a.tar"])
    for name in ("a.tar", "a.tar.index"):
        bucket().put_object("set", name, (tmp_path / "set" / name).read_bytes())
    size = (tmp_path / "set/a.tar").stat().st_size
    loader = build_train_loader(config("wds:s3://set/a.tar"))
    assert next(loader)["num_failed"] == 0
    read = [num_bytes for method, path, num_bytes, _ in network.of("GET") if path.endswith("a.tar")]
    assert len(read) == 3 and sum(read) < 7 << 20 < size // 8
    command = [sys.executable, "-c", MEASURE, "wds:s3://set/a.tar"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FVCORE_CACHE": str(tmp_path / "other")}
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    begin, end = map(float, run.stdout.split())
    assert end - begin < 15, "MiB, of 60 that were read"
