"""A folder of frames and an array are read like a video: exact frames, only those wanted, and the same errors."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nlvideo.data.video.frames import FrameArray, FrameFolder
from nlvideo.data.video.video_reader import VideoReader, open_video
from nlvideo.errors import VideoDecodeError


@pytest.mark.parametrize("name", ["{:05d}.jpg", "{}.jpg", "img_{:d}.png", "ABCDE-{:06d}.JPEG", "a12_{}_b.jpg"])
@pytest.mark.parametrize("first", [0, 1, 95])
def test_every_frame_in_natural_order(tmp_path, make_frames, frame_index, name, first):
    with open_video(make_frames(tmp_path / "v", num_frames=40, name=name, first=first)) as video:
        assert isinstance(video, FrameFolder)
        assert (video.num_frames, video.height, video.width, video.rotation, video.fps) == (40, 32, 48, 0, 0.0)
        assert [frame_index(frame) for frame in video.get_frames(range(40))] == list(range(40))
        wanted = [39, 0, 13, 13, 2, 39]
        frames = video.get_frames(wanted)
    assert [frame_index(frame) for frame in frames] == wanted
    assert frames.dtype == np.uint8 and frames.shape == (6, 32, 48, 3) and frames.flags.c_contiguous


def test_gaps_close_and_other_files_are_no_frames(tmp_path, make_frames, frame_index):
    folder = Path(make_frames(tmp_path / "v", num_frames=12, name="{}.jpg"))
    for name in ("3.jpg", "10.jpg"):
        (folder / name).unlink()
    for name in (".hidden.jpg", "._5.jpg", "readme.txt", "flow.npy"):
        (folder / name).write_text("not a frame")
    with FrameFolder(folder) as video:
        assert [frame_index(frame) for frame in video.get_frames(range(10))] == [0, 1, 3, 4, 5, 6, 7, 8, 10, 11]
        video.check()


def test_equal_numbers_have_one_order(tmp_path, make_frames):
    make_frames(tmp_path, num_frames=2, name="{:02d}.jpg")
    make_frames(tmp_path, num_frames=2, name="{}.jpg")
    assert FrameFolder(tmp_path)._names == ["01.jpg", "1.jpg", "02.jpg", "2.jpg"]


def test_only_wanted_images_are_opened_once(tmp_path, make_frames, monkeypatch):
    folder, opened, original = make_frames(tmp_path / "v", name="{}.jpg", first=0), [], Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(Path(path).name) or original(path))
    with FrameFolder(folder) as video:
        video.get_frames([7, 3, 7, 3])
    assert opened == ["3.jpg", "7.jpg"]


def test_grey_and_palette_images_become_rgb(tmp_path):
    grey = Image.fromarray(np.full((4, 6), 77, np.uint8))
    for number, mode in enumerate(("L", "P", "RGBA")):
        grey.convert(mode).save(tmp_path / f"{number}.png")
    with FrameFolder(tmp_path) as video:
        frames = video.get_frames([0, 1, 2])
    assert frames.shape == (3, 4, 6, 3) and (frames == 77).all()


def test_seconds_become_indices_as_in_a_video(tmp_path, make_frames, make_video):
    folder, file = make_frames(tmp_path / "v", num_frames=20), make_video(tmp_path / "a.mp4", num_frames=20, fps=10)
    with FrameFolder(folder, fps=10) as frames, VideoReader(file) as video:
        assert frames.fps == 10.0
        seconds = [-1, 0, 0.1, 0.15, 0.3, 0.7, 1.0, 1.9, 1.95, 100]
        assert [frames.index_at(s) for s in seconds] == [video.index_at(s) for s in seconds]
        np.testing.assert_allclose(frames.frame_seconds, video.frame_seconds)
        assert frames.duration_sec == pytest.approx(video.duration_sec) == 2.0
        in_memory = FrameArray(frames.get_frames(range(20)), fps=10)
        assert [in_memory.index_at(s) for s in seconds] == [video.index_at(s) for s in seconds]
        assert in_memory.duration_sec == 2.0
    unknown = FrameFolder(folder)
    for ask in (lambda: unknown.index_at(1.0), lambda: unknown.duration_sec, lambda: unknown.frame_seconds):
        with pytest.raises(
            VideoDecodeError, match="the frame rate is not known, because images do not hold it; give 'fps'"
        ):
            ask()


def test_unusable_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("hello")
    (tmp_path / "file").write_text("hello")
    cases = {"missing": "no such file", "empty": "no frames in the folder", "texts": "no frames", "file": "Not a dir"}
    for name, reason in cases.items():
        with pytest.raises(VideoDecodeError, match=reason) as caught:
            FrameFolder(tmp_path / name)
        error = pickle.loads(pickle.dumps(caught.value))
        assert error.path == str(tmp_path / name) and "\n" not in str(error)
    with pytest.raises(VideoDecodeError, match="no such file"):
        open_video(tmp_path / "missing")


@pytest.mark.parametrize(
    "name, damage, reason",
    [
        ("{}.jpg", lambda data: b"", "3.jpg: cannot identify image file"),
        ("{}.jpg", lambda data: b"not an image" * 20, "3.jpg: cannot identify image file"),
        ("{}.jpg", lambda data: data[: len(data) // 2], "3.jpg: (?i:.*truncated)"),
        ("{}.png", lambda data: data[: len(data) // 2], "3.png: "),
        ("{}.png", lambda data: data[:50] + bytes(len(data) - 50), "3.png: "),
    ],
)
def test_a_damaged_image_is_named(tmp_path, make_frames, name, damage, reason):
    folder = Path(make_frames(tmp_path / "v", name=name, height=64, width=96))
    path = folder / name.format(3)
    path.write_bytes(damage(path.read_bytes()))
    with FrameFolder(folder) as video:
        video.get_frames([0, 1, 3])
        for use in (lambda: video.get_frames([1, 2]), video.check):
            with pytest.raises(VideoDecodeError, match=reason) as caught:
                use()
            assert caught.value.path == str(folder) and "\n" not in str(caught.value)
            assert str(caught.value).count(str(folder)) == 1


def test_frames_of_different_sizes(tmp_path, make_frames):
    folder = make_frames(tmp_path / "v", num_frames=4)
    make_frames(folder, num_frames=1, height=16, first=3)
    with FrameFolder(folder) as video:
        with pytest.raises(VideoDecodeError, match=r"changes from 32x48 to 16x48 in 00003.jpg"):
            video.get_frames([0, 2])
        with pytest.raises(VideoDecodeError, match="changes from 32x48 to 16x48 in 00003.jpg"):
            video.check()


def test_a_file_is_opened_as_a_video(tmp_path, make_video):
    with open_video(make_video(tmp_path / "a.mp4", fps=10), fps=3) as video:
        assert isinstance(video, VideoReader) and video.fps == pytest.approx(10)


def test_sixteen_bits_keep_their_scale(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)
    for number in (1, 2):
        Image.fromarray(np.tile(ramp // number, (4, 1))).save(tmp_path / f"{number}.png")
    assert Image.open(tmp_path / "1.png").mode.startswith("I")
    with FrameFolder(tmp_path) as video:
        frames = video.get_frames([0, 1])
    assert frames[0, 0, [0, 16, 32, 63]].tolist() == [[0] * 3, [65] * 3, [130] * 3, [255] * 3]
    assert (frames[1, ..., 0] == ramp // 2 >> 8).all()


@pytest.mark.parametrize(
    "orientation, corners",
    [(1, "RGBK"), (2, "GRKB"), (3, "KBGR"), (4, "BKRG"), (5, "RBGK"), (6, "BRKG"), (7, "KGBR"), (8, "GKRB")],
)
def test_photos_are_turned_upright(tmp_path, orientation, corners):
    """The corners, as EXIF 2.32 defines the orientations: top left, top right, bottom left, bottom right."""
    colours = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255), "K": (0, 0, 0)}
    stored = (
        np.array([[colours["R"], colours["G"]], [colours["B"], colours["K"]]], np.uint8).repeat(16, 0).repeat(24, 1)
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "1.jpg", exif=exif, quality=95)
    with FrameFolder(tmp_path) as video:
        frame = video.get_frames([0])[0]
        assert frame.shape[:2] == (video.height, video.width) == ((32, 48) if orientation < 5 else (48, 32))
        video.check()
    found = [min(colours, key=lambda name: np.abs(frame[y, x].astype(int) - colours[name]).sum())
             for y, x in ((4, 4), (4, -4), (-4, 4), (-4, -4))]  # fmt: skip
    assert "".join(found) == corners


def test_frames_of_an_array_are_copies():
    frames = np.arange(5, dtype=np.uint8).repeat(4 * 6 * 3).reshape(5, 4, 6, 3)
    with open_video(frames) as video:
        assert isinstance(video, FrameArray) and (video.path, video.fps) == ("<frames>", 0.0)
        given = video.get_frames([4, 0, 4])
    assert given[:, 0, 0, 0].tolist() == [4, 0, 4]
    given[:] = 99
    assert frames.max() == 4


def test_seconds_of_an_array_need_a_rate():
    frames = np.zeros((5, 4, 6, 3), np.uint8)
    video = open_video(frames, fps=10)
    assert [video.index_at(t) for t in (-1, 0, 0.1, 0.11, 0.3000000001, 9)] == [0, 0, 1, 2, 3, 5]
    with pytest.raises(VideoDecodeError, match="because arrays do not hold it; give 'fps'"):
        FrameArray(frames).index_at(0.5)


@pytest.mark.parametrize(
    "shape, dtype", [((5, 4, 6, 3), "f4"), ((5, 3, 4, 6), "u1"), ((4, 6, 3), "u1"), ((0, 4, 6, 3), "u1")]
)
def test_an_array_that_is_no_video_is_refused(shape, dtype):
    with pytest.raises(ValueError, match=r"frames: got .*, allowed: uint8 \(T, H, W, 3\), RGB"):
        FrameArray(np.zeros(shape, dtype))
