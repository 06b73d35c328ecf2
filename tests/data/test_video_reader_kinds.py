"""Whatever PyAV can write: every frame by random access is, to the byte, that of a plain decode from the start."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import PacketSideData

from nlvideo.data import VideoReader

NUM_FRAMES = 30
# Name of the file: encoder and arguments of ``make_noise``.
KINDS = {
    "b_pyramid.mp4": ("libx264", {"bf": "3", "b-pyramid": "normal", "g": "11"}),
    "open_gop.mkv": ("libx264", {"bf": "3", "x264-params": "open-gop=1:keyint=10:min-keyint=1:b-adapt=0:scenecut=0"}),
    "intra_refresh.mkv": ("libx264", {"x264-params": "intra-refresh=1:keyint=8", "bf": "0"}),
    "interlaced.ts": ("libx264", {"x264-params": "interlaced=1:keyint=8", "bf": "2"}),
    "variable_rate.mkv": ("libx264", {"bf": "2", "g": "8", "times": (4, 9, 1, 30)}),
    "variable_rate.mp4": ("libx264", {"bf": "2", "g": "8", "times": (4, 9, 1, 30)}),
    "starts_late.mp4": ("libx264", {"bf": "2", "g": "8", "first": 700}),
    "starts_early.ts": ("libx264", {"bf": "2", "g": "8", "first": -50}),
    "first_stamp_missing.mkv": ("libx264", {"bf": "0", "g": "8", "first": -50}),
    "raw.h264": ("libx264", {"bf": "2", "g": "8"}),
    "raw.hevc": ("libx265", {"g": "8", "x265-params": "log-level=none:keyint=8"}),
    "hevc_open_gop.mp4": ("libx265", {"x265-params": "log-level=none:keyint=8:open-gop=1"}),
    "temporal_layers.mp4": ("libx265", {"x265-params": "log-level=none:keyint=16:temporal-layers=1"}),
    "transport.ts": ("libx264", {"bf": "3", "g": "8"}),
    "mpeg2.ts": ("mpeg2video", {"bf": "2", "g": "8"}),
    "mpeg2.mpg": ("mpeg2video", {"bf": "2", "g": "8"}),
    "vp8.webm": ("libvpx", {"g": "15"}),
    "vp9.webm": ("libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "12", "g": "15", "cpu-used": "8"}),
    "av1.mkv": ("libsvtav1", {"preset": "12", "g": "10", "svtav1-params": "lp=1"}),
    "reordered.avi": ("mpeg4", {"bf": "2", "g": "8"}),
    "h264.avi": ("libx264", {"bf": "2", "g": "8"}),
    "plain.avi": ("mpeg4", {"bf": "0", "g": "8"}),
    "mpeg4.mp4": ("mpeg4", {"bf": "2", "g": "8"}),
    "motion.avi": ("mjpeg", {"pix_fmt": "yuvj420p"}),
    "animation.gif": ("gif", {"pix_fmt": "rgb8", "times": (10, 3, 20)}),
    "ten_bits.mp4": ("libx264", {"pix_fmt": "yuv420p10le", "g": "8"}),
    "full_range.mp4": ("libx264", {"pix_fmt": "yuvj420p", "g": "8"}),
    "every_chroma.mp4": ("libx264", {"pix_fmt": "yuv444p", "g": "8"}),
    "odd_size.mp4": ("libx264", {"pix_fmt": "yuv444p", "size": (35, 51), "g": "8"}),
    "odd_size_420.webm": ("libvpx", {"size": (35, 51), "g": "8"}),
    "odd_size_420.mp4": ("mpeg4", {"size": (35, 51), "g": "8", "bf": "2"}),
    "odd_size.avi": ("ffv1", {"pix_fmt": "bgr0", "size": (35, 51)}),
    "fragments.mp4": ("libx264", {"bf": "2", "g": "8", "muxer": {"movflags": "frag_keyframe+empty_moov"}}),
}


@pytest.fixture(scope="module")
def write(tmp_path_factory, make_noise):
    """``write(name, num_frames=30) -> path``: moving noise as one of the kinds; skips if there is no encoder."""
    folder = tmp_path_factory.mktemp("kinds")

    def make(name, num_frames=NUM_FRAMES):
        codec, options = KINDS[name]
        return make_noise(folder / name, codec, num_frames, **options)

    return make


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_equals_that_of_a_plain_decode(write, plain_decode, tmp_path, name):
    path = write(name)
    expected = plain_decode(path)
    assert len(expected) >= NUM_FRAMES - 1
    for _ in range(2):  # without and with its index
        assert_equal(path, expected, index_dir=tmp_path)


def assert_equal(path, expected, **options):
    """Every frame by random access, in several orders, is the expected one."""
    rng = np.random.default_rng(0)
    forward = list(range(len(expected)))
    with VideoReader(path, **options) as video:
        assert video.num_frames == len(expected)
        # The last ones first: a decoder that has seen the beginning may know more.
        for order in (forward[::-1], forward, rng.permutation(forward).tolist()):
            assert all((video.get_frames([i])[0] == expected[i]).all() for i in order)
        for _ in range(4):
            some = np.sort(rng.choice(forward, 9, replace=False)).tolist()
            assert (video.get_frames(some) == np.stack([expected[i] for i in some])).all()
            video.get_frames([int(rng.integers(len(expected)))])  # go on from anywhere


@pytest.mark.parametrize("name", ["b_pyramid.mp4", "mpeg2.ts", "mpeg4.mp4"])
def test_frames_that_nothing_needs_are_not_decoded(write, name):
    path = write(name)
    with VideoReader(path) as every, VideoReader(path) as last:
        every.get_frames(range(8))
        last.get_frames([7])
        assert last.num_decoded < every.num_decoded


@pytest.mark.parametrize("name", ["one.mp4", "one.mkv", "one.gif", "one.ts"])
def test_a_single_frame(write, plain_decode, name, monkeypatch):
    monkeypatch.setitem(KINDS, name, KINDS["animation.gif" if name.endswith("gif") else "transport.ts"])
    path = write(name, num_frames=1)
    with VideoReader(path) as video:
        assert video.frame_seconds.tolist() == [0] and 0 <= video.duration_sec < 1
        assert video.num_frames == 1 and (video.get_frames([0, 0])[1] == plain_decode(path)[0]).all()
        assert (video.index_at(0), video.index_at(60)) == (0, 1)


@pytest.mark.parametrize("name", ["open_gop.mkv", "hevc_open_gop.mp4"])
def test_open_gops_are_open(write, name):
    """After a key-frame in the file come frames that are shown before it."""
    with av.open(str(write(name))) as container:
        packets = [(packet.pts, packet.is_keyframe) for packet in container.demux(video=0) if packet.size]
    keys = [place for place, (_, is_key) in enumerate(packets) if is_key and place]
    assert any(pts < packets[key][0] for key in keys for pts, _ in packets[key + 1 : key + 4])


def test_frames_of_vp8_that_are_not_shown(write, plain_decode, tmp_path):
    """Encoders write such frames for others to refer to; here the bit that says so is set in three packets."""
    path, hidden = str(tmp_path / "hidden.webm"), (4, 11, 12)
    with av.open(write("vp8.webm")) as reader, av.open(path, "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for place, packet in enumerate(packet for packet in reader.demux(video=0) if packet.size):
            data = bytearray(packet)
            data[0] &= ~0x10 if place in hidden else 0xFF
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.time_base, copy.stream = packet.pts, packet.dts, packet.time_base, stream
            copy.is_keyframe = packet.is_keyframe
            writer.mux(copy)
    expected = plain_decode(path)
    assert len(expected) == NUM_FRAMES - len(hidden)
    with VideoReader(path) as video:
        assert video.num_frames == len(expected)
        for order in (range(len(expected)), reversed(range(len(expected)))):
            assert all((video.get_frames([i])[0] == expected[i]).all() for i in order)


def test_times_of_a_variable_rate(write):
    with VideoReader(write("variable_rate.mkv")) as video:
        starts = np.cumsum([0] + [4, 9, 1, 30] * 8)[:NUM_FRAMES] / 100
        assert [video.index_at(second) for second in starts] == list(range(NUM_FRAMES))
        np.testing.assert_allclose(video.frame_seconds, starts, atol=1e-3)
        assert video.fps == pytest.approx((NUM_FRAMES - 1) / starts[-1], rel=1e-3)
        assert video.duration_sec == pytest.approx(starts[-1] + np.median(np.diff(starts)), abs=2e-3)


@pytest.mark.parametrize("name, first_sec", [("starts_late.mp4", 7), ("starts_early.ts", -0.5)])
def test_times_count_from_the_first_frame(write, name, first_sec):
    path = write(name)
    with av.open(path) as container:
        assert float(next(container.decode(video=0)).time) == pytest.approx(first_sec)
    with VideoReader(path) as video:
        assert [video.index_at(second) for second in (0, 0.04, 0.4)] == [0, 1, 10]


def test_edit_list_hides_the_frames_before_the_cut(write, plain_decode, tmp_path):
    source, cut = write("b_pyramid.mp4"), str(tmp_path / "cut.mp4")

    with av.open(source) as reader, av.open(cut, "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(video=0):
            if packet.dts is not None:
                # Negative times: the muxer writes an edit list that starts at 0.
                packet.pts -= round(Fraction(20, 100) / packet.time_base)
                packet.dts -= round(Fraction(20, 100) / packet.time_base)
                packet.stream = stream
                writer.mux(packet)
    expected = plain_decode(cut)
    assert len(expected) < NUM_FRAMES
    with VideoReader(cut) as video:
        assert video.num_frames == len(expected)
        assert all((video.get_frames([i])[0] == expected[i]).all() for i in reversed(range(len(expected))))
        assert video.index_at(0) == 0


def test_best_of_several_streams_and_longer_audio(write, plain_decode, tmp_path):
    path = str(tmp_path / "several.mp4")
    with av.open(write("b_pyramid.mp4")) as reader, av.open(path, "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        small, sound = writer.add_stream("mpeg4", rate=25), writer.add_stream("aac", rate=16000)
        small.width = small.height = 16
        small.pix_fmt = "yuv420p"
        writer.mux(small.encode(av.VideoFrame(16, 16, "yuv420p")))
        writer.mux(small.encode(None))
        for packet in reader.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                writer.mux(packet)
        for _ in range(100):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            samples.sample_rate = 16000
            writer.mux(sound.encode(samples))
        writer.mux(sound.encode(None))
    expected = plain_decode(path)
    with VideoReader(path) as video:
        assert video.num_frames == len(expected) and (video.height, video.width) == expected[0].shape[:2]
        assert (video.get_frames([17])[0] == expected[17]).all()
        assert video.index_at(6) == video.num_frames


def test_no_seeking_where_a_seek_misses(write, plain_decode, monkeypatch):
    path = write("transport.ts")
    expected = plain_decode(path)
    with VideoReader(path) as video:
        real = av.container.InputContainer

        class Late:
            """Lands after the wanted key-frame, as transport streams may."""

            def __init__(self, container):
                self.container = container

            def __getattr__(self, name):
                return getattr(self.container, name)

            def seek(self, offset, **options):
                self.container.seek(2**40, backward=True, stream=options["stream"])

        assert isinstance(video._decoder._container, real)
        video._decoder._container = Late(video._decoder._container)
        assert (video.get_frames([12, 20])[0] == expected[12]).all()


@pytest.mark.parametrize("name", ["mpeg4.mp4", "b_pyramid.mp4", "hevc_open_gop.mp4"])
def test_a_table_that_calls_every_frame_a_key_frame(write, plain_decode, tmp_path, name):
    """Where an MP4 has no such table, every sample is one; some decoders then give anything, without an error."""
    data = Path(write(name)).read_bytes()
    assert data.count(b"stss") == 1
    (tmp_path / name).write_bytes(data.replace(b"stss", b"free"))
    assert_equal(tmp_path / name, plain_decode(tmp_path / name))


@pytest.mark.parametrize("name", ["joined.mp4", "joined.flv"])
def test_parameters_of_the_decoder_that_change_within_the_file(make_noise, plain_decode, tmp_path, name):
    """Two recordings in one file: the second, decoded with the parameters of the first, is wrong without an error."""
    parts = [make_noise(tmp_path / f"{qp}.mp4", "libx264", 16, bf="0", g="8", qp=qp) for qp in ("20", "30")]
    with av.open(parts[0]) as one, av.open(parts[1]) as other, av.open(str(tmp_path / name), "w") as writer:
        stream = writer.add_stream_from_template(one.streams.video[0])
        change = PacketSideData(1, other.streams.video[0].codec_context.extradata_size)  # AV_PKT_DATA_NEW_EXTRADATA
        change.update(other.streams.video[0].codec_context.extradata)
        packets = [packet for part in (one, other) for packet in part.demux(video=0) if packet.size]
        packets[16].set_sidedata(change)
        step = packets[1].dts
        for position, packet in enumerate(packets):
            packet.pts = packet.dts = position * step
            packet.stream = stream
            writer.mux(packet)
    assert_equal(tmp_path / name, plain_decode(tmp_path / name))


@pytest.mark.parametrize("name", ["transport.ts", "mpeg2.mpg"])
def test_recordings_put_one_after_the_other(write, plain_decode, tmp_path, name):
    """Their timestamps start again: sorted, they would mix the frames."""
    path = tmp_path / name
    path.write_bytes(2 * Path(write(name)).read_bytes())
    expected = plain_decode(path)
    assert_equal(path, expected)
    with VideoReader(path) as video:
        steps = np.diff(video.frame_seconds)
        assert len(expected) == 2 * NUM_FRAMES and np.delete(steps, NUM_FRAMES - 1) == pytest.approx(0.04)
        assert 0 < steps[NUM_FRAMES - 1] < 0.1
