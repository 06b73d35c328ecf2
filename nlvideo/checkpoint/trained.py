"""Trained models for use outside of training: tests, and predictions."""

import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from nlvideo.checkpoint.catalog import resolve_weights
from nlvideo.checkpoint.checkpointer import Checkpointer
from nlvideo.checkpoint.read.read_file import read_file
from nlvideo.config import CfgNode
from nlvideo.data.checks import check_same_classes, dataset_classes
from nlvideo.data.datasets import get_dataset
from nlvideo.data.datasets.listed import read_classes
from nlvideo.modeling import build_model
from nlvideo.modeling.backbone import inflate_2d_weights


def load_model_for_test(cfg: CfgNode, resume: bool = False) -> nn.Module:
    """Build ``MODEL`` with trained weights: the moving average where there is one and ``SOLVER.EMA`` is on.

    Args:
        cfg: ``MODEL.WEIGHTS`` names the checkpoint.
        resume: prefer the last checkpoint in ``OUTPUT_DIR``.

    Raises:
        ValueError: no checkpoint is named, it hardly fits the model, or a dataset of ``DATASETS.TEST`` has the classes
            under other labels than the model.
        FileNotFoundError: the file is missing.
    """
    model, checkpointer = _build(cfg)
    path = (checkpointer.last_checkpoint() if resume else None) or cfg.MODEL.WEIGHTS
    if not path:
        raise ValueError(
            "MODEL.WEIGHTS: got '', allowed for a test: a checkpoint, or --resume for the last one in OUTPUT_DIR"
            f" (now {cfg.OUTPUT_DIR!r})"
        )
    _load(checkpointer, cfg, path)
    _check_classes(cfg, path)
    return model.eval()


def load_trained_model(cfg: CfgNode, path: str, entry: str = "") -> tuple[nn.Module, list[str]]:
    """Build ``MODEL`` with the weights at ``path``, every one of them: what does not fit is an error.

    Args:
        cfg: what the weights were trained with; of its moving average as in `load_model_for_test`.
        path: as MODEL.WEIGHTS.
        entry: of the file, with the weights; "": the usual one, or the moving average.

    Returns:
        The model in eval mode, and the names of its classes; see `class_names`.

    Raises:
        ValueError: the file is of another network than ``cfg``, or unreadable; one line.
        FileNotFoundError: the file is missing.
    """
    model, checkpointer = _build(cfg)
    _load(checkpointer, cfg, path, entry, complete=True)
    return model.eval(), class_names(cfg, path)


def class_names(cfg: CfgNode, path: str = "") -> list[str]:
    """Return the names of the classes of a model, as many as it has scores.

    They stand in the checkpoint, in a ``classes.txt`` beside it, or with the training data; classes without a
    name are called by their number.

    Args:
        cfg: of the model.
        path: of its weights; "" where there are none.
    """
    count = cfg.MODEL.HEAD.NUM_CLASSES
    sources = (lambda: _stored_classes(path), lambda: dataset_classes(cfg.DATASETS.TRAIN))
    names = next((found for found in (read() for read in sources) if 0 < len(found) <= count), [])
    return [*names, *map(str, range(len(names), count))]


def _stored_classes(path: str) -> list[str]:
    if not path:
        return []
    content: Mapping[str, Any] = read_file(resolve_weights(path))
    stored = content.get("classes")
    if stored and isinstance(stored, list) and all(isinstance(name, str) for name in stored):
        return stored
    return [] if "://" in path else read_classes(f"{os.path.dirname(os.path.abspath(path))}/classes.txt")


def _check_classes(cfg: CfgNode, path: str) -> None:
    classes = _stored_classes(path)
    for name in cfg.DATASETS.TEST if classes else ():
        get_dataset(name)  # notes the names of its classes
        try:
            check_same_classes(path, classes, name)
        except ValueError as error:
            raise ValueError(f"DATASETS.TEST: {error}") from None


def _build(cfg: CfgNode) -> tuple[nn.Module, Checkpointer]:
    model = build_model(cfg)
    return model, Checkpointer(model, cfg.OUTPUT_DIR, adapt_weights=inflate_2d_weights, cfg=cfg)


def _load(checkpointer: Checkpointer, cfg: CfgNode, path: str, entry: str = "", complete: bool = False) -> None:
    averaged = not entry and cfg.SOLVER.EMA.ENABLED and "ema" in read_file(resolve_weights(path))
    checkpointer.load_weights(path, entry="ema" if averaged else entry, complete=complete)
