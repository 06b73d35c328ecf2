"""Trained models for tests and predictions."""

import logging
import os

from torch import nn

from nlvideo.checkpoint.checkpointer import last_checkpoint_in
from nlvideo.checkpoint.convert.common import CLASSIFIER, STEM
from nlvideo.checkpoint.read.read_file import read_file
from nlvideo.checkpoint.weights import find_weights, load_weights
from nlvideo.config import CfgNode
from nlvideo.data.checks import check_same_classes, dataset_classes
from nlvideo.data.datasets import get_dataset
from nlvideo.modeling import build_model
from nlvideo.modeling.backbone import inflate_2d_weights
from nlvideo.utils.console import log_once

logger = logging.getLogger(__name__)

#: The name, as MODEL.WEIGHTS of a trained network, of the best checkpoint of the run in OUTPUT_DIR.
BEST = "best"


def load_model_for_test(cfg: CfgNode, resume: bool = False) -> nn.Module:
    """Build ``MODEL`` with trained weights: the moving average where there is one and ``SOLVER.EMA`` is on.

    Args:
        cfg: ``MODEL.WEIGHTS`` names the checkpoint; "best" is ``model_best.pth`` in ``OUTPUT_DIR``.
        resume: prefer the last checkpoint in ``OUTPUT_DIR``.

    Raises:
        ValueError: no checkpoint is named, a tensor does not fit, or a dataset of ``DATASETS.TEST`` has other labels
            for the classes than the model.
        FileNotFoundError: the file is missing.
    """
    path = weights_for_test(cfg, resume)
    if not path:
        raise ValueError(
            "MODEL.WEIGHTS: got '', allowed for a test: a checkpoint, or --resume for the last one in OUTPUT_DIR"
            f" (now {cfg.OUTPUT_DIR!r})"
        )
    model, classes = _load(cfg, path)
    for name in cfg.DATASETS.TEST if classes else ():
        get_dataset(name)  # makes the names of its classes known
        try:
            check_same_classes(path, classes, name)
        except ValueError as error:
            raise ValueError(f"DATASETS.TEST: {error}") from None
    return model


def weights_for_test(cfg: CfgNode, resume: bool = False) -> str:
    """Return the checkpoint to test: the last one in ``OUTPUT_DIR`` on a resume, or ``MODEL.WEIGHTS``."""
    return (last_checkpoint_in(cfg.OUTPUT_DIR) if resume else None) or _named(cfg, cfg.MODEL.WEIGHTS)


def with_classes_of(cfg: CfgNode, path: str) -> CfgNode:
    """Return a config whose MODEL.HEAD.NUM_CLASSES is that of the weights at ``path``, where it is 0.

    Raises:
        ValueError: the file does not say how many classes it has, or is unreadable.
        FileNotFoundError: the file is missing.
    """
    if cfg.MODEL.HEAD.NUM_CLASSES or not path:
        return cfg
    path = _named(cfg, path)
    content = read_file(path)
    found = find_weights(content, path, [STEM, CLASSIFIER])
    number = len(found.weights.get(CLASSIFIER, found.classes))
    if not number:
        raise ValueError(f"MODEL.HEAD.NUM_CLASSES: got 0, and {path} has no {CLASSIFIER}, allowed: the number itself")
    return cfg.with_overrides(["MODEL.HEAD.NUM_CLASSES", number])


def load_trained_model(cfg: CfgNode, path: str, entry: str = "") -> tuple[nn.Module, list[str]]:
    """Build ``MODEL`` with all weights at ``path``: any tensor that does not fit is an error.

    Args:
        cfg: what the weights were trained with.
        path: as MODEL.WEIGHTS; "best" as in `load_model_for_test`.
        entry: the entry of the file with the weights; "": the usual one, or the moving average.

    Returns:
        The model in eval mode, and the names of its classes; see `class_names`.

    Raises:
        ValueError: the file is of another network than ``cfg``, or unreadable; one line.
        FileNotFoundError: the file is missing.
    """
    model, stored = _load(cfg, path, entry)
    if len(stored) > (count := cfg.MODEL.HEAD.NUM_CLASSES):
        logger.warning("%s: %d classes are named, the model has %d: the names are not used", path, len(stored), count)
    return model, class_names(cfg, stored)


def class_names(cfg: CfgNode, stored: list[str] | None = None) -> list[str]:
    """Return the names of the classes of a model, one for each score. A class without a name is called by its number.

    The names are those of the weights, ``stored``; where these have none or too many, those of the training data.
    """
    count = cfg.MODEL.HEAD.NUM_CLASSES
    names = stored or []
    if not 0 < len(names) <= count:
        names = dataset_classes(cfg.DATASETS.TRAIN)
    names = names if len(names) <= count else []
    if not names and stored is not None:
        log_once(
            f"The {count} classes have numbers but no names. To name them, put a classes.txt beside the weights: a name"
            " a line, in the order of the labels"
        )
    return [*names, *map(str, range(len(names), count))]


def _named(cfg: CfgNode, path: str) -> str:
    if path != BEST:
        return path
    path = os.path.join(cfg.OUTPUT_DIR, "model_best.pth")
    if not os.path.isfile(path):
        what = f"weights: got {BEST!r}, but {cfg.OUTPUT_DIR!r} (OUTPUT_DIR) has no model_best.pth"
        raise FileNotFoundError(f"{what}: it comes with the first evaluation")
    return path


def _load(cfg: CfgNode, path: str, entry: str = "") -> tuple[nn.Module, list[str]]:
    """Build the model with its weights, and return the names of its classes; none where they are not known."""
    model, path = build_model(cfg), _named(cfg, path)
    content = read_file(path)
    entry = entry or ("ema" if cfg.SOLVER.EMA.ENABLED and "ema" in content else "")
    report = load_weights(model, content, path, cfg=cfg, adapt_weights=inflate_2d_weights, entry=entry, complete=True)
    return model.eval(), report.classes
