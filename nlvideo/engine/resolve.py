"""Fills in what a config takes from its training data: a split, the number of classes, and a schedule in epochs."""

import logging
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nlvideo.checkpoint import last_checkpoint_in
from nlvideo.checkpoint.read.read_file import read_file
from nlvideo.config import CfgNode
from nlvideo.config.defaults import _C
from nlvideo.config.validate import validate
from nlvideo.data.build import read_training_data
from nlvideo.data.catalog import Record
from nlvideo.data.checks import dataset_classes, fingerprint
from nlvideo.data.dataset_mapper import MAPPER
from nlvideo.data.records.records import labels_of
from nlvideo.data.split import split_datasets
from nlvideo.data.survey import log_survey
from nlvideo.errors import LookupFailed
from nlvideo.utils import comm
from nlvideo.utils.files.file_io import absolute_path
from nlvideo.utils.files.safe_yaml import parse_yaml
from nlvideo.utils.messages import some

logger = logging.getLogger(__name__)

# A larger label in a multi-label list is no class, but something else, such as an id.
_MOST_CLASSES = 100_000
_CLASSES, _EPOCHS = "MODEL.HEAD.NUM_CLASSES", "SOLVER.MAX_EPOCHS"
_WEIGHTS = "MODEL.HEAD.CLASS_WEIGHTS"


def resolve_from_data(cfg: CfgNode, resume: bool = False) -> CfgNode:
    """Read the training data of a config, and set the keys that depend on it; call it on every rank.

    DATASETS.SPLIT takes videos for DATASETS.TEST from DATASETS.TRAIN. MODEL.HEAD.NUM_CLASSES 0 becomes the number of
    classes of the data, and CLASS_WEIGHTS "balanced" a number for each. SOLVER.MAX_EPOCHS becomes SOLVER.MAX_ITER, with
    STEPS, WARMUP_ITERS and the periods of tests and checkpoints. These numbers are not yet scaled to the number of
    ranks. The records are kept for the loader, which does not read them again.

    Args:
        cfg: left as it is.
        resume: the run in OUTPUT_DIR goes on. If the data has changed since, the values of its ``config.yaml`` stay.

    Returns:
        The config with these keys set, frozen where ``cfg`` is. Resolving it again changes nothing.

    Raises:
        ValueError: a dataset is faulty, or its classes do not fit the config; one line.
        LookupFailed: an unknown dataset.
    """
    cfg = resolve_split(cfg, resume)
    earlier = _earlier_config(cfg.OUTPUT_DIR) if resume else {}
    for key in (_CLASSES, _WEIGHTS):
        if cfg.value_at(key) in (0, "balanced") and (value := earlier.get(key)):
            cfg = cfg.with_overrides([key, value])
    head = cfg.MODEL.HEAD
    in_epochs, is_balanced = cfg.SOLVER.MAX_EPOCHS > 0, head.CLASS_WEIGHTS == "balanced"
    needs_data = head.NUM_CLASSES == 0 or in_epochs or is_balanced
    if not cfg.DATASETS.TRAIN and not needs_data:
        # The script has its own loader.
        return cfg
    try:
        records, num_classes = read_training_data(cfg)
    except LookupFailed:
        # The script may register its datasets later.
        if needs_data:
            raise
        return cfg
    _check_classes(cfg, records, num_classes)
    changes: dict[str, Any] = {} if head.NUM_CLASSES else {_CLASSES: num_classes}
    if in_epochs:
        changes = _kept(cfg, changes | _schedule(cfg, len(records)), earlier, records)
    if is_balanced:
        changes[_WEIGHTS] = _balanced_weights(cfg, records, head.NUM_CLASSES or num_classes)
    if changes:
        shown = {key: f"{min(new)} to {max(new)}" if key == _WEIGHTS else new for key, new in changes.items()}
        text = ", ".join(f"{key} {cfg.value_at(key)} -> {new}" for key, new in shown.items())
        logger.info("From the %d videos of the training data: %s", len(records), text)
    cfg = cfg.with_overrides([word for item in changes.items() for word in item])
    validate(cfg)
    # A mapper with `collate` makes other samples.
    makes_clips = not hasattr(MAPPER.get(cfg.DATALOADER.MAPPER, "DATALOADER.MAPPER"), "collate")
    if makes_clips and not resume and comm.is_main_process():
        log_survey(cfg, records)
    return cfg


def resolve_split(cfg: CfgNode, resume: bool = False, eval_only: bool = False) -> CfgNode:
    """Put the lists of DATASETS.SPLIT into a config that asks for them; call it on every rank. Rank 0 writes them.

    Args:
        cfg: left as it is.
        resume: take the lists that the run in OUTPUT_DIR has; they are made only where there are none.
        eval_only: warn where OUTPUT_DIR holds no run that has lists.

    Raises:
        ValueError: a dataset is faulty or cannot be split; one line.
        LookupFailed: an unknown dataset.
    """
    root, split = Path(absolute_path(cfg.OUTPUT_DIR)), cfg.DATASETS.SPLIT
    if not split.FRACTION or cfg.DATASETS.TEST:
        return cfg
    earlier = _earlier_config(cfg.OUTPUT_DIR) if resume else {}
    named = [earlier.get(key, []) for key in ("DATASETS.TRAIN", "DATASETS.TEST")]
    # The folder of the run may have been moved. Then its lists are in the folder of the same name.
    folder = Path(named[0][0]).parent.name if named[0] else ""
    folder = folder if re.fullmatch(r"split_\d+", folder) else "split"
    moved = [[f"list:{root}/{folder}/{side}.csv"] for side in ("train", "val")]

    def lists() -> list[list[str]]:
        """The lists of the run that goes on, or new ones."""
        for sides in (named, moved) if resume else ():
            if all(sides) and all(os.path.isfile(name.removeprefix("list:")) for name in (*sides[0], *sides[1])):
                return sides
        return [[name] for name in split_datasets(cfg.DATASETS.TRAIN, split.FRACTION, split.SEED, split.GROUP, root)]

    train, test = comm.on_main_process(lists)
    if eval_only and not earlier.get("DATASETS.TEST"):
        text = (
            "DATASETS.TEST is now %s: OUTPUT_DIR holds no run with a split. The list may hold videos that the weights"
            " were trained on. To test on the run's own list, set DATASETS.TEST to the split/val.csv of its folder"
        )
        logger.warning(text, test)
    return cfg.with_overrides(["DATASETS.TRAIN", train, "DATASETS.TEST", test, "DATASETS.SPLIT.FRACTION", 0.0])


def _schedule(cfg: CfgNode, num_videos: int) -> dict[str, Any]:
    """The keys and values of the schedule that SOLVER.MAX_EPOCHS gives."""
    solver, part_tested = cfg.SOLVER, cfg.TEST.EVAL_FRACTION
    # Round first: in floating point, 1.1 x 10 / 11 is a little more than 1.
    needed = math.ceil(round(solver.MAX_EPOCHS * num_videos / solver.CLIPS_PER_BATCH, 6))
    end = max(needed, solver.MIN_ITER, 1)
    if solver.MAX_ITER not in (end, _C.SOLVER.MAX_ITER):
        logger.warning(
            "SOLVER.MAX_ITER %d is ignored, because %s is set; to use it, set %s 0", solver.MAX_ITER, _EPOCHS, _EPOCHS
        )
    period = max(1, round(part_tested * end))
    scale = comm.get_world_size() / (solver.REFERENCE_WORLD_SIZE or comm.get_world_size())

    def scaled(iterations: int) -> int:
        """What `scale_to_world_size` makes of them."""
        return max(1, round(iterations / scale))

    # What does not fit into a short run, or into one that many ranks make short, is left out.
    steps = {scaled(step): step for part in solver.STEP_FRACTIONS if (step := round(part * end))}
    warmup = round(solver.WARMUP_FRACTION * end)
    return {
        _EPOCHS: 0.0,
        "SOLVER.MAX_ITER": end,
        "SOLVER.STEPS": [step for number, step in steps.items() if number < scaled(end)],
        "SOLVER.WARMUP_ITERS": warmup if scaled(warmup) < scaled(end) else 0,
        "TEST.EVAL_PERIOD": period if part_tested else 0,
        "SOLVER.CHECKPOINT_PERIOD": period if part_tested else solver.CHECKPOINT_PERIOD,
    }


def _kept(cfg: CfgNode, changes: dict[str, Any], earlier: dict[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    """The values that the earlier run began with, if its data has changed since; else the new ones."""
    own = {key: earlier.get(key) for key in changes}
    if None in own.values() or own == changes or not _has_changed(cfg.OUTPUT_DIR, records):
        return changes
    logger.warning(
        "The training data has changed since this run began. The run keeps its schedule of %d iterations; with the data"
        " of now, %s gives %d. To choose the number, set %s 0 and SOLVER.MAX_ITER",
        own["SOLVER.MAX_ITER"], _EPOCHS, changes["SOLVER.MAX_ITER"], _EPOCHS,
    )  # fmt: skip
    return own


def _check_classes(cfg: CfgNode, records: Sequence[Record], num_classes: int) -> None:
    """Refuse data with one class, and warn of classes that cannot be learned."""
    head, names = cfg.MODEL.HEAD, dataset_classes(cfg.DATASETS.TRAIN)
    is_one_label = head.LOSS == "softmax"
    if num_classes == 1 and is_one_label and head.NUM_CLASSES < 2:
        one = f"one class, {names[0]!r}" if names else "one class"
        hint = " (in folder:DIR each class has a folder of its own, directly below DIR)"
        raise ValueError(f"DATASETS.TRAIN: got {one}, in {some(cfg.DATASETS.TRAIN)}, allowed: two or more{hint}")
    # If videos have several labels, there may be more classes than videos.
    most = max(len(names), len(records), 0 if is_one_label else _MOST_CLASSES)
    if not head.NUM_CLASSES and num_classes > most:
        raise ValueError(
            f"{_CLASSES}: got 0, but the largest label of the {len(records)} videos is {num_classes - 1}, allowed:"
            " labels that number the classes from 0, or another MODEL.HEAD.NUM_CLASSES"
        )
    if head.NUM_CLASSES > num_classes:
        logger.warning("%s is %d, but the training data has %d classes", _CLASSES, head.NUM_CLASSES, num_classes)
    counts = np.bincount(labels_of(records).values, minlength=num_classes)
    for number, what in ((0, "no video"), (1, "only one video")):
        if few := np.flatnonzero(counts == number).tolist():
            text = "%d of the %d classes have %s in the training data: %s"
            logger.warning(text, len(few), num_classes, what, _listed(cfg, few))


def _balanced_weights(cfg: CfgNode, records: Sequence[Record], num_classes: int) -> list[float]:
    """A weight for each class: the mean number of videos of a class, divided by the number in this one."""
    counts = np.bincount(labels_of(records).values, minlength=num_classes)
    if empty := np.flatnonzero(counts == 0).tolist():
        few = f"{len(empty)} of the {num_classes} classes have no video in the training data: {_listed(cfg, empty)}"
        raise ValueError(f"{_WEIGHTS}: got 'balanced', but {few}; allowed: a video of each class, or numbers")
    return [float(f"{weight:.6g}") for weight in counts.mean() / counts]


def _listed(cfg: CfgNode, labels: Sequence[int]) -> str:
    """The names of the first few of these labels, for a message."""
    names = dataset_classes(cfg.DATASETS.TRAIN)
    return some([names[label] if label < len(names) else str(label) for label in labels])


def _earlier_config(folder: str) -> dict[str, Any]:
    """The config of the run that is resumed, {full key: value}; empty if there is none."""
    return {} if last_checkpoint_in(folder) is None else config_in(folder)


def config_in(folder: str) -> dict[str, Any]:
    """Return the ``config.yaml`` of a run as {full key: value}; {} without the file."""
    path = Path(folder, "config.yaml")
    config = CfgNode(parse_yaml(path.read_text(encoding="utf8"))) if path.is_file() else CfgNode()
    return {key: config.value_at(key) for key in config.keys_with_path()}


def _has_changed(folder: str, records: Sequence[Record]) -> bool:
    """Whether the training data differs from that of the last checkpoint; True also if the checkpoint does not say."""
    content = read_file(last_checkpoint_in(folder) or "")
    try:
        said = content["trainer"]["hooks"]["Settings"]["settings"]["training data"]
    except KeyError:
        return True
    return not said.endswith(fingerprint(records))
