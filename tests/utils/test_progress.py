"""Progress bars in a file, and on a terminal."""

import io
import sys

import pytest

from nlvideo.utils import console
from nlvideo.utils.console import progress_bar


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
