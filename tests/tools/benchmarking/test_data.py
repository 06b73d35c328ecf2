"""The benchmark of reading: what it counts and writes, on a tiny video; times are not judged."""

import json

import pytest

from nlvideo.tools.lib.benchmarking import data


@pytest.fixture(scope="module")
def result(tmp_path_factory, make_video):
    """(the table, the figures) of one run."""
    folder = tmp_path_factory.mktemp("benchmark")
    path = make_video(folder / "a.mp4", num_frames=60, gop=20, codec="libx264", pix_fmt="yuv420p", crf="5")
    out = str(folder / "out.json")
    options = {"num_frames": 4, "frame_stride": 2, "num_clips": 3, "rounds": 2, "step_seconds": 1e-4}
    return data.run([path], out, **options), json.loads(open(out).read())


def test_figures(result):
    _, figures = result
    (video,) = figures["videos"]
    assert figures["clip"] == "4x2" and figures["environment"]["av"]
    assert (video["video"], video["frames"]) == ("a.mp4", 60)
    assert {"full decode", "nlvideo", "nlvideo, indexed", "open"} <= set(video["ms_per_clip"])
    assert video["ratio_to_full"]["full decode"] == 1 and all(ms > 0 for ms in video["ms_per_clip"].values())
    # Seven frames from first to last, and up to 19 from the key-frame to the first.
    assert 4 <= video["decoded_per_clip"] <= 26
    assert video["decoded_test_views"] <= 60
    assert set(video["stage_ms"]) == {"open", "decode", "convert"}
    assert len(video["memory_mb"]) == data.MEMORY_POINTS
    assert video["workers"] >= 8


def test_table(result):
    text, _ = result
    assert "a.mp4: 60 frames" in text and "ms per clip" in text and "workers that keep the step fed: " in text


def test_generated_video_has_b_frames_and_few_key_frames(tmp_path):
    path = data.write_video(str(tmp_path / "a.mp4"), num_frames=40, height=48, width=64)
    assert len(data.read_all(path)) == 40
    assert data.read_clip(path, [10, 12]) < 13


@pytest.mark.parametrize("name, value", [("rounds", 0), ("num_clips", 0), ("step_seconds", -1)])
def test_wrong_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name}: got {value}, allowed: "):
        data.run([], **{name: value})
