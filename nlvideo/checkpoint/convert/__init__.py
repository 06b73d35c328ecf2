"""Weights of other frameworks, under our names. Each module with a source registers it when it is imported."""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from nlvideo.checkpoint.convert.common import SOURCES, Converted, Source, get_source, register

__all__ = ["SOURCES", "Converted", "Source", "convert", "get_source", "recognise", "register"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def recognise(content: Mapping[str, Any]) -> str:
    """Return the name of the source that a file is of.

    Args:
        content: name -> tensor, from `read.flatten`.

    Raises:
        ValueError: none or several claim it; shows some names of the file.
    """
    claims = [name for name, source in SOURCES.items() if source.recognise(content)]
    if len(claims) == 1:
        return claims[0]
    names = ", ".join(list(content)[:4])
    if claims:
        raise ValueError(f"weights with the names {names}, ... may be of {' or '.join(claims)}: say which")
    raise ValueError(f"weights with the names {names}, ... are of no known source: {', '.join(sorted(SOURCES))}")


def convert(content: Mapping[str, Any], source: str = "auto") -> Converted:
    """Bring foreign weights under our names.

    Args:
        content: name -> tensor, from `read.flatten`.
        source: a name in `SOURCES`, or "auto".

    Raises:
        ValueError: not recognised, an unknown source, or a network that ours cannot express.
    """
    return get_source(recognise(content) if source == "auto" else source).convert(content)
