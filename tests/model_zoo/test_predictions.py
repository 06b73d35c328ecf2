"""Predictions of many videos: which videos, the tables, and the file."""

import json
from pathlib import Path

import pytest
import torch

from nlvideo.model_zoo import Predictor
from nlvideo.model_zoo.predictions import (
    Prediction,
    clock,
    find_videos,
    format_predictions,
    merge_windows,
    output_files,
    write_predictions,
)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor("quickstart", device="cpu")


def scores(label: int, value: float = 0.93) -> torch.Tensor:
    rest = torch.full((8,), (1 - value) / 7)
    rest[label] = value
    return rest


def test_videos_of_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b.mp4", "a/c.AVI", "a/notes.txt", ".hidden.mp4", ".trash/d.mp4", "a/e.webm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_videos(str(tmp_path)) == [str(tmp_path / name) for name in ("a/c.AVI", "a/e.webm", "b.mp4")]
    assert "left out: not videos by their extension: 1 (a/notes.txt)" in caplog.text
    assert find_videos(str(tmp_path / "a/notes.txt")) == [str(tmp_path / "a/notes.txt")]


def test_a_folder_of_frames_is_one_video(tmp_path: Path, make_frames) -> None:
    folder = make_frames(tmp_path / "frames", num_frames=2)
    assert find_videos(folder) == [folder]
    assert find_videos(str(tmp_path)) == [folder]
    (tmp_path / "none").mkdir()
    (tmp_path / "none/a.txt").touch()
    with pytest.raises(
        ValueError, match=r"no videos in the folder \(.264, .*\), and no frames; left out: .* \(a.txt\)"
    ):
        find_videos(str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="no video 'nowhere': no such file or folder"):
        find_videos("nowhere")


def test_files_to_write_have_the_places_of_the_videos() -> None:
    videos = ["in/a/c.avi", "in/a/c.mov", "in/a/d.mov", "in/c.mp4"]
    expected = ["out/a/c.avi.mp4", "out/a/c.mov.mp4", "out/a/d.mp4", "out/c.mp4"]
    assert output_files("out", "in", videos) == dict(zip(videos, expected))
    assert output_files("out", "in/a/c.avi", ["in/a/c.avi"]) == {"in/a/c.avi": "out/c.mp4"}
    taken = output_files("out", "in", ["in/c.mov", "in/c.mp4", "in/c.mov.mp4"])
    assert sorted(taken.values()) == ["out/c.mov.mp4", "out/c.mov.mp4.mp4", "out/c.mp4.mp4"]


def test_neighbours_of_one_class_are_one_part(predictor: Predictor) -> None:
    timeline = [(0.0, 2.0, scores(0, 0.9)), (1.0, 3.0, scores(0, 0.7)), (2.0, 4.0, scores(3)), (3.0, 4.5, scores(0))]
    assert merge_windows(predictor, timeline) == [
        (0.0, 2.0, "left", pytest.approx(0.8)), (2.0, 3.0, "down", pytest.approx(0.93)),
        (3.0, 4.5, "left", pytest.approx(0.93)),
    ]  # fmt: skip
    assert merge_windows(predictor, []) == []


def test_tables(predictor: Predictor) -> None:
    one = Prediction("a.mp4", scores(6), [(0.0, 0.8, scores(6)), (0.8, 1.6, scores(7))])
    lines = [line.split() for line in format_predictions(predictor, [one], 3).splitlines()]
    assert lines[0] == ["class", "score"] and lines[2] == ["blink", "93.0", "%"] and len([k for k in lines if k]) == 9
    assert lines[-2:] == [
        ["0:00:00.0", "0:00:00.8", "blink", "93.0", "%"],
        ["0:00:00.8", "0:00:01.6", "shake", "93.0", "%"],
    ]
    both = [one, Prediction("b.mp4", error="no such file"), Prediction("c.mp4", scores(1))]
    lines = format_predictions(predictor, both, 2).splitlines()
    assert lines[2].startswith("a.mp4") and "blink 93.0 %" in lines[2]
    assert "failed: no such file" in lines[3] and "right 93.0 %" in lines[4]


@pytest.mark.parametrize("seconds, text", [(0, "0:00:00.0"), (59.96, "0:01:00.0"), (36000.5, "10:00:00.5")])
def test_times(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_file_has_all_there_is(predictor: Predictor, tmp_path: Path) -> None:
    predictions = [
        Prediction("a.mp4", scores(6), [(0.0, 0.8, scores(6))]), Prediction("b.mp4", error="no such file"),
        Prediction("camera0", None, [(0.0, 0.8, scores(2))]),
    ]  # fmt: skip
    write_predictions(str(tmp_path / "out.json"), predictor, predictions, 2)
    content = json.loads((tmp_path / "out.json").read_text())
    videos = content.pop("videos")
    weights, classes = predictor.cfg.MODEL.WEIGHTS, predictor.classes
    assert content == {
        "format": "nlvideo predictions", "version": 1, "complete": True, "weights": weights, "classes": classes,
    }  # fmt: skip
    assert [video["file"] for video in videos] == ["a.mp4", "b.mp4", "camera0"]
    assert videos[0]["scores"] == pytest.approx(scores(6).tolist(), abs=1e-6)
    assert videos[0]["top"][0] == {"class": "blink", "score": 0.93} and len(videos[0]["top"]) == 2
    (window,) = videos[0]["timeline"]
    assert (window["start_sec"], window["end_sec"], window["top"]) == (0.0, 0.8, videos[0]["top"])
    assert videos[1] == {"file": "b.mp4", "error": "no such file"}
    assert "scores" not in videos[2] and len(videos[2]["timeline"]) == 1
    write_predictions(str(tmp_path / "none.json"), predictor, [], 2, complete=False)
    assert json.loads((tmp_path / "none.json").read_text()) == content | {"complete": False, "videos": []}
