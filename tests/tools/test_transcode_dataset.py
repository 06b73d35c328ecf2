"""tools/transcode_dataset.py: a dataset becomes one that is read faster."""

import pytest

from nlvideo.data import get_dataset
from nlvideo.tools.lib.survey import survey_video


def test_a_folder_becomes_a_list(tmp_path, make_video, call_tool):
    for name in ("run/a.avi", "walk/b.mkv"):
        make_video(tmp_path / "videos" / name, num_frames=40, height=80, width=60, gop=40, codec="ffv1")
    options = [f"folder:{tmp_path}/videos", f"{tmp_path}/out", "--preset", "ultrafast", "--num-workers", "2"]
    status, out, _ = call_tool("transcode_dataset", *options, "--short-side", "32", "--key-frame-distance", "10")
    assert status == 0 and "2 videos transcoded (0 of them before), 0 failed; " in out
    assert f"'list:{tmp_path}/out/videos.csv'" in out
    records = get_dataset(f"list:{tmp_path}/out/videos.csv")
    assert [(record["video_id"], record["label"]) for record in records] == [("run/a.mp4", 0), ("walk/b.mp4", 1)]
    facts = survey_video(records[:1])
    assert (facts.num_frames, facts.width, facts.height, facts.key_frame_distance) == (40, 32, 42, 10)
    (tmp_path / "videos/walk/bad.mp4").write_bytes(b"nonsense" * 99)
    status, out, _ = call_tool("transcode_dataset", *options, "--short-side", "32", "--key-frame-distance", "10")
    assert status == 1 and "2 videos transcoded (2 of them before), 1 failed" in out and "bad.mp4: " in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--short-side", "0"], "--short-side: got 0, allowed: 2 or more"),
        (["--crf", "52"], "--crf: got 52, allowed: 0 to 51"),
        (["--preset", "quick"], "--preset: got quick, allowed: ultrafast, "),
        (["--num-workers", "0"], "--num-workers: got 0, allowed: 1 or more"),
        ([], "there is no file /nothing.csv"),
    ],
)
def test_errors_are_one_line(call_tool, arguments, message):
    status, out, err = call_tool("transcode_dataset", "list:/nothing.csv", "/nowhere", *arguments)
    assert status == 2 and out == "" and message in err and err.count("\n") == 1
