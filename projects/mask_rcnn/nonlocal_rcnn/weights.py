"""Weights of torchvision under the names of its detectors of today."""

import re
from typing import Any

import torch

# Names in files of before torchvision 0.13, and what they are now.
_RENAMED = (
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
)
_MASK_LAYER = re.compile(r"^roi_heads\.mask_head\.mask_fcn(\d+)\.(weight|bias)$")
# The tensors with a row, or four rows, for each class and the background.
_ROWS_PER_CLASS = {
    "roi_heads.box_predictor.cls_score": 1,
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_predictor.mask_fcn_logits": 1,
}
# COCO's ids run to 90, and 80 of them are in use. torchvision's detectors of COCO count the ids.
_NUM_IDS = 90
_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


def rename_weights(weights: dict[str, Any], num_classes: int) -> dict[str, Any]:
    """Give weights of torchvision the names of a detector; return others as they are.

    A ResNet for ImageNet becomes the body of the backbone, and its classifier is left out. Detectors of COCO for the 90
    ids of its categories become detectors of the 80 that are in use where the model has 80 classes.

    Args:
        weights: name -> tensor, and perhaps texts.
        num_classes: of the model, without the background.
    """
    if "layer1.0.conv1.weight" in weights:
        return {f"backbone.body.{name}": value for name, value in weights.items() if not name.startswith("fc.")}
    if "backbone.body.conv1.weight" not in weights:
        return weights
    renamed = {_name_now(name): value for name, value in weights.items()}
    if num_classes != _NUM_IDS - len(_UNUSED_IDS):
        return renamed
    used = [number for number in range(_NUM_IDS + 1) if number not in _UNUSED_IDS]
    for layer, rows in _ROWS_PER_CLASS.items():
        for name in (f"{layer}.weight", f"{layer}.bias"):
            value = renamed.get(name)
            if isinstance(value, torch.Tensor) and len(value) == rows * (_NUM_IDS + 1):
                renamed[name] = value.unflatten(0, (-1, rows))[used].flatten(0, 1)
    return renamed


def _name_now(name: str) -> str:
    for pattern, new in _RENAMED:
        name = pattern.sub(new, name)
    return _MASK_LAYER.sub(lambda found: f"roi_heads.mask_head.{int(found[1]) - 1}.0.{found[2]}", name)
