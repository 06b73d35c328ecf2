"""Upload to the Hugging Face hub and download from it, against a server on this machine that speaks its protocol."""

import base64
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
import torch

from nlvideo.checkpoint import Checkpointer
from nlvideo.checkpoint.catalog import is_hub_name
from nlvideo.config import load_cfg
from nlvideo.model_zoo import Predictor, get_config_file
from nlvideo.modeling import build_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_" + "S" * 34

needs_the_hub = pytest.mark.skipif(
    not (importlib.util.find_spec("huggingface_hub") and importlib.util.find_spec("safetensors")),
    reason="nlvideo[hub] is not installed",
)


class Hub(ThreadingHTTPServer):
    """Repositories of one revision each, in memory."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.created: list[dict] = []
        self.downloads: list[str] = []
        self.repeat = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """The answers of the hub to what huggingface_hub asks for models of small files."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        """Nothing."""

    def answer(self, content: object, status: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def revision(self, repo: str) -> str:
        return hashlib.sha1(repr(sorted(self.server.repos[repo].items())).encode()).hexdigest()

    def do_GET(self) -> None:
        parts = urlparse(self.path).path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        repo, (kind, revision, *rest) = "/".join(parts[2 * is_api :][:2]), [*parts[2 * is_api + 2 :], "", ""]
        rest = [part for part in rest if part]
        if self.server.repeat:
            self.answer({"error": f"not you: {self.headers['Authorization']}"}, 403, X_Error_Message="no")
        elif repo not in self.server.repos:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif revision not in ("", "main", "v1", self.revision(repo)):
            self.answer({"error": f"Invalid rev id: {revision}"}, 404, X_Error_Code="RevisionNotFound")
        elif is_api and kind in ("", "revision"):
            files = [{"rfilename": name} for name in self.server.repos[repo]]
            self.answer({"id": repo, "sha": self.revision(repo), "siblings": files, "private": False, "tags": []})
        elif is_api and kind == "tree":
            files = self.server.repos[repo].items()
            ids = {name: hashlib.sha1(data).hexdigest() for name, data in files}
            self.answer([{"type": "file", "path": n, "size": len(data), "oid": ids[n]} for n, data in files])
        elif kind == "resolve" and (data := self.server.repos[repo].get("/".join(rest))) is not None:
            self.server.downloads += [rest[-1]] * (self.command == "GET")
            tag = f'"{hashlib.sha1(data).hexdigest()}"'
            self.answer(data, ETag=tag, X_Repo_Commit=self.revision(repo), Accept_Ranges="bytes")
        else:
            self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.repeat or self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.answer({"error": f"not you: {self.headers['Authorization']}"}, 403)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            known = repo in self.server.repos
            self.server.created.append(asked)
            self.server.repos.setdefault(repo, {})
            self.answer({"url": f"{self.server.url}/{repo}"}, 409 if known else 200)
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif "/commit/" in self.path:
            repo = "/".join(self.path.split("/")[3:5])
            for row in map(json.loads, body.splitlines()):
                if row["key"] == "file":
                    self.server.repos[repo][row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            commit = self.revision(repo)
            self.answer(
                {"success": True, "commitOid": commit, "commitUrl": f"{self.server.url}/{repo}/commit/{commit}"}
            )
        else:
            self.answer({"errors": [], "warnings": []})


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The server."""
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """``run(script or code, *arguments, **environment)``: as a user whose token is set, in a process of its own."""

    (tmp_path / "clip.mp4").write_bytes(b"never opened")

    def call(what: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        script = [str(ROOT / what)] if what.endswith(".py") else ["-c", what]
        environment = {
            **os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment,
        }  # fmt: skip
        words = [sys.executable, *script, *arguments]
        done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert TOKEN not in done.stdout + done.stderr
        return done

    return call


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The folder of a run of three classes, with two evaluations and a last line that is cut short."""
    folder = tmp_path / "out"
    opts = ["OUTPUT_DIR", str(folder), "MODEL.DEVICE", "cpu", "MODEL.HEAD.NUM_CLASSES", "3", "SEED", "7"]
    cfg = load_cfg(get_config_file("quickstart/instant_test"), opts)
    Checkpointer(build_model(cfg), str(folder)).save("model_final", classes=["a b", "c", "d"])
    (folder / "config.yaml").write_text(cfg.dump())
    rows = [{"iteration": 4, "classification/top1": 20.0}, {"iteration": 9, "classification/top1": 61.25, "loss": 1.0}]
    rows.append({"iteration": 9, "classification/num_videos": 19761.0})
    (folder / "metrics.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows) + '{"iteration": 10, "class')
    return folder


CLIP = np.random.default_rng(0).integers(0, 256, (9, 70, 80, 3), np.uint8)
PREDICT = """
import sys, numpy as np
from nlvideo import Predictor
predictor = Predictor(sys.argv[1], opts=sys.argv[2:])
clip = np.random.default_rng(0).integers(0, 256, (9, 70, 80, 3), np.uint8)
print(predictor.cfg.MODEL.WEIGHTS, predictor.classes, predictor.scores(clip).tolist(), sep="\\n")
"""


def same_model(text: str, name: str, output: Path) -> None:
    """What PREDICT printed of a model is what the run gives."""
    weights, classes, scores = text.splitlines()[-3:]
    assert (weights, classes) == (name, "['a b', 'c', 'd']")
    assert torch.equal(torch.tensor(json.loads(scores)), Predictor(output, device="cpu").scores(CLIP))


@needs_the_hub
def test_a_model_goes_up_and_comes_down(hub: Hub, run: Callable, output: Path, tmp_path: Path) -> None:
    done = run("tools/push_to_hub.py", str(output), "user/mine", "--private")
    assert done.returncode == 0 and f"Uploaded to {hub.url}/user/mine" in done.stdout, done.stderr
    assert {"name": "mine", "organization": "user"}.items() <= hub.created[0].items()
    assert hub.created[0].get("private") or hub.created[0].get("visibility") == "private"
    assert hub.repos["user/mine"].keys() == {"README.md", "config.yaml", "classes.txt", "model.safetensors"}
    assert not any(TOKEN.encode() in data or str(output).encode() in data for data in hub.repos["user/mine"].values())

    done = run(PREDICT, "hf://user/mine", HF_TOKEN="")
    assert done.returncode == 0, done.stderr
    same_model(done.stdout, "hf://user/mine", output)
    assert sorted(hub.downloads) == ["classes.txt", "config.yaml", "model.safetensors"]
    # From the cache, by the name of the revision; and as weights of another config, with the names of classes beside.
    hub.repos["user/mine"]["model.safetensors"] = without_metadata(hub.repos["user/mine"]["model.safetensors"])
    done = run(PREDICT, str(output), "MODEL.WEIGHTS", "hf://user/mine@v1", "MODEL.DEVICE", "cpu")
    assert done.returncode == 0, done.stderr
    same_model(done.stdout, "hf://user/mine@v1", output)
    downloads = len(hub.downloads)
    done = run(PREDICT, "hf://user/mine@v1", HF_HUB_OFFLINE="1")
    assert done.returncode == 0 and len(hub.downloads) == downloads, done.stderr
    same_model(done.stdout, "hf://user/mine@v1", output)
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in text for text in texts)


def without_metadata(data: bytes) -> bytes:
    """The same tensors, as another program would write them."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    del header["__metadata__"]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@needs_the_hub
def test_a_dry_run_writes_the_files_alone(hub: Hub, run: Callable, output: Path, call_tool: Callable) -> None:
    arguments = (str(output), "user/mine", "--dry-run", "MODEL.DEVICE", "cpu")
    status, out, err = call_tool("push_to_hub", *arguments)
    assert status == 0 and "3 classes" in out and not hub.repos, err
    folder = output / "hub"
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.yaml", "classes.txt", "model.safetensors"}
    card = (folder / "README.md").read_text()
    assert "| classification/num_videos | 19761 | 10 |" in card
    assert "| classification/top1 | 61.25 | 10 |" in card and "20" not in card.split("## Metrics")[1].split("##")[0]
    assert "3 classes: a b, c, d" in card and (folder / "config.yaml").read_text() in card and "SEED: 7" in card
    assert 'Predictor("hf://user/mine")' in card and "ResNet3d" in card
    # The card may be edited before the upload.
    (folder / "README.md").write_text("mine\n")
    assert call_tool("push_to_hub", *arguments)[0] == 0 and (folder / "README.md").read_text() == "mine\n"


@needs_the_hub
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hf://user/none", "hf://user/none: RepositoryNotFoundError: "),
        ("hf://user/mine@none", "hf://user/mine@none: RevisionNotFoundError: "),
        ("hf://user/mine", "hf://user/mine has no config.yaml; --config-file names a config"),
    ],
)
def test_what_is_not_there_is_one_line(hub: Hub, run: Callable, name: str, text: str) -> None:
    hub.repos["user/mine"] = {"README.md": b"nothing"}
    done = run("tools/predict.py", "--model", name, "clip.mp4", "--json", "out.json")
    assert done.returncode == 2 and text in done.stderr.splitlines()[-1], done.stderr


@needs_the_hub
def test_a_server_that_repeats_the_token_does_not_bring_it_into_an_error(hub: Hub, run: Callable, output: Path) -> None:
    hub.repeat = True
    pushed = run("tools/push_to_hub.py", str(output), "user/mine", NLVIDEO_DEBUG="1")
    loaded = run("tools/predict.py", "--model", "hf://user/mine", "clip.mp4", NLVIDEO_DEBUG="1")
    for done in (pushed, loaded):
        last = done.stderr.splitlines()[-1]
        assert done.returncode == 2 and "hf://user/mine: " in last and "Bearer ***" in last, done.stderr


@needs_the_hub
def test_without_a_network_the_error_is_one_line(run: Callable) -> None:
    done = run("tools/predict.py", "--model", "hf://user/mine", "clip.mp4", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 2 and "hf://user/mine: " in done.stderr.splitlines()[-1], done.stderr


def test_without_the_package_the_error_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"^hf://user/x needs huggingface_hub .*: pip install 'nlvideo\[hub\]'$"):
        Predictor("hf://user/x")


@pytest.mark.parametrize("name", ["user", "a/b/c", "a b/c", "/c", "hf://a/b"])
def test_a_wrong_name_is_said_before_anything_is_read(call_tool: Callable, tmp_path: Path, name: str) -> None:
    status, _, err = call_tool("push_to_hub", str(tmp_path / "none"), name, "--dry-run")
    assert status == 2 and f"USER/NAME: got {name!r}, allowed: " in err


def test_a_file_on_the_hub_is_no_model() -> None:
    assert is_hub_name("hf://user/name") and is_hub_name("hf://user/name@refs/pr/1")
    assert not any(map(is_hub_name, ("hf://user/name/w.pth", "hf://name", "s3://user/name", "hf://datasets/u/n/f")))
