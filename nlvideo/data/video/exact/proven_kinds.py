"""The kinds of files whose frames by random access are proven to be those of a decode in order."""

from collections.abc import Iterator
from itertools import chain, product
from typing import NamedTuple

import av

_FIELD_ORDERS = ("", "progressive", "top first", "bottom first", "top coded first", "bottom coded first")


class Kind(NamedTuple):
    """What decides how a file behaves when decoding starts in its middle.

    Attributes:
        container: FFmpeg's first name of it.
        codec: FFmpeg's name.
        profile: of the codec; "" where it has none.
        pixels: FFmpeg's name of the pixel format.
        fields: order of the fields; "progressive", or "" where it is not known.
    """

    container: str
    codec: str
    profile: str
    pixels: str
    fields: str

    def __str__(self) -> str:
        return " ".join(filter(None, self))


def kind_of(container: av.container.InputContainer, codec: av.VideoCodecContext) -> Kind:
    """Return the kind of an open file."""
    name = container.format.name.split(",")[0]
    order = getattr(codec, "field_order", None)
    if order is None:  # PyAV before 18 does not say; in transport streams a field may be a packet of its own
        order = name != "mpegts"
    return Kind(name, codec.name, codec.profile or "", codec.pix_fmt or "", _FIELD_ORDERS[order])


def _rows(containers: str, codec: str, profiles: str, pixels: str, fields: str) -> Iterator[Kind]:
    """All combinations of names that are separated by commas."""
    lists = (names.split(",") for names in (containers, codec, profiles, pixels, fields))
    return (Kind(*values) for values in product(*lists))


#: Each of them is proven by ``tests/data/video/exact/test_proven_kinds.py``. What is not here is checked file by file.
PROVEN = frozenset(
    chain(
        _rows(
            "mov,matroska,mpegts,flv",
            "h264",
            "Constrained Baseline,Baseline,Main,High",
            "yuv420p,yuvj420p",
            "progressive",
        ),
        _rows("mov,matroska", "h264", "High 10", "yuv420p10le", "progressive"),
        _rows("mov,matroska", "hevc", "Main", "yuv420p,yuvj420p", ",progressive"),
        _rows("mov,matroska", "hevc", "Main 10", "yuv420p10le", ",progressive"),
        _rows("mpegts", "hevc", "Main", "yuv420p", ""),
        _rows("matroska", "vp8", "", "yuv420p", "progressive"),
        _rows("mov,matroska", "vp9", "Profile 0", "yuv420p", ",progressive"),
        _rows("mov,matroska", "libdav1d", "Main", "yuv420p,yuv420p10le", ",progressive"),
        _rows("mov,matroska", "mpeg4", "Simple Profile,Advanced Simple Profile", "yuv420p", ""),
        _rows("avi", "mpeg4", "Simple Profile", "yuv420p", ""),
        _rows("mpeg,mpegts,matroska", "mpeg2video", "Main", "yuv420p", "progressive"),
        _rows("mpeg", "mpeg1video", "", "yuv420p", "progressive"),
        _rows("avi,mov", "mjpeg", "Baseline", "yuvj420p,yuvj422p", ""),
        _rows("mov", "mjpeg", "Baseline", "yuvj420p,yuvj422p", "progressive"),
        _rows("mov", "prores", "Proxy,LT,Standard,HQ", "yuv422p10le", "progressive"),
        _rows("avi,matroska", "ffv1", "", "yuv420p,bgr0", ""),
        _rows("gif", "gif", "", "bgra", ""),
    )
)
