"""Frames are shown as the display matrix of the file says, in every way of reading."""

import struct

import av
import numpy as np
import pytest

from nlvideo.data import FrameStream, VideoReader
from nlvideo.dataset_tools.transcode import TranscodeOptions, transcode_video

# Where a stored point (x, y), y downwards, is shown: (a x + c y, b x + d y).
MATRICES = {
    "as stored": (1, 0, 0, 1), "turned by 90": (0, 1, -1, 0), "by 180": (-1, 0, 0, -1), "by 270": (0, -1, 1, 0),
    "left and right swapped": (-1, 0, 0, 1), "upside down": (1, 0, 0, -1), "transposed": (0, 1, 1, 0),
    "transposed the other way": (0, -1, -1, 0),
}  # fmt: skip
CORNERS = {(-1, -1): "R", (1, -1): "G", (-1, 1): "B", (1, 1): "K"}
COLOURS = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255), "K": (0, 0, 0)}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The bytes of an MP4 with a colour in each corner, 48 pixels wide and 32 high."""
    path = str(tmp_path_factory.mktemp("upright") / "stored.mp4")
    image = np.array([[COLOURS["R"], COLOURS["G"]], [COLOURS["B"], COLOURS["K"]]], np.uint8).repeat(16, 0).repeat(24, 1)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264rgb", rate=10, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "rgb24"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    with open(path, "rb") as file:
        return file.read()


def corners(image):
    """The colours of the corners of an image by their place."""
    found = {}
    for x, y in CORNERS:
        pixel = image[-6 if y > 0 else 6, -6 if x > 0 else 6].astype(int)
        found[x, y] = min(COLOURS, key=lambda name: np.abs(pixel - COLOURS[name]).sum())
    return found


@pytest.mark.parametrize("name", MATRICES)
def test_every_display_matrix(stored, tmp_path, name):
    a, b, c, d = MATRICES[name]
    data, path = bytearray(stored), tmp_path / "a.mp4"
    # In the track header, after 40 bytes of other fields.
    place = data.index(b"tkhd") + 44
    assert struct.unpack_from(">9i", data, place) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, place, a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    expected = {(a * x + c * y, b * x + d * y): colour for (x, y), colour in CORNERS.items()}
    size = (32, 48) if a else (48, 32)
    for _ in range(2):  # without and with its index
        with VideoReader(path, index_dir=tmp_path / "index") as video:
            assert (video.height, video.width) == size and video.mirrored == (a * d - b * c < 0)
            images = video.get_frames([4, 0, 1])
            assert [corners(image) for image in images] == [expected] * 3
    with FrameStream(path) as stream:
        assert [corners(frame.to_rgb()) for frame in stream] == [expected] * 5
    assert (
        transcode_video((str(path), str(tmp_path / "b.mp4"), TranscodeOptions(preset="ultrafast"), False)).error is None
    )
    with VideoReader(tmp_path / "b.mp4") as video:
        assert (video.rotation, video.mirrored) == (0, False) and corners(video.get_frames([2])[0]) == expected
