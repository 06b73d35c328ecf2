"""Videos with their labels below the picture."""

import resource
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from nlvideo.data import FrameStream, VideoDecodeError, VideoReader, slide
from nlvideo.visualization.video_file import LabelledVideo, draw_labels

BEST = [("left", 0.75), ("counter_clockwise", 0.2), ("blink", 0.05), ("never shown", 0.0)]


def pixels(height: int = 300, width: int = 400, level: int = 200) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def read(path: Path) -> tuple[np.ndarray, list[float]]:
    with FrameStream(path) as stream:
        frames = list(stream)
        return np.stack([frame.to_rgb() for frame in frames]), [float(frame.seconds) for frame in frames]


def test_the_picture_is_whole_and_the_labels_are_below(tmp_path: Path) -> None:
    with LabelledVideo(tmp_path / "out.mp4", 10) as video:
        for k in range(3):
            video.write(pixels(level=60 + 60 * k), k / 10, BEST)
    frames, times = read(tmp_path / "out.mp4")
    assert frames.shape == (3, 300 + 3 * 21 // 2 * 2, 400, 3) and times == [0.0, 0.1, 0.2]
    for k, frame in enumerate(frames):
        assert np.abs(frame[:296].astype(int) - (60 + 60 * k)).max() <= 6
        strip = frame[300:].astype(int)
        assert strip.max() > 180 and np.median(strip) < 60
        # The bar of the best class is as long as its score.
        blue = strip[10, :, 2] - strip[10, :, 0] > 80
        assert blue[220:290].mean() > 0.9 and not blue[305:].any()


def test_times_of_frames_are_kept(tmp_path: Path) -> None:
    uneven = [0.0, 0.04, 0.3, 0.35, 2.0]
    with LabelledVideo(tmp_path / "out.mp4", 10) as video:
        for seconds in [*uneven, 2.0]:
            video.write(pixels(), seconds, BEST)
    _, times = read(tmp_path / "out.mp4")
    assert times[:5] == pytest.approx(uneven, abs=1e-3) and times[5] > times[4]


@pytest.mark.parametrize(
    "height, width, expected", [(64, 64, (256, 256)), (35, 21, (420, 252)), (301, 333, (300, 332))]
)
def test_small_frames_grow_and_odd_ones_fit(tmp_path: Path, height: int, width: int, expected: tuple) -> None:
    with LabelledVideo(tmp_path / "out.mp4") as video:
        video.write(pixels(height, width), 0.0, BEST)
        video.write(pixels(height // 2, width), 0.1, BEST)
    frames, _ = read(tmp_path / "out.mp4")
    assert frames.shape[0] == 2 and frames.shape[2] == expected[1] and frames.shape[1] > expected[0]
    assert np.abs(frames[:, : expected[0] - 4].astype(int) - 200).max() <= 6


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_text("from before")
    with pytest.raises(KeyboardInterrupt), LabelledVideo(tmp_path / "out.mp4") as video:
        video.write(pixels(), 0.0, BEST)
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"] and (
        tmp_path / "out.mp4"
    ).read_text() == "from before"
    with pytest.raises(ValueError, match="out.mp4: no frame was written"), LabelledVideo(tmp_path / "out.mp4"):
        pass
    assert (tmp_path / "out.mp4").read_text() == "from before"


@pytest.mark.parametrize("end", [KeyboardInterrupt, VideoDecodeError("0", "the camera is gone")])
def test_a_live_video_ends_where_somebody_stops_it(tmp_path: Path, end: BaseException) -> None:
    with (
        pytest.raises((KeyboardInterrupt, VideoDecodeError)),
        LabelledVideo(tmp_path / "out.mp4", keep_interrupted=True) as video,
    ):
        video.write(pixels(), 0.0, BEST)
        raise end
    assert len(read(tmp_path / "out.mp4")[0]) == 1
    with pytest.raises(KeyboardInterrupt), LabelledVideo(tmp_path / "none.mp4", keep_interrupted=True):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_windows_write_each_frame_once(tmp_path: Path, make_video, frame_index) -> None:
    path = make_video(tmp_path / "in.mp4", num_frames=17, height=64, width=80, fps=10)
    with FrameStream(path) as stream, LabelledVideo(tmp_path / "out.mp4", stream.fps) as video:
        for window in slide(stream, 0.5, 0.3):
            video.write_window(window, BEST)
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert [frame_index(frame[:240]) for frame in reader.get_frames(range(reader.num_frames))] == list(range(17))


def test_long_names_are_shortened_and_numbers_stay() -> None:
    def strip(name: str, score: float = 0.5) -> np.ndarray:
        image = draw_labels([(name, score)], 200, 20, 20)
        assert isinstance(image, Image.Image) and image.size == (200, 20)
        return np.asarray(image)

    long = strip("a very long name of a class that cannot fit into the strip")
    assert np.array_equal(long[:, 165:], strip("short")[:, 165:]) and not np.array_equal(long, strip("short"))
    assert not np.array_equal(strip("short", 0.5)[:, 165:], strip("short", 0.6)[:, 165:])
    assert np.array_equal(strip("two\nlines"), strip("two lines"))


@pytest.mark.parametrize(
    "height, width, expected",
    [(64, 6000, (42, 4096)), (1, 5000, (2, 4096)), (1, 1500, (2, 3000)), (5000, 30, (4096, 24)), (1, 1, (256, 256))],
)
def test_every_frame_has_a_size_that_can_be_written(tmp_path: Path, height: int, width: int, expected: tuple) -> None:
    with LabelledVideo(tmp_path / "out.mp4") as video:
        video.write(pixels(height, width), 0.0, BEST)
    frames, _ = read(tmp_path / "out.mp4")
    assert frames.shape[2] == expected[1] and frames.shape[1] > expected[0]
    assert np.abs(frames[0, : expected[0]].astype(int) - 200).mean() < 6


def test_gaps_that_mp4_does_not_hold_are_cut(tmp_path: Path) -> None:
    hours = [0, 1, 24, 24.001, 48, 72, 96, 97]
    with LabelledVideo(tmp_path / "out.mp4", 10) as video:
        for k, hour in enumerate(hours):
            video.write(pixels(64, 64, level=25 * k), 3600 * hour, BEST)
    _, times = read(tmp_path / "out.mp4")
    longest = 2**29 / 90_000
    expected = [min(3600 * (b - a), longest) for a, b in pairwise(hours)]
    assert np.diff(times) == pytest.approx(expected, abs=0.01)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nlvideo.visualization.video_file._MAX_GAP", 2**33)
    with pytest.raises(av.FFmpegError), LabelledVideo(tmp_path / "out.mp4", 10) as video:
        for day in range(3):
            video.write(pixels(), 86400.0 * day, BEST)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_names_the_video(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**12, hard))
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    try:
        with (
            pytest.raises(OSError, match=f"File too large: '{tmp_path}/out.mp4'"),
            LabelledVideo(tmp_path / "out.mp4", 10) as video,
        ):
            for k in range(60):
                video.write(np.roll(noise, 7 * k, axis=1), k / 10, BEST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_opened_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nlvideo.visualization.video_file._open_mp4", fail)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/out.mp4'"):
        LabelledVideo(tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []
