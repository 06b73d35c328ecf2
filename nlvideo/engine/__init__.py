"""The training loop, its hooks and the default trainer.

Names are imported on first use, so that a script that only parses its arguments does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nlvideo.engine.resolve import resolve_from_data
    from nlvideo.engine.script import default_argument_parser, run_script
    from nlvideo.engine.setup import default_setup
    from nlvideo.engine.train_loop import HookBase, SimpleTrainer, TrainerBase
    from nlvideo.engine.trainer import DefaultTrainer

__all__ = [
    "DefaultTrainer",
    "HookBase",
    "SimpleTrainer",
    "TrainerBase",
    "default_argument_parser",
    "default_setup",
    "resolve_from_data",
    "run_script",
]
_MODULES = {
    "nlvideo.engine.resolve": ("resolve_from_data",),
    "nlvideo.engine.script": ("default_argument_parser", "run_script"),
    "nlvideo.engine.setup": ("default_setup",),
    "nlvideo.engine.train_loop": ("HookBase", "SimpleTrainer", "TrainerBase"),
    "nlvideo.engine.trainer": ("DefaultTrainer",),
    # These have moved; their old place keeps working.
    "nlvideo.export.exporter": ("export_model",),
    "nlvideo.export.features": ("extract_features",),
    "nlvideo.export.feature_files": ("load_features",),
    "nlvideo.checkpoint": ("load_model_for_test",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
