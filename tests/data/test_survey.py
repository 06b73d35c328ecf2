"""The short look at the videos when a training starts."""

import logging
import re
import time

import pytest

from nlvideo.config import load_cfg
from nlvideo.data import survey
from nlvideo.data.survey import Header, describe, log_survey, read_header


def cfg_of(*opts):
    """Clips of 16 frames, 4 apart."""
    return load_cfg(None, ["INPUT.NUM_FRAMES", "16", "INPUT.FRAME_STRIDE", "4", *opts])


def headers(*seconds, fps=30, size=(240, 320)):
    """Videos of so many seconds."""
    return [Header(length * fps, fps, *size) for length in seconds]


def test_what_a_clip_covers():
    videos = headers(3, 10.4, 1.2, size=(240, 320)) + headers(3, fps=25)
    line, _ = describe(cfg_of(), videos)
    text = "a clip: 16 frames, stride 4 = 2.13 s; videos: 3 s (median; 1.2 to 10.4), 25 to 30 fps, 320x240 (median)"
    assert line == text
    assert describe(cfg_of("INPUT.FPS", "12"), headers(9))[0].startswith(
        "a clip: 16 frames, stride 4 at 12 fps = 5.33 s;"
    )
    spread = describe(cfg_of("INPUT.CLIP_SAMPLER", "SegmentClip"), headers(9))[0]
    assert spread == "a clip: 16 frames, spread over the video; videos: 9 s (median; 9 to 9), 30 fps, 320x240 (median)"
    unknown = describe(cfg_of(), [Header(90, 0.0, 48, 64)])[0]
    assert unknown == "a clip: 16 frames, stride 4; videos: 90 frames (median), rate unknown, 64x48 (median)"


@pytest.mark.parametrize("opts, videos, expected", [
    ("", headers(3, 4, 5), None),
    ("", headers(21.3), None),
    ("", headers(21.4), "A clip covers 10 % of the median video: a larger INPUT.FRAME_STRIDE, or INPUT.CLIP_SAMPLER"),
    ("INPUT.FPS 3", headers(200), None),
    ("INPUT.CLIP_SAMPLER SegmentClip", headers(200), None),
    ("", headers(2.04, *[3] * 9), None),
    ("", headers(2, 2, *[3] * 8), "2 of 10 videos are shorter than a clip and repeat frames: a smaller INPUT.FRAME"),
    ("INPUT.SHORT_VIDEO error", headers(1), "1 of 1 videos are shorter than a clip and are refused: a smaller INPUT"),
    ("INPUT.FPS 12", headers(4), "1 of 1 videos are shorter than a clip and repeat frames: a smaller INPUT.FRAME"),
    ("INPUT.CLIP_SAMPLER SegmentClip", headers(0.5), "1 of 1 videos are shorter than a clip and repeat frames: a "
     "smaller INPUT.NUM_FRAMES fits"),
    ("", headers(9) + headers(9, fps=20), None),
    ("", headers(9) + headers(9, fps=19), "The rates of the videos differ, 19 to 30 fps, so that clips cover different "
     "times: INPUT.FPS 19 makes them the same"),
    ("INPUT.FPS 10", headers(9) + headers(9, fps=15), None),
    ("", headers(9, size=(1080, 1920)), "The short side of the videos is 1080 pixels (median), and 320 are used: "
     "tools/transcode_dataset.py --short-side 320 makes videos that decode faster"),
    ("", headers(9, size=(640, 480)), None),
    ("INPUT.CROP_AREA_RANGE [0.1,1.0]", headers(9, size=(640, 480)), "The short side of the videos is 480 pixels "
     "(median), and 224 are used"),
])  # fmt: skip
def test_each_advice_names_what_to_change(opts, videos, expected):
    advice = describe(cfg_of(*opts.split()), videos)[1]
    assert advice == [] if expected is None else len(advice) == 1 and advice[0].startswith(expected)


@pytest.mark.parametrize("extension", ["mp4", "mkv", "avi", "ts", "webm"])
def test_headers_say_what_the_video_has(tmp_path, make_video, extension):
    codec = {"webm": "libvpx-vp9"}.get(extension, "libx264")
    path = make_video(tmp_path / f"a.{extension}", 40, height=48, width=64, codec=codec, pix_fmt="yuv420p")
    header = read_header({"file_name": path})
    assert header == (pytest.approx(40, abs=1.1), pytest.approx(10), 48, 64)
    part = read_header({"file_name": path, "start_sec": 1.0, "end_sec": 2.5})
    assert part.num_frames == pytest.approx(15)
    assert read_header({"file_name": path, "start_sec": 3.0, "end_sec": 9.0}).num_frames == pytest.approx(10, abs=1.1)


def test_folders_of_frames(tmp_path, make_frames):
    folder = make_frames(tmp_path / "frames", 12)
    assert read_header({"file_name": folder}) == (12, 0.0, 32, 48)
    assert read_header({"file_name": folder, "fps": 6.0, "start_sec": 1.0}) == (6, 6.0, 32, 48)


def test_some_of_many_and_those_that_cannot_be_read(tmp_path, make_video, caplog, monkeypatch):
    path = make_video(tmp_path / "a.mp4", 40)
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    records = [{"file_name": path if i % 4 else str(tmp_path / "bad.mp4")} for i in range(1001)]
    with caplog.at_level(logging.INFO):
        log_survey(cfg_of(), records)
    (line,) = [record.message for record in caplog.records if "Survey" in record.message]
    found = re.fullmatch(r"Survey of 200 of 1001 videos: a clip: .*\(median\); (\d+) could not be read", line)
    assert found and 40 <= int(found[1]) <= 60
    caplog.clear()
    with caplog.at_level(logging.INFO):
        log_survey(cfg_of(), [{"file_name": str(tmp_path / "bad.mp4")}] * 3)
    assert [record.message for record in caplog.records] == ["Survey of 3 of 3 videos: none could be read"]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        log_survey(cfg_of(), [{"file_name": path}, {"file_name": "s3://bucket/a.mp4"}])
    assert "Survey of 1 of 2 videos" in caplog.text and "could not" not in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        log_survey(cfg_of(), [{"file_name": "s3://bucket/a.mp4"}])
    assert caplog.text == ""


def test_a_slow_disk_costs_little(tmp_path, make_video, caplog, monkeypatch):
    path = make_video(tmp_path / "a.mp4", 40)
    monkeypatch.setattr(survey, "_MAX_SEC", 0.5)
    monkeypatch.setattr(survey, "_read_header", lambda record: time.sleep(1) or Header(40, 10.0, 32, 48))
    begin = time.monotonic()
    with caplog.at_level(logging.INFO):
        log_survey(cfg_of(), [{"file_name": path}] * 200)
    # All of them would take 25 seconds; starting processes takes some on a busy machine.
    assert time.monotonic() - begin < 15 and re.search(r"Survey of \d\d? of 200 videos", caplog.text)
