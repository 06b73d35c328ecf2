"""nlvideo: train, test, inspect and extend video classifiers built around the non-local operation.

Importing the package imports nothing heavy; take what you need from its sub-packages. ``nlvideo.Predictor`` and
``nlvideo.model_zoo`` are here already, and are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nlvideo import model_zoo
    from nlvideo.model_zoo import Predictor

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "model_zoo"]


def __getattr__(name: str) -> Any:
    if name == "Predictor":
        return importlib.import_module("nlvideo.model_zoo.predictor").Predictor
    if name == "model_zoo":
        return importlib.import_module("nlvideo.model_zoo")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
