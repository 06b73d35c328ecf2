"""tools/predict.py as a user runs it: a video, a folder, a camera."""

import contextlib
import fcntl
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest

from nlvideo import model_zoo
from nlvideo.data import FrameStream, VideoReader
from nlvideo.model_zoo import Predictor
from nlvideo.visualization.video_file import LabelledVideo

QUICKSTART = ["--model", "quickstart", "--device", "cpu"]
ROOT = Path(__file__).resolve().parents[2]
LABELLED_CRASH = Path(__file__).parent / "data" / "labelled_crash"
FOLDER = Path(model_zoo.trained_folder("quickstart"))


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., str]) -> Path:
    """A folder of two videos, of 1.6 and 2.4 seconds, and a broken one."""
    folder = tmp_path_factory.mktemp("videos")
    make_video(folder / "a.mp4", num_frames=16, height=64, width=80)
    make_video(folder / "deep/c.mp4", num_frames=24, height=64, width=80)
    (folder / "b.mp4").write_text("no video")
    return folder


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_one_video(call_tool: Callable, videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    status, text, err = call_tool("predict", *QUICKSTART, "--input", str(videos / "a.mp4"), "--json", str(out))
    assert status == 0, err
    expected = Predictor("quickstart", device="cpu")(videos / "a.mp4")
    rows = [line.split()[:2] for line in text.splitlines()[2:]]
    assert rows == [[name, f"{100 * score:.1f}"] for name, score in expected]
    (video,) = read(out)["videos"]
    assert [entry["class"] for entry in video["top"]] == [name for name, _ in expected]
    assert len(video["scores"]) == 8 and "timeline" not in video


def in_a_terminal(*arguments: str) -> tuple[int, str]:
    """Run the tool where its progress bars are drawn: exit status, and what a terminal of 100 columns would show."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    command = [sys.executable, str(ROOT / "tools" / "predict.py"), *QUICKSTART, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the other side is closed
        while data := os.read(ours, 2**16):
            shown += data
    os.close(ours)
    return process.wait(), shown.decode()


@pytest.mark.parametrize("arguments", [[], ["--window-sec", "1"]])
def test_one_video_in_a_terminal(videos: Path, arguments: list[str]) -> None:
    status, shown = in_a_terminal("--input", str(videos / "deep/c.mp4"), *arguments)
    assert status == 0 and "Traceback" not in shown, shown
    assert ("2/2 s" in shown) == bool(arguments)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_prediction_keeps_the_windows_that_are_done(
    videos: Path, tmp_path: Path, load_tool: Callable, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    tool, before = load_tool("predict"), signal.getsignal(signal.SIGTERM)
    score_windows = Predictor.score_windows

    def stop_after_one(*arguments: object) -> Iterator:
        yield next(iter(score_windows(*arguments)))
        os.kill(os.getpid(), number)

    monkeypatch.setattr(Predictor, "score_windows", stop_after_one)
    out = tmp_path / "p.json"
    arguments = ["--input", str(videos / "deep/c.mp4"), "--window-sec", "1", "--json", str(out)]
    with pytest.raises(KeyboardInterrupt):
        tool.main(tool.build_parser().parse_args([*QUICKSTART, *arguments]))
    found = read(out)
    assert not found["complete"] and len(found["videos"][0]["timeline"]) == 1 and len(found["videos"][0]["scores"]) == 8
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_ways_to_name_a_model_agree(call_tool: Callable, videos: Path) -> None:
    arguments = ["--input", str(videos / "a.mp4"), "--device", "cpu", "--top-k", "8"]
    _, expected, _ = call_tool("predict", "--model", "quickstart", *arguments)
    assert len(expected.splitlines()) == 10
    weights = ["--weights", str(FOLDER / "model.pth")]
    for model in (["--config-file", str(FOLDER / "config.yaml"), *weights], ["--model", str(FOLDER)]):
        assert call_tool("predict", *model, *arguments)[:2] == (0, expected)
    assert call_tool("predict", "--model", "quickstart", *arguments, "TEST.NUM_CROPS", "1")[1] != expected


def test_the_video_may_be_the_first_word(call_tool: Callable, videos: Path, load_tool: Callable) -> None:
    video, views = str(videos / "a.mp4"), ["TEST.NUM_CROPS", "1"]
    expected = call_tool("predict", *QUICKSTART, "--input", video, *views)
    assert expected[0] == 0
    for words in (
        [video, *views, *QUICKSTART], [*QUICKSTART, video, *views], [*views[:1], *QUICKSTART, "--input", video, "1"]
    ):  # fmt: skip
        assert call_tool("predict", *words) == expected
    for tool in ("predict", "visualize_attention"):
        parsed = load_tool(tool).build_parser().parse_args(["a.mp4", *QUICKSTART, *views])
        assert (parsed.input, parsed.opts) == ("a.mp4", views) and "first_word" not in parsed
        status, text, err = call_tool(tool, *QUICKSTART)
        assert (status, text) == (2, "") and err.endswith(
            ": the following arguments are required: VIDEO; --help says more\n"
        )


def test_a_labelled_video_and_its_timeline(call_tool: Callable, videos: Path, tmp_path: Path, frame_index) -> None:
    out, arguments = tmp_path / "p.json", ["--input", str(videos / "deep/c.mp4"), "--output", str(tmp_path / "films")]
    status, text, err = call_tool(
        "predict", *QUICKSTART, *arguments, "--window-sec", "1", "--stride-sec", "0.5", "--json", str(out)
    )
    assert status == 0, err
    timeline = read(out)["videos"][0]["timeline"]
    assert [(window["start_sec"], window["end_sec"]) for window in timeline] == [(0, 1), (0.5, 1.5), (1, 2), (1.4, 2.4)]
    assert "0:00:00.0" in text and "0:00:02.4" in text
    with VideoReader(tmp_path / "films/c.mp4") as film:
        assert [frame_index(image[:200]) for image in film.get_frames(range(film.num_frames))] == list(range(24))
    status, _, err = call_tool("predict", *QUICKSTART, *arguments)
    assert status == 2 and "c.mp4 exists; --overwrite replaces it" in err
    assert call_tool("predict", *QUICKSTART, *arguments, "--overwrite")[0] == 0


def test_ten_hours_are_windows_like_others(call_tool: Callable, make_video, tmp_path: Path) -> None:
    """A frame every three minutes: as long as any video, and decoded as fast as a short one."""
    path, out = make_video(tmp_path / "day.mp4", num_frames=200, fps=Fraction(1, 180)), tmp_path / "p.json"
    arguments = ["--input", path, "--window-sec", "3600", "--json", str(out), "--output", str(tmp_path / "labelled")]
    status, _, err = call_tool("predict", *QUICKSTART, *arguments)
    assert status == 0, err
    timeline = read(out)["videos"][0]["timeline"]
    assert [window["start_sec"] for window in timeline] == [3600 * hour for hour in range(10)]
    with VideoReader(tmp_path / "labelled" / "day.mp4") as labelled:
        assert labelled.num_frames == 200 and labelled.duration_sec == pytest.approx(36000, rel=0.01)


def test_a_bad_video_of_a_folder_is_reported_and_the_rest_go_on(
    call_tool: Callable, videos: Path, tmp_path: Path
) -> None:
    out, films = tmp_path / "p.json", tmp_path / "films"
    arguments = ["--input", str(videos), "--json", str(out), "--output", str(films)]
    status, text, err = call_tool("predict", *QUICKSTART, *arguments)
    assert status == 1 and f"{videos}/b.mp4: " in err and err.rstrip().endswith("1 of 3 videos failed")
    assert [line.split()[0] for line in text.splitlines()[2:]] == [
        f"{videos}/{name}" for name in ("a.mp4", "b.mp4", "deep/c.mp4")
    ]
    content = read(out)
    assert content["complete"] and ["error" in video for video in content["videos"]] == [False, True, False]
    assert sorted(str(path.relative_to(films)) for path in films.rglob("*.*")) == ["a.mp4", "deep/c.mp4"]


def test_videos_that_are_hard_to_write_are_labelled(call_tool: Callable, tmp_path: Path) -> None:
    """A gap of a day, which MP4 does not hold; 6000x64 pixels, which grew above what H.264 holds; a usual one."""
    out = tmp_path / "p.json"
    arguments = ["--input", str(LABELLED_CRASH), "--output", str(tmp_path / "films"), "--json", str(out)]
    status, _, err = call_tool("predict", *QUICKSTART, *arguments)
    assert status == 0, err
    content = read(out)
    assert content["complete"] and [len(video["scores"]) for video in content["videos"]] == [8, 8, 8]
    for path in LABELLED_CRASH.iterdir():
        with VideoReader(path) as before, VideoReader(tmp_path / "films" / f"{path.stem}.mp4") as film:
            assert film.num_frames == before.num_frames and max(film.height, film.width) <= 4096


@pytest.mark.parametrize("error", [av.error.PatchWelcomeError(1, "not yet implemented"), RuntimeError("of any kind")])
def test_whatever_goes_wrong_with_a_video_the_rest_go_on(
    call_tool: Callable, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    write_window = LabelledVideo.write_window

    def fail_at_a(self: LabelledVideo, *arguments: object) -> None:
        if self.path.endswith("/a.mp4"):
            raise error
        write_window(self, *arguments)

    monkeypatch.setattr(LabelledVideo, "write_window", fail_at_a)
    out, films = tmp_path / "p.json", tmp_path / "films"
    status, text, err = call_tool(
        "predict", *QUICKSTART, "--input", str(videos), "--output", str(films), "--json", str(out)
    )
    assert status == 1 and err.rstrip().endswith("2 of 3 videos failed")
    assert "Traceback" in err and type(error).__name__ in err  # an error that was not foreseen
    a, b, c = read(out)["videos"]
    assert (len(a["scores"]), "scores" in b, len(c["scores"])) == (8, False, 8)
    assert type(error).__name__ in a["error"] and b["error"] and "error" not in c
    assert [str(path.relative_to(films)) for path in films.rglob("*.*")] == ["deep/c.mp4"]
    assert f"{videos}/a.mp4" in text and "failed" in text


def test_a_window_that_cannot_be_is_refused_before_any_video(call_tool: Callable, videos: Path) -> None:
    status, _, err = call_tool("predict", *QUICKSTART, "--input", str(videos), "--window-sec", "-1")
    assert status == 2 and "window_sec: got -1.0" in err and len(err.splitlines()) == 1


def test_a_stopped_prediction_keeps_the_videos_that_are_done(
    call_tool: Callable, videos: Path, tmp_path: Path, monkeypatch
) -> None:
    score = Predictor._score

    def stop_at_c(self: Predictor, sample: dict, *arguments: object) -> object:
        if sample["video_id"] == "c.mp4":
            raise KeyboardInterrupt
        return score(self, sample, *arguments)

    monkeypatch.setattr(Predictor, "_score", stop_at_c)
    out = tmp_path / "p.json"
    status, _, err = call_tool("predict", *QUICKSTART, "--input", str(videos), "--json", str(out))
    assert status == 130 and err.rstrip().endswith("interrupted")
    content = read(out)
    assert not content["complete"] and [Path(video["file"]).name for video in content["videos"]] == ["a.mp4", "b.mp4"]


def test_a_camera(call_tool: Callable, tmp_path: Path, monkeypatch) -> None:
    """FFmpeg's test pattern in place of a camera: a live source all the same."""
    source = "testsrc=size=96x64:rate=10:duration=2"
    monkeypatch.setattr("nlvideo.data.open_camera", lambda index: FrameStream(source, format="lavfi"))
    out = tmp_path / "p.json"
    arguments = ["--input", "0", "--output", str(tmp_path), "--json", str(out), "--top-k", "2"]
    status, text, err = call_tool("predict", *QUICKSTART, *arguments)
    assert status == 0, err
    live = [line.split() for line in text.splitlines()[:3]]
    assert [line[0] for line in live] == ["0:00:00.0", "0:00:00.8", "0:00:01.2"] and all(
        len(line) == 7 for line in live
    )
    (video,) = read(out)["videos"]
    assert video["file"] == "camera0" and len(video["timeline"]) == 3 and "scores" not in video
    with VideoReader(tmp_path / "camera0.mp4") as film:
        assert film.num_frames == 20


def test_ctrl_c_is_how_a_camera_ends(call_tool: Callable, tmp_path: Path, monkeypatch) -> None:
    source = "testsrc=size=96x64:rate=10"
    monkeypatch.setattr("nlvideo.data.open_camera", lambda index: FrameStream(source, format="lavfi"))
    score, calls = Predictor._score, []

    def stop_at_the_third(self: Predictor, record: dict) -> object:
        calls.append(record)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(self, record)

    monkeypatch.setattr(Predictor, "_score", stop_at_the_third)
    out = tmp_path / "p.json"
    status, _, err = call_tool("predict", *QUICKSTART, "--input", "0", "--output", str(tmp_path), "--json", str(out))
    assert status == 0, err
    assert read(out)["complete"] and len(read(out)["videos"][0]["timeline"]) == 2
    with VideoReader(tmp_path / "camera0.mp4") as film:
        assert film.num_frames == 16


def test_mistakes_are_one_line(call_tool: Callable, videos: Path, tmp_path: Path) -> None:
    video, weights = ["--input", str(videos / "a.mp4")], ["--weights", str(FOLDER / "model.pth")]
    (tmp_path / "empty").mkdir()
    shutil.copy(videos / "a.mp4", tmp_path / "a.mp4")
    other = ["--config-file", model_zoo.get_config_file("quickstart/c2d")]
    mistakes = [
        (video, "one of the arguments --model --config-file is required"),
        ([*QUICKSTART, "--config-file", "F.yaml", *video], "--config-file: not allowed with argument --model"),
        (["--config-file", str(FOLDER / "config.yaml"), *video], "MODEL.WEIGHTS: got '', allowed for a prediction"),
        (["--model", "quickstrat", *video], "unknown model 'quickstrat': did you mean 'quickstart'?"),
        ([*QUICKSTART, "--weights", "none.pth", *video], "no checkpoint none.pth"),
        ([*other, *weights, *video], "is of another network than the config's"),
        ([*QUICKSTART, "--input", "none.mp4"], "no video 'none.mp4': no such file or folder"),
        ([*QUICKSTART, "--input", str(videos / "b.mp4")], "b.mp4: "),
        ([*QUICKSTART, "--input", str(tmp_path / "empty")], "no videos in the folder"),
        ([*QUICKSTART, "--input", "77"], "camera 77: there is no /dev/video77"),
        ([*QUICKSTART, *video, "--top-k", "0"], "--top-k: got 0, allowed: 1 or more"),
        ([*QUICKSTART, *video, "--json", "no/such/folder.json"], "but there is no folder"),
        ([*QUICKSTART, *video, "--json", str(tmp_path)], ", a folder, allowed: a file"),
        ([*QUICKSTART, *video, "--output", str(tmp_path / "a.mp4")], "a.mp4', a file, allowed: a folder"),
        ([*QUICKSTART, *video, "--stride-sec", "9"], "stride_sec: got 9.0, allowed: more than 0 and up to window_sec"),
        ([*QUICKSTART, "--input", str(tmp_path / "a.mp4"), "--output", str(tmp_path)], "is one of the videos to read"),
    ]  # fmt: skip
    for arguments, message in mistakes:
        status, out, err = call_tool("predict", *arguments)
        assert status == 2 and message in err and err.count("\n") == 1 and out == "", (arguments, err)
