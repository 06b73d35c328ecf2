"""Each kind of file that is trusted is written here, and every frame by random access compared with a plain decode."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from nlvideo.data import VideoReader
from nlvideo.data.video.exact.proven_kinds import PROVEN, kind_of

# FFmpeg's first name of a container: the extension of its files.
EXTENSIONS = {"mov": "mp4", "matroska": "mkv", "mpegts": "ts", "mpeg": "mpg"}
# Codec: encoder, options.
ENCODERS = {
    "h264": ("libx264", {"bf": "3", "g": "8", "x264-params": "open-gop=1:b-pyramid=normal"}),
    "hevc": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none:keyint=8:open-gop=1"}),
    "vp8": ("libvpx", {"g": "15"}),
    "vp9": ("libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "12", "g": "15", "cpu-used": "8"}),
    "libdav1d": ("libsvtav1", {"preset": "12", "g": "10", "svtav1-params": "lp=1"}),
    "mpeg4": ("mpeg4", {"g": "8"}),
    "mpeg1video": ("mpeg1video", {"g": "8", "bf": "2"}),
    "mpeg2video": ("mpeg2video", {"g": "8", "bf": "2"}),
    "prores": ("prores_ks", {}),
    "gif": ("gif", {"pix_fmt": "rgb8"}),
}
# Profile: options.
PROFILES = {
    "Constrained Baseline": {"profile": "baseline", "bf": "0", "x264-params": "b-pyramid=none"},
    "Baseline": {"profile": "baseline", "bf": "0", "x264-params": "b-pyramid=none"},
    "Main": {"profile": "main"},
    "High": {"profile": "high"},
    "Simple Profile": {"bf": "0"},
    "Advanced Simple Profile": {"bf": "2"},
    **{name: {"profile": str(number)} for number, name in enumerate(("Proxy", "LT", "Standard", "HQ"))},
}


@pytest.mark.parametrize("kind", sorted(PROVEN), ids=str)
def test_every_frame_of_a_proven_kind(tmp_path, make_noise, plain_decode, kind):
    encoder, options = ENCODERS.get(kind.codec, (kind.codec, {}))
    if kind.codec in ("h264", "prores", "mpeg4"):
        options = options | PROFILES.get(kind.profile, {})
    extension = "mov" if kind.codec == "prores" else EXTENSIONS.get(kind.container, kind.container)
    path = Path(tmp_path / f"a.{extension}")
    make_noise(path, encoder, **{"pix_fmt": kind.pixels, "fields": kind.fields == "progressive", **options})
    if kind.profile == "Baseline":
        # x264 writes no other than the constrained one: take back what says so.
        path.write_bytes(path.read_bytes().replace(b"\x67\x42\xc0", b"\x67\x42\x80"))
    expected = plain_decode(path)
    with VideoReader(path) as video:
        assert video._decoder.kind == kind and not video._index.checked
        assert video.num_frames == len(expected) == 30
        for index in (*range(30), *range(29, -1, -1)):
            assert (video.get_frames([index])[0] == expected[index]).all(), index
        for step in (3, 7):
            some = list(range(step, 30, step))
            assert (video.get_frames(some) == [expected[index] for index in some]).all()
        video.check()


def test_field_orders_where_pyav_does_not_say():
    """Before release 18; progressive, except where a field may be a packet of its own."""
    codec = SimpleNamespace(name="h264", profile="High", pix_fmt="yuv420p")
    for container, fields in (("mov,mp4,m4a,3gp,3g2,mj2", "progressive"), ("mpegts", "")):
        assert kind_of(SimpleNamespace(format=SimpleNamespace(name=container)), codec).fields == fields
