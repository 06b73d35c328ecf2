"""What a file is that is given as a video or as weights."""

import bz2
import gzip
import io
import lzma
import os
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nlvideo.data.video.frame_stream import FrameStream
from nlvideo.data.video.video_reader import VideoReader
from nlvideo.errors import VideoDecodeError
from nlvideo.utils.files.file_kind import kind_of_file


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.mp4"))
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", "b")
    return buffer.getvalue()


KINDS = {
    "an HTML page": b"\n<!-- cached -->\n<!DOCTYPE html><html><body>404</body></html>",
    "gzip data, such as a .tar.gz": gzip.compress(_tar()),
    "bzip2 data": bz2.compress(b"a"),
    "xz data": lzma.compress(b"a"),
    "a tar archive": _tar(),
    "a zip archive": _zip(),
    "encrypted data": b"Salted__" + random.Random(0).randbytes(2000),
    "encrypted, compressed or damaged": random.Random(0).randbytes(2000),
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "all zero": bytes(2000),
    "a text: 'caf\u00e9 1\\n'": "caf\u00e9 1\n".encode(),
    "an XML text": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opened", [VideoReader, FrameStream])
def test_a_file_that_is_no_video_says_what_it_is(tmp_path: Path, kind: str, opened: type) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(KINDS[kind])
    assert kind in kind_of_file(str(path))
    with pytest.raises(VideoDecodeError) as caught:
        opened(path)
    assert f"; the file holds {kind_of_file(str(path))}" in caught.value.reason


def test_an_encrypted_video_says_so(tmp_path: Path, make_video: Callable[..., str]) -> None:
    import av

    clear = make_video(tmp_path / "clear.mp4", codec="libx264")
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "11" * 16}
    with av.open(clear) as source, av.open(str(tmp_path / "a.mp4"), "w", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    assert kind_of_file(clear) == ""
    assert kind_of_file(str(tmp_path / "a.mp4")) == "a video with encrypted frames (DRM)"


def test_videos_and_what_is_not_there_have_no_kind(tmp_path: Path, make_video: Callable[..., str]) -> None:
    for name, options in {"a.mp4": {}, "a.mkv": {}, "a.ts": {"codec": "libx264"}, "a.avi": {"codec": "ffv1"}}.items():
        assert kind_of_file(make_video(tmp_path / name, **options)) == ""
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(b"\0\0\0\x18ftypisom" + os.urandom(3000))
    assert kind_of_file(str(cut)) == kind_of_file(str(tmp_path)) == kind_of_file(str(tmp_path / "none")) == ""
