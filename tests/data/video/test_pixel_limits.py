"""A giant video is a failed video: it is refused before its frames take memory, and the rest go on."""

import io
import os
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from nlvideo.config import load_cfg
from nlvideo.data import FrameStream, VideoDecodeError, VideoMapper, VideoReader, build_test_loader, open_video
from nlvideo.data.video.exact.decode_in_order import open_stream
from nlvideo.data.video.pixels import PixelLimits
from nlvideo.dataset_tools.transcode import TranscodeOptions, transcode_video

SMALL = PixelLimits(frame=1000, clip=5000)


def write_mjpeg(path, sizes, header=None):
    """Frames of the given (height, width), in a file whose header says ``header``, by default the first of them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.pix_fmt = "yuvj420p"
        stream.height, stream.width = header or sizes[0]
        for index, (height, width) in enumerate(sizes):
            image = io.BytesIO()
            Image.new("RGB", (width, height)).save(image, "jpeg")
            packet = av.Packet(image.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, 10)
            packet.is_keyframe = True
            container.mux(packet)
    return str(path)


@pytest.fixture(scope="module")
def giant(tmp_path_factory):
    """Two frames above 8192 x 8192 pixels, in a megabyte."""
    return write_mjpeg(tmp_path_factory.mktemp("giant") / "giant.avi", [(8200, 8200)] * 2)


def test_a_giant_frame_is_refused_by_what_the_header_says(giant):
    for read in (open_video, FrameStream):
        with pytest.raises(VideoDecodeError, match="frames of 8200x8200 pixels, allowed: 67,108,864 pixels a frame"):
            read(giant)
    result = transcode_video((giant, f"{giant}.mp4", TranscodeOptions(), False))
    assert "(DATALOADER.MAX_FRAME_PIXELS)" in result.error


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs a system that lists open files")
def test_a_file_that_is_refused_is_closed(giant):
    with pytest.raises(VideoDecodeError) as caught:  # which keeps what the function held
        open_stream(giant)
    assert giant not in [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    del caught


READS = {
    "frames": lambda path: VideoReader(path, pixels=SMALL).get_frames([0, 1, 2]),
    "check": lambda path: VideoReader(path, pixels=SMALL).check(),
    "stream": lambda path: [frame.to_rgb() for frame in FrameStream(path, pixels=SMALL)],
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_frame_that_grows_within_the_stream(tmp_path, read):
    path = write_mjpeg(tmp_path / "grows.avi", [(24, 24), (24, 24), (4000, 4000)])
    with pytest.raises(VideoDecodeError, match="grows.avi: a frame of no size, or of more than 1,000 pixels"):
        read(path)
    with VideoReader(path, pixels=SMALL) as video:
        assert video.get_frames([0, 1]).shape == (2, 24, 24, 3)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_frames_of_one_call(tmp_path, make_video, make_frames, kind):
    make = make_video if kind == "file" else make_frames
    path = make(tmp_path / ("a.mp4" if kind == "file" else "a"), num_frames=9, height=24, width=32)
    with open_video(path, pixels=SMALL) as video:
        assert video.get_frames(range(6)).shape == (6, 24, 32, 3)
        with pytest.raises(VideoDecodeError, match="7 frames of 24x32 pixels, allowed: 5,000 pixels a clip"):
            video.get_frames(range(7))
    with pytest.raises(VideoDecodeError, match="frames of 24x32 pixels, allowed: 700 pixels a frame"):
        open_video(path, pixels=PixelLimits(frame=700)).get_frames([0])


OPTIONS = ["INPUT.NUM_FRAMES", "4", "INPUT.FRAME_STRIDE", "1", "INPUT.SHORT_SIDE_RANGE", "[64, 64]",
           "INPUT.CROP_SIZE", "32", "TEST.NUM_CLIPS", "1", "TEST.NUM_CROPS", "1", "TEST.SHORT_SIDE", "64",
           "TEST.CROP_SIZE", "32", "DATALOADER.NUM_WORKERS", "0", "MODEL.HEAD.NUM_CLASSES", "2",
           "DATALOADER.MAX_CLIP_PIXELS", "40000"]  # fmt: skip


@pytest.mark.parametrize("is_train", [True, False])
def test_a_long_narrow_frame_that_resizing_would_make_giant(is_train):
    mapper = VideoMapper(load_cfg(None, OPTIONS), is_train)
    rng = np.random.default_rng(0) if is_train else None
    record = {"file_name": np.zeros((4, 16, 32, 3), np.uint8), "label": 0, "video_id": "a"}
    assert mapper(record, rng)["video"].shape[-3:] == (4, 32, 32)
    record["file_name"] = np.zeros((4, 1, 600, 3), np.uint8)
    with pytest.raises(VideoDecodeError, match="4 frames of 64x38400 pixels, allowed: 40,000 pixels a clip"):
        mapper(record, rng)


def test_a_giant_video_is_counted_and_the_rest_go_on(tmp_path, make_video, giant):
    make_video(tmp_path / "a.mp4", num_frames=5)
    (tmp_path / "list.txt").write_text(f"{giant} 1\na.mp4 0\n")
    cfg = load_cfg(None, [*OPTIONS, "DATASETS.TEST", f"['list:{tmp_path / 'list.txt'}']"])
    samples = [sample for batch in build_test_loader(cfg, cfg.DATASETS.TEST[0]) for sample in batch]
    assert [sample["failed"] for sample in samples] == [True, False]
    assert "DATALOADER.MAX_FRAME_PIXELS" in str(samples[0]["error"])
