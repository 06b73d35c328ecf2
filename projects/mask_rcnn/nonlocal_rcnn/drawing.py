"""Pictures of detections: boxes with class and score, masks, skeletons; and where a place in a box attends."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn
from torchvision.transforms.v2 import functional as transforms

from nlvideo.modeling.nonlocal_block.summary import nonlocal_modules
from nlvideo.utils.messages import check_one_of
from nlvideo.visualization import AttentionMaps, attend
from nlvideo.visualization.drawing import RGB, LineLayer, font
from nonlocal_rcnn.mapper import resized_size

# One colour for each class, and again from the first.
_COLOURS: tuple[RGB, ...] = (
    (255, 196, 0), (0, 190, 255), (255, 90, 90), (120, 220, 80), (200, 120, 255), (255, 150, 60), (90, 255, 210),
)  # fmt: skip
_MASK_OPACITY, _TEXT = 0.45, 13
# COCO's skeleton of a person: pairs of its 17 keypoints, from 0.
_PERSON = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10), (1, 2),
    (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip


@torch.no_grad()
def detect(model: nn.Module, image: torch.Tensor, threshold: float = 0.5) -> dict[str, torch.Tensor]:
    """Return the detections of an image, uint8 (3, H, W), with a score of at least ``threshold``, best first."""
    found = model.eval()([{"image": image, "video_id": ""}])[0]["detections"]
    keep = found["scores"] >= threshold
    return {name: value[keep] for name, value in found.items()}


def draw_detections(image: torch.Tensor, found: dict[str, torch.Tensor], classes: Sequence[str]) -> Image.Image:
    """Draw detections on an image.

    Args:
        image: uint8 (3, H, W).
        found: torchvision's detections, with "masks" or "keypoints" or neither.
        classes: names in the order of the classes; a class without a name is shown by its number.
    """
    pixels = image.permute(1, 2, 0).cpu().numpy().astype(np.float32)
    labels = [label - 1 for label in found["labels"].tolist()]
    colours = [_COLOURS[label % len(_COLOURS)] for label in labels]
    # The best comes last, over the others.
    order = range(len(labels))[::-1]
    for index in order if "masks" in found else ():
        inside = found["masks"][index, 0].numpy() >= 0.5
        pixels[inside] = (1 - _MASK_OPACITY) * pixels[inside] + _MASK_OPACITY * np.array(colours[index], np.float32)
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    layer = LineLayer(picture.size)
    for index in order:
        x0, y0, x1, y1 = found["boxes"][index].tolist()
        layer.box((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)), colours[index], 1.5)
    picture = layer.over(picture)
    draw = ImageDraw.Draw(picture)
    for index in order:
        if "keypoints" in found:
            _draw_skeleton(draw, found["keypoints"][index].tolist(), colours[index])
        name = classes[labels[index]] if labels[index] < len(classes) else str(labels[index])
        x, y = found["boxes"][index][:2].tolist()
        text = f"{name} {found['scores'][index]:.2f}"
        place = (x + 2, max(0.0, y - _TEXT - 3))
        draw.rectangle(draw.textbbox(place, text, font=font(_TEXT)), fill=(16, 16, 20))
        draw.text(place, text, fill=colours[index], font=font(_TEXT))
    return picture


def _draw_skeleton(draw: Any, points: list[list[float]], colour: RGB) -> None:
    # Of other objects each point is joined to the next one.
    pairs = _PERSON if len(points) == 17 else [(i, (i + 1) % len(points)) for i in range(len(points))]
    for one, other in pairs:
        draw.line([*points[one][:2], *points[other][:2]], fill=colour, width=2)
    for x, y, *_ in points:
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=(255, 255, 255), outline=(16, 16, 20))


def attention_in_box(model: Any, image: torch.Tensor, box: Sequence[float], block: str | None = None) -> AttentionMaps:
    """Say where the middle of a box attends in an image, for the core's `draw_film_strip`.

    The frame of the maps shows the image in the size in which the network sees it, and the box. Keys in the padding of
    the image are left out.

    Args:
        model: a `RegionDetector` with a non-local block in its backbone.
        image: uint8 (3, H, W).
        box: (x0, y0, x1, y1) in the image, pixels.
        block: place of the block in the backbone, such as "layer3.4"; None: the first.

    Raises:
        ValueError: the backbone has no such block. The map of a block in a head is of a box, not of the image.
    """
    size = resized_size(tuple(image.shape[1:]), model.transform.min_size[-1], model.transform.max_size)
    seen = transforms.resize(image, size, antialias=False)
    x0, y0, x1, y1 = (v * size[1 - i % 2] / image.shape[2 - i % 2] for i, v in enumerate(box))
    middle = [
        round(min(max((low + high) / 2, 0), most - 1), 1) for low, high, most in ((y0, y1, size[0]), (x0, x1, size[1]))
    ]
    start, end = "backbone.body.", ".nonlocal_block"
    places = [n.removeprefix(start).removesuffix(end) for n in nonlocal_modules(model) if n.startswith(start)]
    if not places:
        raise ValueError("the backbone has no non-local block: there is no attention in an image to show")
    check_one_of("block", block or places[0], places)
    maps = attend(model, seen[:, None], f"{start}{block or places[0]}{end}", [(0, *middle)])
    layer = LineLayer((size[1], size[0]))
    layer.box((x0, y0, x1, y1), _COLOURS[1], 1.5)
    shown = layer.over(Image.fromarray(maps.frames[0]))
    # The network pads images to multiples of 32 pixels. What lies in the padding is not in the picture.
    cells = [math.ceil(length / stride) for length, stride in zip(size, maps.keys.stride[1:], strict=True)]
    keys = dataclasses.replace(maps.keys, size=(1, *cells))
    weights = maps.weights[..., : cells[0], : cells[1]]
    return dataclasses.replace(maps, frames=np.array(shown)[None], keys=keys, weights=weights)
