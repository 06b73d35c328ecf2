"""A trained model as a folder to hand on: weights, config and names of classes, without what training needs."""

import os
from collections.abc import Sequence

import torch
import yaml
from torch import nn

from nlvideo.checkpoint.conversion import differences
from nlvideo.checkpoint.plain import to_plain
from nlvideo.config import CfgNode
from nlvideo.data.datasets.listed import CLASSES_FILE, write_classes
from nlvideo.utils.files.file_io import atomic_write, write_text

_FILES = ("model.pth", "config.yaml", CLASSES_FILE)


def pack_model(model: nn.Module, cfg: CfgNode, classes: Sequence[str], folder: str, overwrite: bool = False) -> None:
    """Write ``model.pth``, ``config.yaml`` and ``classes.txt``, which is all that ``model_zoo.get`` wants of a folder.

    Args:
        model: with its weights, as they are tested: of a run with a moving average, that.
        cfg: of the model. Written is what differs from the defaults, less what belongs to one machine: device, output
            folder and path of the weights.
        classes: their names, in the order of the scores.
        folder: made if missing.
        overwrite: replace files that are there.

    Raises:
        ValueError: a file is there already.
        OSError: the folder cannot be written.
    """
    paths = [os.path.join(folder, name) for name in _FILES]
    taken = [path for path in paths if os.path.exists(path)]
    if taken and not overwrite:
        raise ValueError(f"{' and '.join(taken)} exists; --overwrite replaces it")
    os.makedirs(folder, exist_ok=True)
    kept = differences(cfg)
    kept.pop("OUTPUT_DIR", None)
    for key in ("DEVICE", "WEIGHTS"):
        kept.get("MODEL", {}).pop(key, None)
    # Copies: of a view, torch would save the whole tensor that it is a part of.
    state = {name: tensor.clone().contiguous() for name, tensor in to_plain(model.state_dict(), "model").items()}
    weights, config_file, names = paths
    atomic_write(weights, lambda file: torch.save({"model": state, "classes": list(classes)}, file))
    write_text(config_file, yaml.safe_dump(kept, default_flow_style=None, sort_keys=False, width=120))
    write_classes(names, classes)
