"""The tools on real videos of many codecs, and on files that are none: they go on, and say which failed and why."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nlvideo.data import VideoReader
from nlvideo.export import load_features

QUICKSTART = ["--model", "quickstart", "--device", "cpu"]
BROKEN = {"gen_empty.mp4", "gen_garbage.mp4", "gen_truncated_moov_front_or_missing.mp4"}


@pytest.fixture
def videos(test_data: Path) -> Path:
    return test_data / "videos"


def test_predictions_of_a_folder(run_tool: Callable, videos: Path, tmp_path: Path) -> None:
    done = run_tool("predict.py", *QUICKSTART, "--input", str(videos), "--json", str(tmp_path / "p.json"), code=1)
    found = {Path(video["file"]).name: video for video in json.loads((tmp_path / "p.json").read_text())["videos"]}
    assert {name for name, video in found.items() if "error" in video} == BROKEN and len(found) > 20
    assert all(
        sum(video["scores"]) == pytest.approx(1, abs=1e-4) for name, video in found.items() if name not in BROKEN
    )
    assert f"{len(BROKEN)} of {len(found)} videos failed" in done.stderr and "Traceback" not in done.stderr


def test_features_of_a_list(run_tool: Callable, videos: Path, tmp_path: Path) -> None:
    sound = [
        "decord_video_90.mov",
        "decord_video_180.mov",
        "gen_vfr_h264.mkv",
        "gen_vp8.webm",
        "imageio_newtonscradle.gif",
    ]
    sound = [name for name in sound if (videos / name).is_file()]
    (tmp_path / "list.txt").write_text("".join(f"{videos / name} 0\n" for name in [*sound, *sorted(BROKEN)]))
    done = run_tool(
        "extract_features.py", *QUICKSTART, "--dataset", f"list:{tmp_path / 'list.txt'}", "--layer", "res5",
        "--output", str(tmp_path / "out"),
    )  # fmt: skip
    assert f"features of {len(sound)} videos, 128 each; {len(BROKEN)} failed" in done.stdout
    found = load_features(str(tmp_path / "out"))
    assert found.features.shape == (len(sound), 128) and len(sound) >= 4
    assert {Path(video).name for video in found.failed} == BROKEN


@pytest.mark.parametrize("name", ["decord_video_270.mov", "torchcodec_h265_10bits.mp4"])
def test_attention(run_tool: Callable, videos: Path, tmp_path: Path, name: str) -> None:
    run_tool(
        "visualize_attention.py",
        *QUICKSTART,
        "--input",
        str(videos / name),
        "--output",
        str(tmp_path),
        "--num-queries",
        "1",
    )
    assert {path.name for path in tmp_path.iterdir()} == {"attention.json", "query_0.png", "query_0.mp4"}
    with VideoReader(tmp_path / "query_0.mp4") as film:
        assert film.num_frames == 8


def test_attention_in_what_is_no_video(run_tool: Callable, videos: Path, tmp_path: Path) -> None:
    video = str(videos / "gen_garbage.mp4")
    done = run_tool("visualize_attention.py", *QUICKSTART, "--input", video, "--output", str(tmp_path), code=2)
    assert len(done.stderr.strip().splitlines()) == 1 and video in done.stderr
