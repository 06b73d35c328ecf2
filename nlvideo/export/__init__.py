"""Models for other programs, and features of videos. Names are imported on first use."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nlvideo.export.export_files import read_export
    from nlvideo.export.exporter import export_model
    from nlvideo.export.feature_files import iterate_shards, load_features
    from nlvideo.export.features import extract_features

_MODULES = {
    "export_model": "nlvideo.export.exporter",
    "extract_features": "nlvideo.export.features",
    "iterate_shards": "nlvideo.export.feature_files",
    "load_features": "nlvideo.export.feature_files",
    "read_export": "nlvideo.export.export_files",
}
__all__ = ["export_model", "extract_features", "iterate_shards", "load_features", "read_export"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
