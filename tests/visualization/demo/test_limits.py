"""What may be uploaded, and what is said about the rest."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from nlvideo.visualization.demo.uploads import Limits, check_upload

LIMITS = Limits(max_megabytes=1, max_seconds=20)


def refusal(path, limits=LIMITS):
    """The message that a file is refused with."""
    with pytest.raises(ValueError) as error:
        check_upload(path, limits)
    assert "\n" not in str(error.value) and str(path.parent) not in str(error.value)
    return str(error.value)


def test_facts_of_a_good_video(make_video, tmp_path):
    facts = check_upload(make_video(tmp_path / "a clip.mp4", num_frames=25, height=32, width=48, fps=10), LIMITS)
    assert (facts.name, facts.num_frames, facts.height, facts.width) == ("a clip.mp4", 25, 32, 48)
    assert facts.seconds == pytest.approx(2.5)


def test_other_containers_are_read(make_video, tmp_path):
    for name in ("a.mkv", "a.avi", "a.mov"):
        assert check_upload(make_video(tmp_path / name, num_frames=8), LIMITS).num_frames == 8


def test_what_is_no_video_is_named(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    contents = {
        "noise.mp4": os.urandom(5000), "notes.txt": b"no video", "picture.png": picture.getvalue(),
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert refusal(tmp_path / name).startswith(f"{name} is not a video that can be read here: expected MP4,")


@pytest.mark.parametrize("name", ["list.m3u8", "list.ffconcat", "list.mp4"])
def test_a_playlist_does_not_open_other_files(name, make_video, tmp_path):
    secret = make_video(tmp_path / "secret.ts", codec="mpeg4", num_frames=8)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.8,\n{secret}\n#EXT-X-ENDLIST\n"
    (tmp_path / name).write_text(playlist if "ffconcat" not in name else f"ffconcat version 1.0\nfile {secret}\n")
    assert "is not a video" in refusal(tmp_path / name)


def test_an_empty_file(tmp_path):
    (tmp_path / "a.mp4").touch()
    assert refusal(tmp_path / "a.mp4") == "a.mp4: the file is empty"


def test_a_file_that_is_too_large(tmp_path):
    (tmp_path / "a.mp4").write_bytes(bytes(5 * 2**19))
    assert refusal(tmp_path / "a.mp4") == "a.mp4: 2.5 MB, allowed: up to 1 MB"


def test_a_video_that_is_too_long(ten_hours, make_video, tmp_path):
    assert refusal(ten_hours) == "ten_hours.mp4: 10 h long, allowed: up to 20 s"
    make_video(tmp_path / "a.mp4", num_frames=21, fps=1)
    assert refusal(tmp_path / "a.mp4") == "a.mp4: 21 s long, allowed: up to 20 s"


def test_more_frames_than_any_camera_makes(make_video, tmp_path):
    # 100 frames, said to be over in a hundredth of a second, count for a tenth.
    make_video(tmp_path / "a.mp4", num_frames=100, fps=10_000)
    assert refusal(tmp_path / "a.mp4", Limits(max_seconds=0.05)) == "a.mp4: 0.1 s long, allowed: up to 0.05 s"


def test_frames_larger_than_any_screen(make_video, tmp_path):
    """8K of a few megabytes kept everybody waiting for minutes."""
    assert Limits().max_frame_pixels < 7680 * 4320
    make_video(tmp_path / "a.mp4", num_frames=2)
    assert refusal(tmp_path / "a.mp4", Limits(max_frame_pixels=1500)) == (
        "a.mp4: frames of 48 x 32, allowed: up to 0.0015 million pixels; make it smaller and try again"
    )


def test_more_pixels_than_can_be_decoded_in_time(make_video, tmp_path):
    path = make_video(tmp_path / "a.mp4", num_frames=11)
    assert check_upload(path, Limits(max_pixels=11 * 32 * 48)).num_frames == 11
    assert refusal(tmp_path / "a.mp4", Limits(max_pixels=11 * 32 * 48 - 1)) == (
        "a.mp4: 11 frames of 48 x 32, allowed: up to 10 of this size; make it smaller or shorter"
    )


def test_a_truncated_video_says_why(make_video, tmp_path):
    whole = Path(make_video(tmp_path / "whole.mkv", num_frames=40, height=64, width=64)).read_bytes()
    (tmp_path / "a.mkv").write_bytes(whole[:600])
    assert refusal(tmp_path / "a.mkv").startswith("a.mkv")


def test_sound_without_a_picture(tmp_path):
    import av
    import numpy as np

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert refusal(tmp_path / "a.mp4") == "a.mp4 has no picture: it is not a video"


@pytest.mark.parametrize("name", ["max_megabytes", "max_seconds", "max_frame_pixels", "max_pixels"])
def test_limits_are_above_zero(name):
    with pytest.raises(ValueError, match=f"{name}: got 0, allowed: above 0"):
        Limits(**{name: 0})
