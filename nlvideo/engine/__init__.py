"""The training loop, its hooks and the default trainer.

Names are imported on first use, so that a script that only parses its arguments does not wait for torch.
"""

import importlib
from typing import Any

_MODULES = {
    "default_argument_parser": "script",
    "run_script": "script",
    "HookBase": "train_loop",
    "SimpleTrainer": "train_loop",
    "TrainerBase": "train_loop",
    "DefaultTrainer": "defaults",
    "default_setup": "setup",
    "export_model": "export",
    "extract_features": "features",
    "load_features": "feature_files",
    "load_model_for_test": "defaults",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
