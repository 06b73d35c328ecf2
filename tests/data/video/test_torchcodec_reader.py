"""torchcodec gives the frames of our reader, and what it lacks is said in one line."""

import sys
from pathlib import Path

import pytest

from nlvideo.config import load_cfg
from nlvideo.data import TorchCodecReader, VideoDecodeError, VideoMapper, VideoReader, open_video
from nlvideo.data.video.video_reader import load_video_decoder


@pytest.fixture(scope="module")
def torchcodec():
    try:
        load_video_decoder()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name, options", [("a.mp4", {"bf": "2"}), ("b.mkv", {"gop": 5}), ("c.mp4", {"gop": 250})])
def test_same_frames_and_numbers(torchcodec, tmp_path, make_video, name, options):
    path = make_video(tmp_path / name, num_frames=30, codec="libx264", pix_fmt="yuv420p", crf="5", **options)
    wanted = [29, 0, 7, 7, 12]
    with VideoReader(path) as ours, open_video(path, reader="torchcodec", timeout_sec=30) as theirs:
        assert isinstance(theirs, TorchCodecReader)
        assert (theirs.get_frames(wanted) == ours.get_frames(wanted)).all()
        for what in ("num_frames", "fps", "height", "width", "rotation"):
            assert getattr(theirs, what) == getattr(ours, what), what
        assert [theirs.index_at(second) for second in (0, 0.35, 99)] == [
            ours.index_at(second) for second in (0, 0.35, 99)
        ]
        theirs.check()


@pytest.mark.parametrize("degrees", [0, 180, 270])
def test_rotated_real_videos(torchcodec, test_data, degrees):
    path = test_data / f"videos/decord_video_{degrees}.mov"
    with VideoReader(path) as ours, TorchCodecReader(path) as theirs:
        assert (theirs.get_frames([1]) == ours.get_frames([1])).all()
        assert (theirs.height, theirs.width, theirs.rotation) == (ours.height, ours.width, ours.rotation)


def test_same_errors(torchcodec, tmp_path, make_video):
    path = make_video(tmp_path / "a.mp4")
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    for bad in ("text.mp4", "missing.mp4"):
        reasons = []
        for reader in (VideoReader, TorchCodecReader):
            with pytest.raises(VideoDecodeError) as caught:
                reader(tmp_path / bad)
            reasons.append(caught.value.reason)
        assert reasons[0] == reasons[1]
    with TorchCodecReader(path) as video:
        with pytest.raises(IndexError, match="frame 16 was asked for, the video has frames 0 to 15"):
            video.get_frames([16])
        video.num_frames = 9
        with pytest.raises(
            VideoDecodeError,
            match="torchcodec counts 16 frames instead of 9: use reader .pyav. \\(DATALOADER.READER\\)",
        ):
            video.get_frames([1])


def test_missing_package_is_one_line_and_known_at_the_start(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ImportError, match=r"pip install 'nlvideo\[torchcodec\]'") as caught:
        VideoMapper(load_cfg(None, ["DATALOADER.READER", "torchcodec"]), True)
    assert "\n" not in str(caught.value)


def test_what_torchcodec_would_get_wrong_is_read_by_ours(monkeypatch, tmp_path, make_video):
    def refuse(path, **options):
        raise RuntimeError("torchcodec was asked")

    monkeypatch.setattr("nlvideo.data.video.video_reader.load_video_decoder", lambda: refuse)
    plain = make_video(tmp_path / "a.mp4", num_frames=5, codec="libx264", pix_fmt="yuv420p", crf="5")
    data = bytearray(Path(plain).read_bytes())
    place = data.index(b"tkhd") + 44  # the display matrix
    data[place : place + 4] = b"\xff\xff\x00\x00"
    (tmp_path / "mirrored.mp4").write_bytes(data)
    odd = Path(__file__).parents[1] / "videos/old444n.mp4"
    for path in (odd, tmp_path / "mirrored.mp4"):
        with TorchCodecReader(path) as theirs, VideoReader(path) as ours:
            assert (theirs.get_frames([4, 0]) == ours.get_frames([4, 0])).all()
            assert (theirs.height, theirs.mirrored) == (ours.height, path != odd)
            theirs.check()
    with TorchCodecReader(plain) as video, pytest.raises(VideoDecodeError, match="torchcodec was asked"):
        video.get_frames([0])


def test_libraries_that_do_not_load_are_one_line(monkeypatch):
    class Broken:
        def __getattr__(self, name):
            raise RuntimeError("Could not load libtorchcodec.\nLikely causes:\n ...")

    monkeypatch.setitem(sys.modules, "torchcodec.decoders", Broken())
    with pytest.raises(ImportError, match="needs FFmpeg's shared libraries .*; Could not load libtorchcodec") as caught:
        load_video_decoder()
    assert "\n" not in str(caught.value)
