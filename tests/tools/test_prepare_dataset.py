"""tools/prepare_dataset.py from the command line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nlvideo.data.datasets.official import FORMATS


@pytest.fixture()
def prepare(call_tool: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, str]]:
    """``prepare(*arguments, code=0) -> (output, errors)``."""
    monkeypatch.setattr(sys, "argv", ["tools/prepare_dataset.py"])

    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        """Run it."""
        status, out, err = call_tool("prepare_dataset", *arguments)
        assert status == code, err
        return out, err

    return run


@pytest.fixture()
def diving(tmp_path: Path) -> Callable[..., list[str]]:
    """Write Diving48 with four training and two test videos; returns the arguments that prepare it."""
    words = [["Back", f"{i:02d}som", "NoTwis", "PIKE"] for i in range(48)]
    content = {"vocab": words, "V2_train": [("a", 0), ("b", 0), ("c", 1), ("d", 47)], "V2_test": [("e", 1), ("f", 2)]}
    for name, value in content.items():
        if name != "vocab":
            value = [{"vid_name": v, "label": label, "start_frame": 0, "end_frame": 70} for v, label in value]
        (tmp_path / f"Diving48_{name}.json").write_text(json.dumps(value))
    (tmp_path / "rgb").mkdir()
    for video in "abcdef":
        (tmp_path / "rgb" / f"{video}.mp4").touch()
    files = [str(tmp_path / f"Diving48_{name}.json") for name in content]
    return ["diving48", "--videos", str(tmp_path / "rgb"), "--out", str(tmp_path / "out"), "--annotations", *files]


def test_lists_counts_and_what_is_missing(prepare: Callable, diving: list[str], tmp_path: Path) -> None:
    out, _ = prepare(*diving)
    lines = out.splitlines()
    assert lines[0].split() == ["label", "class", "train", "val"]
    assert lines[2].split() == ["0", "Back", "00som", "NoTwis", "PIKE", "2", "0"]
    assert lines[-3:-1] == [
        "train: 4 videos, 48 classes, 0 missing (0.0%)", "val: 2 videos, 48 classes, 0 missing (0.0%)",
    ]  # fmt: skip
    assert (tmp_path / "out/train.csv").read_text().splitlines()[1] == f'"{tmp_path}/rgb/a.mp4",0'
    (tmp_path / "rgb/c.mp4").unlink()
    out, err = prepare(*diving, code=1)
    assert "train: 3 videos, 48 classes, 1 missing (25.0%)" in out
    assert (tmp_path / "out/missing.txt").read_text() == "train c\n"
    assert err == ("prepare_dataset.py: too many videos of train are missing, see --max-missing; no lists made\n")
    prepare(*diving, "--max-missing", "0.25")
    assert len((tmp_path / "out/train.csv").read_text().splitlines()) == 4


def test_files_of_another_dataset(prepare: Callable, diving: list[str], tmp_path: Path) -> None:
    path = tmp_path / "Diving48_V2_test.json"
    path.write_text(json.dumps([{"id": "1", "template": "Putting [something]"}]))
    _, err = prepare(*diving, code=1)
    assert err == (
        f"prepare_dataset.py: {path}: entry 1: expected the keys vid_name,label of Diving48,"
        " found the keys id,template\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda words: ["diving84", *words[1:]], "unknown dataset 'diving84': did you mean 'diving48'"),
        (lambda words: [*words, "--max-missing", "3"], "--max-missing: got 3.0, allowed: 0 to 1"),
        (lambda words: [*words, "--out", "s3://b/out"], "--out: got 's3://b/out', allowed: a local path"),
        (lambda words: [*words, "/no/such/train.json"], "diving48: there is no file or folder /no/such/train.json"),
        (lambda words: [*words[:2], "/no/such/rgb", *words[3:]], "diving48: there is no folder /no/such/rgb"),
    ],
)
def test_mistakes_are_one_line(prepare: Callable, diving: list[str], change: Callable, message: str) -> None:
    out, err = prepare(*change(diving), code=2)
    assert out == "" and message in err and err.count("\n") == 1


def test_help_names_every_dataset(prepare: Callable) -> None:
    out, _ = prepare("--help")
    assert {spec.name.replace("_split2", "_split1").replace("_split3", "_split1") for spec in FORMATS.values()} <= set(
        out.replace(",", " ").split()
    )
