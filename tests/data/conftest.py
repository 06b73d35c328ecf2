"""Videos of moving noise in any codec, and the plain decode that random access has to equal."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest

# Encoders that know only some rates.
_FIXED_RATES = ("mpeg1video", "mpeg2video")


def _make_noise(
    path, codec, num_frames=30, pix_fmt="yuv420p", size=(48, 64), times=(4,), first=0, fields=0, muxer=None, **options
):
    """Write a video of moving noise and return its path; skips without its encoder.

    ``times``: ticks of 1/100 s between frames, in turn; ``first``: of the first frame; ``fields``: FFmpeg's number of
    the field order; ``muxer``: options; ``options``: of the encoder.
    """
    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this PyAV has no encoder {codec}")
    height, width = size
    noise, time = np.random.default_rng(0).integers(0, 256, (height, width + num_frames, 3), np.uint8), first
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"} if first < 0 else muxer or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.thread_count = 1
        if codec not in _FIXED_RATES:
            stream.codec_context.time_base = Fraction(1, 100)
        if fields:
            stream.codec_context.field_order = fields
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(noise[:, index : index + width].copy(), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 100)
            time += times[index % len(times)]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if codec == "libsvtav1" and hasattr(os, "sched_setscheduler"):
        # Run as root, this encoder makes the process one of real time, which may starve all others.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return str(path)


def _plain_decode(path):
    """The frames of a file as PyAV alone decodes them from the start, RGB as stored."""
    frames = []
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.best("video")
        codec = stream.codec_context
        codec.thread_type = "NONE"
        # As ffmpeg does: an empty packet is not the end.
        for packet in [*(packet for packet in container.demux(stream) if packet.size), None]:
            frames += [frame.to_ndarray(format="rgb24") for frame in codec.decode(packet)]
    return frames


@pytest.fixture(scope="session")
def make_noise():
    """``make_noise(path, codec, num_frames=30, pix_fmt="yuv420p", size=(48, 64), **options) -> path``."""
    return _make_noise


@pytest.fixture(scope="session")
def plain_decode():
    """``plain_decode(path) -> [uint8 (H, W, 3), ...]``: all frames of a file by PyAV alone, not turned upright."""
    return _plain_decode
