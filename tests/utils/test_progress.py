"""Progress bars in a file, and on a terminal."""

import functools
import hashlib
import http.server
import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nlvideo.checkpoint import catalog
from nlvideo.utils import console
from nlvideo.utils.console import bars_as_lines, progress_bar
from nlvideo.utils.files.file_io import PathManager


class Terminal(io.StringIO):
    """What a terminal is to tqdm."""

    def isatty(self) -> bool:
        return True


def work(*, monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, step_sec: float) -> str:
    """What a bar of 1000 steps writes, with one of its own inside."""
    clock = [0.0]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.setattr(console.time, "monotonic", lambda: clock[0])
        for _ in progress_bar(range(1000), desc="outer", mininterval=0):
            clock[0] += step_sec
            for _ in progress_bar(range(3), desc="inner", leave=False, mininterval=0):
                pass
    return stream.getvalue()


def test_a_redirected_bar_writes_a_line_in_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    text = work(monkeypatch=monkeypatch, stream=io.StringIO(), step_sec=1.0)
    lines = text.split("\n")
    assert 20 <= len(lines) - 1 <= 34 and lines[-1] == ""
    assert all(line.startswith(("outer: ", "inner: ")) for line in lines[:-1]) and not set("\r\x1b") & set(text)


def test_work_that_is_done_soon_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert work(monkeypatch=monkeypatch, stream=io.StringIO(), step_sec=0.01) == ""


def test_a_terminal_gets_tqdm_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert work(monkeypatch=monkeypatch, stream=Terminal(), step_sec=0.01).count("\router") > 20


CONTENT = bytes(range(256)) * 4096
NAME = f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a folder with one file."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / NAME).write_bytes(CONTENT)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    handler.func.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def download(kind: str, server: str, folder: Path, monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> str:
    """What a download writes to the console's errors."""
    path = f"{server}/{NAME}" if kind == "http" else "torchvision://net"
    monkeypatch.setattr(catalog, "torchvision_url", lambda name: f"{server}/{NAME}")
    monkeypatch.setattr(catalog, "get_cache_dir", lambda: str(folder))
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.setattr(sys, "stderr", stream)
    options = {"cache_dir": str(folder), "force": True} if kind == "http" else {}
    assert Path(PathManager.get_local_path(path, **options)).read_bytes() == CONTENT
    assert sys.stderr is stream
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["http", "torchvision"])
def test_a_redirected_download_writes_lines_and_few_of_them(
    kind: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert download(kind, server, tmp_path / "first", monkeypatch, io.StringIO()) == ""
    monkeypatch.setattr(console, "_BAR_EVERY_SEC", 0.0)
    text = download(kind, server, tmp_path / "second", monkeypatch, io.StringIO())
    assert "100%" in text and text.endswith("\n") and not set("\r\x1b") & set(text)


@pytest.mark.parametrize("kind", ["http", "torchvision"])
def test_a_download_draws_its_bar_on_a_terminal(
    kind: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "\r" in download(kind, server, tmp_path / "cache", monkeypatch, Terminal())


def test_text_that_is_no_bar_is_written_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with bars_as_lines():
        print("a line", file=sys.stderr)
        print("", file=sys.stderr, end="end")
        print(file=sys.stderr)
        assert not sys.stderr.isatty()
    assert stream.getvalue() == "a line\nend\n"
