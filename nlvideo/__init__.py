"""nlvideo: train, test, inspect and extend video classifiers built around the non-local operation.

Importing the package imports nothing heavy; take what you need from its sub-packages. ``nlvideo.Predictor`` and
``nlvideo.model_zoo`` are here already, and are imported on first use.
"""

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Predictor":
        return importlib.import_module("nlvideo.model_zoo.predictor").Predictor
    if name == "model_zoo":
        return importlib.import_module("nlvideo.model_zoo")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
