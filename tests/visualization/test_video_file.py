"""Writing videos."""

import base64
import io

import av
import numpy as np
import pytest

from nlvideo.data import VideoReader
from nlvideo.visualization import write_video
from nlvideo.visualization.video_file import data_uri, encode_video


def frames_of(num_frames, height, width):
    """Grey frames, brighter one by one."""
    return np.repeat((20 * np.arange(1, num_frames + 1, dtype=np.uint8))[:, None], height * width * 3, 1).reshape(
        num_frames, height, width, 3
    )


@pytest.mark.parametrize("height, width", [(64, 96), (65, 97)])
def test_frames_come_back(tmp_path, height, width):
    path, frames = tmp_path / "a.mp4", frames_of(6, height, width)
    write_video(path, frames, 2.5)
    with VideoReader(path) as video:
        assert (video.num_frames, video.fps, video.height, video.width) == (6, 2.5, 64, 96)
        read = video.get_frames(range(6))
    assert np.abs(read.astype(int) - frames[:, :64, :96]).max() <= 3
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    # The index comes first, for browsers.
    assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")


def test_a_file_is_whole_or_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(av.VideoFrame, "from_ndarray", fail)
    with pytest.raises(OSError, match="disk full"):
        write_video(path, frames_of(2, 8, 8), 1)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_mistakes(tmp_path):
    good = frames_of(1, 8, 8)
    for frames in (good[0], good.astype(np.float32), good[:0], good[..., :1]):
        with pytest.raises(ValueError, match=r"allowed: uint8 \(T, H, W, 3\)"):
            write_video(tmp_path / "a.mp4", frames, 1)
    with pytest.raises(ValueError, match="got 8x1 pixels, allowed: 2x2 or more"):
        write_video(tmp_path / "a.mp4", good[:, :, :1], 1)
    with pytest.raises(ValueError, match="fps: got 0, allowed: above 0"):
        write_video(tmp_path / "a.mp4", good, 0)
    with pytest.raises(OSError):
        write_video(tmp_path / "nowhere" / "a.mp4", good, 1)
    assert not list(tmp_path.iterdir())


def test_frames_are_encoded_as_they_come():
    """Into memory, from an iterator, of odd size; the coarser the smaller."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 33, 47, 3), np.uint8)
    sizes = []
    for crf in (10, 40):
        buffer = io.BytesIO()
        encode_video(buffer, iter(noise), 12.5, crf, "ultrafast")
        sizes.append(len(buffer.getvalue()))
        with av.open(io.BytesIO(buffer.getvalue())) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            assert (len(frames), frames[0].shape, container.streams.video[0].average_rate) == (5, (32, 46, 3), 12.5)
    assert sizes[1] < sizes[0] / 2


def test_an_address_holds_the_file():
    kind, _, text = data_uri("video/mp4", b"\x00bytes\xff").partition(";base64,")
    assert kind == "data:video/mp4" and base64.b64decode(text) == b"\x00bytes\xff"
