"""Configurations and trained models by name.

What needs torch is imported on first use, so that a look-up of names stays cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

from nlvideo.model_zoo.model_zoo import (
    get_config,
    get_config_file,
    list_configs,
    list_networks,
    list_trained,
    trained_folder,
)

if TYPE_CHECKING:
    from nlvideo.model_zoo.predictor import Predictor
    from nlvideo.model_zoo.trained import get, trained_config

_LAZY = {"Predictor": "predictor", "get": "trained", "trained_config": "trained"}
__all__ = [
    "Predictor",
    "get",
    "get_config",
    "get_config_file",
    "list_configs",
    "list_networks",
    "list_trained",
    "trained_config",
    "trained_folder",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
