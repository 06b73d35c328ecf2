"""A trained model as a folder to share: weights, config and names of classes, without the state of the training."""

import os
from collections.abc import Sequence

import yaml
from torch import nn

from nlvideo.checkpoint.conversion import differences, make_way, meta_network
from nlvideo.checkpoint.plain import save_weights
from nlvideo.checkpoint.read.read_file import SAFETENSORS
from nlvideo.config import CfgNode
from nlvideo.data.datasets.listed import CLASSES_FILE, write_classes
from nlvideo.utils.files.file_io import write_text


def pack_model(
    model: nn.Module,
    cfg: CfgNode,
    classes: Sequence[str],
    output: str,
    overwrite: bool = False,
    name: str = "model.pth",
) -> str:
    """Write weights, ``config.yaml`` and ``classes.txt`` into a folder, or all into one file; `model_zoo.get` takes it.

    Args:
        model: with the weights to test: the moving average, if the run has one.
        cfg: of the model. What differs from the defaults is written, except what belongs to one machine: device, output
            folder and path of the weights.
        classes: their names, in the order of the scores.
        output: the folder, made if missing, or a file ``*.safetensors``.
        overwrite: replace files that exist.
        name: of the weights in the folder, ``model.pth`` or ``model.safetensors``.

    Returns:
        The path of the weights.

    Raises:
        ValueError: a file exists already, or the model is not one that `cfg` builds, such as `Predictor.model`, whose
            norms are folded: `model_zoo.get` gives it with its norms.
        OSError: the folder cannot be written.
        ImportError: safetensors is not installed.
    """
    is_file = output.endswith(SAFETENSORS)
    paths = [output] if is_file else [os.path.join(output, file) for file in (name, "config.yaml", CLASSES_FILE)]
    built, given = (set(network.state_dict()) for network in (meta_network(cfg), model))
    if built != given:
        count, tensor = len(built ^ given), min(built ^ given)
        raise ValueError(
            f"model: not the one that cfg builds ({count} tensors, such as {tensor}); allowed: model_zoo.get's"
        )
    make_way(paths, overwrite)
    kept = differences(cfg)
    kept.pop("OUTPUT_DIR", None)
    for key in ("DEVICE", "WEIGHTS"):
        kept.get("MODEL", {}).pop(key, None)
    config = yaml.safe_dump(kept, default_flow_style=None, sort_keys=False, width=120)
    save_weights(paths[0], model.state_dict(), classes=list(classes), **({"config": config} if is_file else {}))
    if not is_file:
        write_text(paths[1], config)
        write_classes(paths[2], classes)
    return paths[0]
