"""The kinds of files whose frames by random access are proven to be those of a decode in order."""

from itertools import product
from typing import NamedTuple

import av

_FIELD_ORDERS = ("", "progressive", "top first", "bottom first", "top coded first", "bottom coded first")


class Kind(NamedTuple):
    """What decides how a file behaves when decoding starts in its middle, by FFmpeg's names."""

    container: str  #: the first of its names
    codec: str
    profile: str  #: of the codec; "" where it has none
    pixels: str  #: the pixel format
    fields: str  #: order of the fields; "progressive", or "" where it is not known

    def __str__(self) -> str:
        return " ".join(filter(None, self))


def kind_of(container: av.container.InputContainer, codec: av.VideoCodecContext) -> Kind:
    """Return the kind of an open file."""
    name = container.format.name.split(",")[0]
    order = getattr(codec, "field_order", None)
    if order is None:  # PyAV before 18 does not say it. In transport streams a field may be a packet of its own.
        order = name != "mpegts"
    return Kind(name, codec.name, codec.profile or "", codec.pix_fmt or "", _FIELD_ORDERS[order])


# A row is all combinations of the names in its columns: container, codec, profile, pixel format and order of fields.
_ROWS = """
mov,matroska,mpegts,flv | h264       | Constrained Baseline,Baseline,Main,High | yuv420p,yuvj420p    | progressive
mov,matroska            | h264       | High 10                                 | yuv420p10le         | progressive
mov,matroska            | hevc       | Main                                    | yuv420p,yuvj420p    | ,progressive
mov,matroska            | hevc       | Main 10                                 | yuv420p10le         | ,progressive
mpegts                  | hevc       | Main                                    | yuv420p             |
matroska                | vp8        |                                         | yuv420p             | progressive
mov,matroska            | vp9        | Profile 0                               | yuv420p             | ,progressive
mov,matroska            | libdav1d   | Main                                    | yuv420p,yuv420p10le | ,progressive
mov,matroska            | mpeg4      | Simple Profile,Advanced Simple Profile  | yuv420p             |
avi                     | mpeg4      | Simple Profile                          | yuv420p             |
mpeg,mpegts,matroska    | mpeg2video | Main                                    | yuv420p             | progressive
mpeg                    | mpeg1video |                                         | yuv420p             | progressive
avi,mov                 | mjpeg      | Baseline                                | yuvj420p,yuvj422p   |
mov                     | mjpeg      | Baseline                                | yuvj420p,yuvj422p   | progressive
mov                     | prores     | Proxy,LT,Standard,HQ                    | yuv422p10le         | progressive
avi,matroska            | ffv1       |                                         | yuv420p,bgr0        |
gif                     | gif        |                                         | bgra                |
"""
#: Each of them is proven by ``tests/data/video/exact/test_proven_kinds.py``. What is not here is checked file by file.
PROVEN = frozenset(
    Kind(*names)
    for row in _ROWS.strip().splitlines()
    for names in product(*(column.strip().split(",") for column in row.split("|")))
)
