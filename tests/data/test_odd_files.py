"""Small files as cameras, recorders and old encoders write them: all ways of reading give the frames of a plain decode.

The files lie in ``videos/``:

- H.264 4:4:4 of an old x264, whose decoder has to know the release (old444n, old_rgb);
- a palette that only the first packet carries (pal8);
- field pictures, two packets to a frame (paff);
- pairs of equal timestamps and a gap (dupgap);
- a rate in the header that is not that of the timestamps (norate2, h264_copy);
- beginnings in the middle of a group of pictures (midgop, m2_cut, hevc_cut);
- a first key-frame that is missing in the table (nokey0);
- empty packets (a_static, mjzero).
"""

import logging
from pathlib import Path

import numpy as np
import pytest

from nlvideo.data import FrameStream, IndexCache, VideoDecodeError, VideoReader
from nlvideo.data.video import frame_decoder
from nlvideo.data.video.frame_stream import slide
from nlvideo.dataset_tools.indexing import index_videos
from nlvideo.dataset_tools.transcode import TranscodeOptions, transcode_video
from nlvideo.tools.lib.survey import survey_video

FOLDER = Path(__file__).parent / "videos"
# Frames, frames per second and seconds from the first frame to the last, as ffmpeg has them.
FILES = {
    "old444n.mp4": (25, 25, 0.96),
    "old_rgb.mp4": (30, 25, 1.16),
    "pal8.avi": (5, 25, 0.16),
    "pal8.mov": (5, 25, 0.16),
    "paff.ts": (10, 25, 0.36),
    "dupgap.webm": (20, 19 / 5.7, 5.7),
    "norate2.mkv": (30, 30000 / 1001, 0.968),
    "h264_copy.avi": (100, 25, 3.96),
    "midgop.mkv": (75, 25, 2.96),
    "m2_cut.mpg": (52, 25, 2.04),
    "hevc_cut.ts": (75, 25, 2.96),
    "nokey0.mp4": (50, 25, 1.96),
    "a_static.ogv": (5, 4 / 1.92, 1.92),
    "mjzero.mov": (17, 16 / 0.76, 0.76),
}


@pytest.fixture(scope="module")
def expected(plain_decode):
    """Name of a file -> its frames."""
    return {name: plain_decode(FOLDER / name) for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_every_frame_alone_and_together(expected, tmp_path, name):
    num_frames, fps, last_sec = FILES[name]
    frames = np.stack(expected[name])
    assert len(frames) == num_frames
    for _ in range(2):  # without and with its index
        with VideoReader(FOLDER / name, index_dir=tmp_path) as video:
            assert (video.num_frames, *frames[0].shape) == (num_frames, video.height, video.width, 3)
            assert video.fps == pytest.approx(fps) and video.frame_seconds[-1] == pytest.approx(last_sec)
            order = np.random.default_rng(0).permutation(num_frames).tolist()
            for index in (*range(num_frames), *range(num_frames - 1, -1, -1), *order):
                assert (video.get_frames([index])[0] == frames[index]).all(), index
            some = sorted(order[:4])
            assert (video.get_frames(some) == frames[some]).all() and (
                video.get_frames(range(num_frames)) == frames
            ).all()
            with pytest.raises(IndexError, match=f"has frames 0 to {num_frames - 1}"):
                video.get_frames([num_frames])
            video.check()


@pytest.mark.parametrize("name", FILES)
def test_stream_and_windows_agree(expected, name):
    with VideoReader(FOLDER / name) as video, FrameStream(FOLDER / name) as stream:
        assert stream.fps == video.fps
        found = list(stream)
        assert [float(frame.seconds) for frame in found] == pytest.approx(video.frame_seconds.tolist())
        assert all((frame.to_rgb() == image).all() for frame, image in zip(found, expected[name], strict=True))
        for index in range(video.num_frames):
            at = video.index_at(float(found[index].seconds))
            assert at == index or found[at].seconds == found[index].seconds
    with FrameStream(FOLDER / name) as stream:
        windows = list(slide(stream, 8 / stream.fps, 8 / stream.fps))
    assert sum(len(window.own) for window in windows) == len(found)
    for window in windows:
        seconds = [float(frame.seconds) - window.start_sec for frame in window.frames]
        assert [window.index_at(second) for second in seconds] == [np.searchsorted(seconds, s) for s in seconds]


@pytest.mark.parametrize("name", FILES)
def test_transcoding_keeps_frames_and_times(tmp_path, name):
    out = tmp_path / "out.mp4"
    assert transcode_video((str(FOLDER / name), str(out), TranscodeOptions(preset="ultrafast"), False)).error is None
    with VideoReader(FOLDER / name) as before, VideoReader(out) as after:
        assert after.num_frames == before.num_frames
        # Frames of one time are a tick apart in an MP4.
        np.testing.assert_allclose(after.frame_seconds, before.frame_seconds, atol=2e-3)


def test_survey_and_index_find_all_of_them_sound(tmp_path):
    for name, (num_frames, fps, _) in FILES.items():
        facts = survey_video([{"file_name": str(FOLDER / name)}])
        assert (facts.error, facts.num_frames) == (None, num_frames) and facts.fps == pytest.approx(fps)
    paths = [str(FOLDER / name) for name in FILES]
    result = index_videos(paths, tmp_path)
    assert (result.num_indexed, result.failed) == (len(FILES), [])
    assert [IndexCache(tmp_path).load(path).num_frames for path in paths] == [values[0] for values in FILES.values()]
    assert index_videos(paths, tmp_path).num_known == len(FILES)


def test_frames_of_one_time():
    with VideoReader(FOLDER / "dupgap.webm") as video:
        assert video.index_at(5.0) == 11 and video.index_at(0.9) == 9 and video.index_at(5.75) == 20
        assert video.duration_sec == pytest.approx(5.8)


def test_windows_are_cut_by_the_times_and_not_by_the_header():
    with FrameStream(FOLDER / "norate2.mkv") as stream:
        counts = [len(window.own) for window in slide(stream, 8 / stream.fps, 8 / stream.fps)]
    assert counts == [8, 8, 8, 6]


@pytest.fixture
def deaf(monkeypatch):
    """A decoder that needs what the first packet says, and is not shown it: as any file of an unknown kind may be."""
    monkeypatch.setattr(frame_decoder.FrameDecoder, "_prepare", lambda self: setattr(self, "_is_prepared", True))


def test_an_unknown_kind_is_read_from_its_start_and_that_is_said_once(deaf, expected, tmp_path, caplog):
    path, frames = FOLDER / "old444n.mp4", expected["old444n.mp4"]
    with caplog.at_level(logging.WARNING, "nlvideo"):
        for _ in range(2):
            with VideoReader(path) as video:
                assert video._index.counted and video.num_frames == len(frames)
                assert all((video.get_frames([k])[0] == frames[k]).all() for k in (24, 9, 8, 0, 17))
    (message,) = [record.message for record in caplog.records]
    assert message.startswith(f"{path}: random access gives other frames than decoding in order")
    assert "mov h264 High 4:4:4 Predictive yuv444p progressive" in message and "right and slow" in message
    assert index_videos([str(path)], tmp_path).num_slow == 1


def test_a_proven_kind_that_fails_all_the_same_is_found(deaf, monkeypatch, expected, tmp_path):
    path, frames = str(FOLDER / "old444n.mp4"), expected["old444n.mp4"]
    with VideoReader(path) as video:
        kind = video._decoder.kind
    monkeypatch.setattr(frame_decoder, "PROVEN", frozenset([kind]))
    with VideoReader(path) as video:
        assert not (video.get_frames([12])[0] == frames[12]).all()
        with pytest.raises(VideoDecodeError, match="random access gives other frames .*tools/index_dataset.py"):
            video.check()
    assert "random access" in survey_video([{"file_name": path}]).error
    with VideoReader(path, index_dir=tmp_path) as video:  # an index that nothing was compared with
        assert not video._index.checked
    assert index_videos([path], tmp_path).num_indexed == 1
    with VideoReader(path, index_dir=tmp_path) as video:
        assert (video.get_frames([12])[0] == frames[12]).all()


def test_what_cannot_be_decoded_is_one_error_that_stays(make_noise, tmp_path):
    """A frame is lost in the middle of a proven kind: the others keep their numbers, also afterwards."""
    path = Path(make_noise(tmp_path / "a.mp4", "libx264", 40, g="8", bf="0"))
    with VideoReader(path) as video:
        expected, sizes = video.get_frames(range(40)), video._index.sizes
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4 + int(sizes[:19].sum())
    data[start : start + sizes[19]] = bytes(int(sizes[19]))
    path.write_bytes(data)
    with VideoReader(path) as video:
        for _ in range(2):
            assert (video.get_frames([39, 3]) == expected[[39, 3]]).all() and video.num_frames == 40
            with pytest.raises(VideoDecodeError):
                video.get_frames([19])
        with pytest.raises(VideoDecodeError):
            video.check()
