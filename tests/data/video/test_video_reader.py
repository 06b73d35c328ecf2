"""The reader returns exactly the frames asked for, and one kind of error for everything that goes wrong."""

import contextlib
import os
import pickle
import resource
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from nlvideo.data.clip_sampling import UniformClips
from nlvideo.data.video.frame_stream import FrameStream
from nlvideo.data.video.video_reader import VideoReader
from nlvideo.errors import VideoDecodeError

REAL_BAD = {
    "gen_empty.mp4": "empty",
    "gen_garbage.mp4": "Invalid data",
    "gen_truncated_moov_front_or_missing.mp4": "Invalid data",
    "torchcodec_sine_mono_s16.wav": "no video stream",
}


def read_indices(path, indices, frame_index):
    """Indices that the frames returned for ``indices`` carry."""
    with VideoReader(path) as video:
        return [frame_index(frame) for frame in video.get_frames(indices)]


@pytest.mark.parametrize(
    "name, options",
    [
        ("a.mp4", {}),
        ("one_key.mp4", {"gop": 250}),
        ("all_keys.mp4", {"gop": 1}),
        ("b_frames.mp4", {"bf": 3, "preset": "medium", "gop": 7}),
        ("b_frames.mkv", {"bf": 3, "preset": "medium", "gop": 7, "codec": "libx264"}),
        ("open_gop.mp4", {"bf": 3, "preset": "medium", "gop": 7, "x264-params": "open-gop=1"}),
        ("stream.ts", {"codec": "libx264", "gop": 7}),
        ("intra.avi", {"codec": "ffv1"}),
    ],
)
def test_every_frame_alone_and_all_together(tmp_path, make_video, frame_index, name, options):
    path = make_video(tmp_path / name, num_frames=40, **options)
    assert read_indices(path, range(40), frame_index) == list(range(40))
    with VideoReader(path) as video:
        assert (video.num_frames, video.height, video.width, video.rotation) == (40, 32, 48, 0)
        assert [frame_index(video.get_frames([k])[0]) for k in range(40)] == list(range(40))


def test_order_and_repeats_are_kept(tmp_path, make_video, frame_index):
    path = make_video(tmp_path / "a.mp4", num_frames=40)
    wanted = [39, 0, 13, 13, 2, 39]
    assert read_indices(path, wanted, frame_index) == wanted


def test_frames_are_contiguous_rgb_and_lossless(tmp_path, make_video):
    with VideoReader(make_video(tmp_path / "a.mp4", height=16, width=32)) as video:
        frames = video.get_frames([5])
    assert frames.dtype == np.uint8 and frames.shape == (1, 16, 32, 3) and frames.flags.c_contiguous
    assert (frames[..., 0] == 4 + 8 * 5).all() and (frames[..., 1] == 4).all()
    assert (np.diff(frames[0, 0, :, 2].astype(int)) > 0).all()


def test_decodes_only_from_the_key_frame(tmp_path, make_video):
    path = make_video(tmp_path / "a.mp4", num_frames=60, gop=12, codec="libx264", pix_fmt="yuv420p", crf="5")
    with VideoReader(path) as video:
        video.get_frames([26, 28])
        assert video.num_decoded == len([24, 25, 26, 27, 28])
        video.get_frames([0, 13, 50])
        assert video.num_decoded == 5 + len([0, 12, 13, 48, 49, 50])


def test_rotation_metadata_is_applied(tmp_path, make_video):
    upright, turned = make_video(tmp_path / "a.mp4", num_frames=2), str(tmp_path / "turned.mp4")
    with av.open(upright) as source, av.open(turned, "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    with VideoReader(upright) as a, VideoReader(turned) as b:
        assert b.rotation in (90, 270) and (b.height, b.width) == (48, 32)
        assert (b.get_frames([1])[0] == np.rot90(a.get_frames([1])[0], b.rotation // 90)).all()


def test_seconds_become_indices(tmp_path, make_video):
    with VideoReader(make_video(tmp_path / "a.mp4", num_frames=20, fps=10)) as video:
        assert video.fps == pytest.approx(10)
        expected = {-1: 0, 0: 0, 0.1: 1, 0.15: 2, 0.3: 3, 1.0: 10, 1.9: 19, 1.95: 20, 100: 20}
        assert {seconds: video.index_at(seconds) for seconds in expected} == expected


def test_index_outside_the_video(tmp_path, make_video):
    with VideoReader(make_video(tmp_path / "a.mp4")) as video:
        for index in (-1, 16):
            with pytest.raises(IndexError, match=f"frame {index} was asked for, the video has frames 0 to 15"):
                video.get_frames([0, index])
        with pytest.raises(ValueError, match="at least one index"):
            video.get_frames([])


def test_broken_files_raise_one_error(tmp_path, make_video):
    good = Path(make_video(tmp_path / "good.mp4", num_frames=40)).read_bytes()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a video\n" * 1000)
    (tmp_path / "head.mp4").write_bytes(good[:100])
    (tmp_path / "folder.mp4").mkdir()
    cases = {"missing.mp4": "no such file", "empty.mp4": "empty", "text.mp4": "", "head.mp4": "", "folder.mp4": ""}
    for name, reason in cases.items():
        with pytest.raises(VideoDecodeError) as caught:
            VideoReader(tmp_path / name)
        assert caught.value.path.endswith(name) and reason in caught.value.reason and "\n" not in str(caught.value)


def test_truncated_file_with_its_header_in_front(tmp_path, make_video):
    upright, fast = make_video(tmp_path / "a.mp4", num_frames=40), tmp_path / "fast.mp4"
    with av.open(upright) as source, av.open(str(fast), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    fast.write_bytes(fast.read_bytes()[: fast.stat().st_size * 7 // 10])
    with pytest.raises(VideoDecodeError, match=r"truncated: \d+ of 40 frames"):
        VideoReader(fast)


def test_damage_in_the_middle_is_an_error_or_a_frame_but_never_a_shift(tmp_path, make_video, frame_index):
    path = tmp_path / "a.mp4"
    make_video(path, num_frames=40, gop=10, codec="libx264", pix_fmt="yuv420p", crf="5")
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 40] = b"\xff" * 40
    path.write_bytes(bytes(data))
    with VideoReader(path) as video:
        assert frame_index(video.get_frames([39])[0]) == 39
        with contextlib.suppress(VideoDecodeError):
            video.check()


def test_errors_pickle():
    error = pickle.loads(pickle.dumps(VideoDecodeError("a.mp4", "no such file")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "no such file", "a.mp4: no such file")


def test_files_are_closed_also_after_errors(tmp_path, make_video):
    path = make_video(tmp_path / "a.mp4")
    (tmp_path / "text.mp4").write_text("not a video\n" * 1000)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, limits[1]))
    try:
        kept = []
        for _ in range(40):
            with VideoReader(path) as video:
                kept.append(video)
            with pytest.raises(VideoDecodeError):
                VideoReader(tmp_path / "text.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def real_files():
    """Names of the real test videos, or one placeholder without them."""
    folder = Path(os.environ.get("NLVIDEO_TEST_DATA") or "/nonexistent") / "videos"
    return sorted(p.name for p in folder.iterdir() if p.name not in REAL_BAD) if folder.is_dir() else ["none"]


@pytest.mark.parametrize("name", real_files())
def test_real_video_equals_its_full_decode(test_data, name):
    """Every frame forward, a sample in random order and in random sets, and as a stream, to the byte; and its times."""
    path = str(test_data / "videos" / name)
    scaler, expected = VideoReformatter(), []
    with av.open(path) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_type = "NONE"
        for frame in container.decode(stream):
            expected.append(digest(scaler.reformat(frame, format="rgb24", threads=1).to_ndarray()))
    rng = np.random.default_rng(0)
    num_random = 1 if len(expected) > 100 else 6
    with VideoReader(path) as video:
        assert video.num_frames == len(expected)
        turns = -video.rotation // 90
        for first in range(0, len(expected), 32):
            block = range(first, min(first + 32, len(expected)))
            assert [digest(np.rot90(frame, turns)) for frame in video.get_frames(block)] == expected[first : block.stop]
        for index in [len(expected) - 1, 0, *rng.integers(0, len(expected), num_random).tolist()]:
            (frame,) = video.get_frames([index])
            assert frame.shape == (video.height, video.width, 3) and digest(np.rot90(frame, turns)) == expected[index]
        some = np.sort(rng.choice(len(expected), len(expected) // 3, replace=False)).tolist()
        assert [digest(np.rot90(frame, turns)) for frame in video.get_frames(some)] == [expected[i] for i in some]
        with FrameStream(path) as stream:
            found = [(digest(np.rot90(frame.to_rgb(), turns)), float(frame.seconds)) for frame in stream]
        assert [image for image, _ in found] == expected
        np.testing.assert_allclose([seconds for _, seconds in found], video.frame_seconds, atol=1e-9)
        assert [video.index_at(seconds) for _, seconds in found] == list(range(len(expected)))


def digest(image):
    return zlib.crc32(np.ascontiguousarray(image))


def test_frames_decoded_for_training_clips_and_for_test_views(test_data):
    decoded, path = [], test_data / "videos/mmaction2_test.mp4"
    for start in range(0, 237, 13):
        with VideoReader(path) as video:
            video.get_frames(range(start, start + 64, 2))
            decoded.append(video.num_decoded)
    assert np.mean(decoded) <= 112
    views = UniformClips(32, 2, num_clips=10)(300)
    with VideoReader(path) as video:
        video.get_frames(sorted(set().union(*views)))
        assert video.num_decoded <= 300


@pytest.mark.parametrize("name, reason", REAL_BAD.items())
def test_real_broken_file(test_data, name, reason):
    with pytest.raises(VideoDecodeError, match=reason):
        VideoReader(test_data / "videos" / name)


def test_rotated_real_videos_show_the_same_scene(test_data):
    sizes = {}
    for degrees in (0, 180, 270):
        with VideoReader(test_data / f"videos/decord_video_{degrees}.mov") as video:
            sizes[video.rotation] = (video.height, video.width)
    assert sizes == {0: (320, 568), 180: (320, 568), 90: (568, 320)}


def test_check_sees_a_change_of_size(make_video, plain_decode, tmp_path):
    """Transport streams may be put one after the other."""
    parts = [Path(make_video(tmp_path / f"{size}.ts", 12, size, 48, codec="mpeg2video", fps=25)) for size in (32, 64)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with VideoReader(path) as video:
        last = len(plain_decode(path)) - 1
        assert video.num_frames == last + 1 and video.get_frames([0]).shape != video.get_frames([last]).shape
        for read in (lambda: video.get_frames([0, last]), video.check):
            with pytest.raises(VideoDecodeError, match="the frame size changes"):
                read()
