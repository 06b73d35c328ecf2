"""Weights of other frameworks, under our names."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nlvideo.checkpoint.convert import caffe2, mmaction2, pyslowfast, pytorchvideo, torchvision, tsm
from nlvideo.checkpoint.convert.common import Converted
from nlvideo.utils.messages import one_of

__all__ = ["SOURCES", "Converted", "Source", "convert", "recognise", "unknown_source"]


class Source(NamedTuple):
    """A format of weights. Both functions take the flat name -> tensor dict that `weights.flatten` gives."""

    recognise: Callable[[Mapping[str, Any]], bool]  #: whether a file is of this format
    convert: Callable[[Mapping[str, Any]], Converted]  #: ValueError, one line, for a network that ours cannot express


#: name -> source
SOURCES: dict[str, Source] = {
    "caffe2": Source(caffe2.recognise, caffe2.convert),
    "detectron": Source(caffe2.recognise_detectron, caffe2.convert_detectron),
    "mmaction2": Source(mmaction2.recognise, mmaction2.convert),
    "pyslowfast": Source(pyslowfast.recognise, pyslowfast.convert),
    "pytorch-resnet3d": Source(torchvision.recognise_resnet3d, torchvision.convert_resnet3d),
    "pytorchvideo": Source(pytorchvideo.recognise, pytorchvideo.convert),
    tsm.NAME: Source(tsm.recognise, tsm.convert),
    "torchvision": Source(torchvision.recognise, torchvision.convert),
}


def recognise(content: Mapping[str, Any]) -> str:
    """Return the name of the source that claims ``content``, or ""; ValueError where several claim it."""
    claims = [name for name, source in SOURCES.items() if source.recognise(content)]
    if len(claims) > 1:
        raise ValueError(f"{_named(content)} may be of {' or '.join(claims)}: say which")
    return claims[0] if claims else ""


def unknown_source(content: Mapping[str, Any]) -> str:
    """Return the error for names that no source claims."""
    return f"{_named(content)} are of no known source: {', '.join(SOURCES)}"


def _named(content: Mapping[str, Any]) -> str:
    return f"weights with the names {', '.join(list(content)[:4])}, ..."


def convert(content: Mapping[str, Any], source: str = "auto") -> Converted:
    """Bring foreign weights under our names; ``source`` is a name in `SOURCES`, or "auto".

    Raises:
        ValueError: not recognised, an unknown source, or a network that ours cannot express.
    """
    name = recognise(content) if source == "auto" else source
    if not name:
        raise ValueError(unknown_source(content))
    if name not in SOURCES:
        raise one_of("source of weights", name, ["auto", *SOURCES])
    return SOURCES[name].convert(content)
