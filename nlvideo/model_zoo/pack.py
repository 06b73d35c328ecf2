"""A trained model as a folder to share: weights, config and names of classes, without the state of the training."""

import os
from collections.abc import Sequence

import torch
import yaml
from torch import nn

from nlvideo.checkpoint.conversion import differences, make_way
from nlvideo.checkpoint.plain import to_plain
from nlvideo.config import CfgNode
from nlvideo.data.datasets.listed import CLASSES_FILE, write_classes
from nlvideo.modeling.costs import meta_model
from nlvideo.utils.files.file_io import atomic_write, write_text


def pack_model(model: nn.Module, cfg: CfgNode, classes: Sequence[str], folder: str, overwrite: bool = False) -> None:
    """Write ``model.pth``, ``config.yaml`` and ``classes.txt``; ``model_zoo.get`` takes the folder.

    Args:
        model: with the weights to test: the moving average, if the run has one.
        cfg: of the model. What differs from the defaults is written, except what belongs to one machine: device, output
            folder and path of the weights.
        classes: their names, in the order of the scores.
        folder: made if missing.
        overwrite: replace files that exist.

    Raises:
        ValueError: a file exists already, or the model is not one that `cfg` builds, such as `Predictor.model`, whose
            norms are folded: `model_zoo.get` gives it with its norms.
        OSError: the folder cannot be written.
    """
    paths = [os.path.join(folder, name) for name in ("model.pth", "config.yaml", CLASSES_FILE)]
    built, given = (set(network.state_dict()) for network in (meta_model(cfg)[0], model))
    if built != given:
        count, name = len(built ^ given), min(built ^ given)
        raise ValueError(
            f"model: not the one that cfg builds ({count} tensors, such as {name}); allowed: model_zoo.get's"
        )
    make_way(paths, overwrite)
    kept = differences(cfg)
    kept.pop("OUTPUT_DIR", None)
    for key in ("DEVICE", "WEIGHTS"):
        kept.get("MODEL", {}).pop(key, None)
    # Copies: of a view, torch saves the whole tensor.
    state = {name: tensor.clone().contiguous() for name, tensor in to_plain(model.state_dict(), "model").items()}
    weights, config_file, names = paths
    atomic_write(weights, lambda file: torch.save({"model": state, "classes": list(classes)}, file))
    write_text(config_file, yaml.safe_dump(kept, default_flow_style=None, sort_keys=False, width=120))
    write_classes(names, classes)
