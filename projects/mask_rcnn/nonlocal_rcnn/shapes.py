"""The "shapes" dataset: small images whose objects have a class that something far away decides.

A lamp in one corner is yellow or cyan, and this is the class of every object in the image: a disc, a square or a
triangle of any dim colour with a white rim. Every object is at least `FAR` pixels from the middle of the lamp, which is
about as far as the small backbone of the configs sees. So a network must relate distant places to tell the classes
apart, while a rim alone says where an object is. Images are wide or tall in turn. The files are made on first use, in
COCO's format, with masks and three keypoints of each object.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from iopath.common.file_io import file_lock
from PIL import Image

from nlvideo.utils.files.file_io import write_text

_logger = logging.getLogger(__name__)

# Raised whenever the same numbers would give other images, so that an old folder is noticed.
_VERSION = 3
#: Images of each split: of the dataset to measure on, and of one that is made in a moment to try things on.
PRESETS = {"shapes": {"train": 800, "val": 200}, "shapes_tiny": {"train": 8, "val": 6}}
#: Sides of an image, and the least distance of an object from the lamp, pixels.
SIDES, FAR = (128, 192), 116.0
CLASSES, KINDS = ("yellow", "cyan"), ("disc", "square", "triangle")
KEYPOINTS = ("top", "left_foot", "right_foot")
_COLOURS = np.array([(255, 225, 40), (40, 220, 255)], np.uint8)
_LAMP_RADIUS, _RADII, _RIM = 16, (10, 16), 3
# The lamp alone is bright and coloured, so that its colour is there to be found.
_WHITE, _DIM, _MOST_OBJECTS, _TRIES = 255, 160, 3, 60


class Shape(NamedTuple):
    """An object: its kind, its centre and its radius in pixels."""

    kind: str
    x: float
    y: float
    radius: float


def generate_shapes(root: Path, name: str, split: str) -> tuple[str, str]:
    """Make a split of a preset in ``root/name``, unless it is there already; return its annotations and its images.

    An interrupted run leaves nothing, and of several processes that start together one makes it while the others wait.

    Raises:
        ValueError: the folder holds something else; it is never overwritten.
    """
    root, count = root / name, PRESETS[name][split]
    folder, annotations = root / split, root / f"{split}.json"
    if not _is_complete(annotations):
        root.mkdir(parents=True, exist_ok=True)
        with file_lock(str(annotations)):
            if not _is_complete(annotations):
                _logger.info("Making %d images of shapes, once, in %s", count, folder)
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                write_text(annotations, json.dumps(_make(folder, split, count)))
    return str(annotations), str(folder)


def _is_complete(annotations: Path) -> bool:
    if not annotations.exists():
        return False
    found = json.loads(annotations.read_text(encoding="utf8")).get("info", {})
    if found != {"description": "shapes", "version": _VERSION}:
        raise ValueError(f"{annotations} is of another dataset, or of another version of shapes ({found}): remove it")
    return True


def _make(folder: Path, split: str, count: int) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for index in range(count):
        pixels, lamp, shapes = draw_scene(np.random.default_rng([split == "val", index]), index % 2 == 1)
        name = f"{index:04d}.png"
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": index + 1, "file_name": name, "height": len(pixels), "width": pixels.shape[1]})
        for shape in shapes:
            note = {"id": len(notes) + 1, "image_id": index + 1, "category_id": 1 + lamp}
            notes.append({**note, **annotate(shape, pixels.shape[:2])})
    names = {"keypoints": list(KEYPOINTS), "skeleton": [[1, 2], [2, 3], [3, 1]]}
    return {
        "info": {"description": "shapes", "version": _VERSION},
        "images": images,
        "annotations": notes,
        "categories": [{"id": number, "name": name, **names} for number, name in enumerate(CLASSES, start=1)],
    }


def draw_scene(rng: np.random.Generator, is_tall: bool) -> tuple[np.ndarray, int, list[Shape]]:
    """Return an image, uint8 (H, W, 3), the colour of its lamp and its objects."""
    height, width = SIDES[::-1] if is_tall else SIDES
    pixels = rng.integers(70, 110, (height, width, 3))
    lamp, margin = int(rng.integers(2)), _LAMP_RADIUS + 2
    lamp_x, lamp_y = rng.choice([margin, width - margin]), rng.choice([margin, height - margin])
    rows, columns = np.mgrid[:height, :width] + 0.5
    pixels[np.hypot(columns - lamp_x, rows - lamp_y) <= _LAMP_RADIUS] = _COLOURS[lamp]
    shapes: list[Shape] = []
    wanted = int(rng.integers(1, _MOST_OBJECTS + 1))
    for _ in range(_TRIES):
        radius = float(rng.uniform(*_RADII))
        x, y = (float(rng.uniform(radius + 1, side - radius - 1)) for side in (width, height))
        apart = all(np.hypot(x - s.x, y - s.y) > radius + s.radius + 4 for s in shapes)
        if len(shapes) < wanted and apart and np.hypot(x - lamp_x, y - lamp_y) >= FAR + radius:
            shapes.append(Shape(str(rng.choice(KINDS)), x, y, radius))
            pixels[shape_mask(shapes[-1], (height, width))] = _WHITE
            pixels[shape_mask(shapes[-1]._replace(radius=radius - _RIM), (height, width))] = rng.integers(0, _DIM, 3)
    return pixels.astype(np.uint8), lamp, shapes


def corners(shape: Shape) -> list[tuple[float, float]]:
    """Return the corners (x, y) of a square or of a triangle, clockwise from the top left or the top."""
    r, x, y = shape.radius, shape.x, shape.y
    if shape.kind == "square":
        return [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]
    return [(x, y - r), (x + r, y + r), (x - r, y + r)]


def shape_mask(shape: Shape, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels of an object, bool (H, W)."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    if shape.kind == "disc":
        return np.hypot(columns - shape.x, rows - shape.y) <= shape.radius
    inside = np.ones(size, bool)
    points = corners(shape)
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        inside &= (x1 - x0) * (rows - y0) - (y1 - y0) * (columns - x0) >= 0
    return inside


def annotate(shape: Shape, size: tuple[int, int]) -> dict[str, Any]:
    """Return what an annotation says of an object: discs have runs of pixels as their mask, the others polygons."""
    mask = shape_mask(shape, size)
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    left, top = int(columns[0]), int(rows[0])
    r, x, y = (round(value, 2) for value in (shape.radius, shape.x, shape.y))
    feet = 0.7 * r if shape.kind == "disc" else r
    points = [(x, y - r), (x - feet, y + feet), (x + feet, y + feet)]
    outline: Any = [[round(value, 2) for corner in corners(shape) for value in corner]]
    if shape.kind == "disc":
        # COCO counts down the columns, pixels outside first.
        flat = mask.flatten(order="F")
        changes = np.flatnonzero(np.diff(flat, prepend=False)).tolist()
        outline = {"size": list(size), "counts": np.diff([0, *changes, flat.size]).tolist()}
    return {
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": outline,
        "keypoints": [round(value, 2) for point in points for value in (*point, 2)],
        "num_keypoints": len(points),
    }
