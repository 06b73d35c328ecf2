"""The training loop, its hooks and the default trainer.

Names are imported on first use, so that a script that only parses its arguments does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nlvideo.engine.script import default_argument_parser, run_script
    from nlvideo.engine.setup import default_setup
    from nlvideo.engine.train_loop import HookBase, SimpleTrainer, TrainerBase
    from nlvideo.engine.trainer import DefaultTrainer

_MODULES = {
    "default_argument_parser": "nlvideo.engine.script",
    "run_script": "nlvideo.engine.script",
    "HookBase": "nlvideo.engine.train_loop",
    "SimpleTrainer": "nlvideo.engine.train_loop",
    "TrainerBase": "nlvideo.engine.train_loop",
    "DefaultTrainer": "nlvideo.engine.trainer",
    "default_setup": "nlvideo.engine.setup",
    # Moved; their old place keeps working.
    "export_model": "nlvideo.export.export_model",
    "extract_features": "nlvideo.export.features",
    "load_features": "nlvideo.export.feature_files",
    "load_model_for_test": "nlvideo.checkpoint.trained",
}
__all__ = [
    "DefaultTrainer",
    "HookBase",
    "SimpleTrainer",
    "TrainerBase",
    "default_argument_parser",
    "default_setup",
    "run_script",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
