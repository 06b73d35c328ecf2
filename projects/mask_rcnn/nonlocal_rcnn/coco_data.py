"""Datasets in COCO's format: ``coco:ANNOTATIONS:IMAGES``, and COCO's own under ``$NLVIDEO_DATASETS/coco``.

A record is that of the core, with "height" and "width" of the image and "annotations": the objects to learn, each
``{"bbox": [x, y, w, h], "class": 0-based, "segmentation"?: polygons or RLE, "keypoints"?: [x, y, visibility, ...]}``.
Its "label" is the list of the classes in the image, so MODEL.HEAD.LOSS is "sigmoid". Classes count the categories in
the order of their ids, which may have gaps.
"""

import json
import logging
from collections import Counter
from functools import partial
from typing import Any

from nlvideo.data import DatasetCatalog, MetadataCatalog
from nlvideo.data.catalog import Record
from nlvideo.data.datasets.official import datasets_root
from nlvideo.errors import AnnotationError
from nlvideo.utils.files.file_io import PathManager, absolute_path, join_path
from nonlocal_rcnn.shapes import PRESETS, generate_shapes

_logger = logging.getLogger(__name__)

# Names of datasets -> names of the keypoints of an object; of those that have been read.
_keypoints: dict[str, list[str]] = {}


def coco_files(name: str) -> tuple[str, str]:
    """Return the annotation file and the folder of the images of a dataset; ``shapes`` is made where it is not there.

    Raises:
        ValueError: a name of another form.
    """
    kind, _, place = name.partition(":")
    if kind == "coco":
        annotations, _, images = place.rpartition(":")
        if not annotations or not images:
            raise ValueError(f"{name}: allowed: coco:ANNOTATIONS:IMAGES, a JSON file and a folder")
        return absolute_path(annotations), absolute_path(images)
    if name in _SHAPES:
        return generate_shapes(datasets_root(), *_SHAPES[name])
    if name not in _COCO:
        raise ValueError(f"{name}: not in COCO's format, allowed: coco:ANNOTATIONS:IMAGES, {', '.join(known_names())}")
    root, (annotations, images) = datasets_root() / "coco", _COCO[name]
    return str(root / "annotations" / annotations), str(root / images)


def keypoint_names(names: list[str]) -> list[str]:
    """Return the names of the keypoints of an object in datasets that have been read; empty where they have none."""
    return next((_keypoints[name] for name in names if _keypoints.get(name)), [])


def read_annotations(path: str) -> dict[str, Any]:
    """Read an annotation file and check that its parts belong together.

    Raises:
        AnnotationError: it is not in COCO's format, or of another dataset; one line.
        OSError: it cannot be read.
    """
    try:
        with PathManager.open(path, "r") as file:
            content = json.load(file)
    except ValueError as error:
        raise AnnotationError(f"{path}: not JSON: {error}") from None
    parts = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
        raise AnnotationError(f"{path}: not in COCO's format, which has the lists {', '.join(parts)}")
    known = {}
    for part, keys in (("images", ("id", "file_name", "height", "width")), ("categories", ("id", "name"))):
        for entry in content[part]:
            if not isinstance(entry, dict) or not all(key in entry for key in keys):
                raise AnnotationError(f"{path}: {part} has {entry!s:.80}, allowed: entries with {', '.join(keys)}")
        known[part] = {entry["id"] for entry in content[part]}
        if len(known[part]) < len(content[part]):
            raise AnnotationError(f"{path}: two {part} have one id, allowed: ids of their own")
    for note in content["annotations"]:
        if not isinstance(note, dict) or not _is_box(note.get("bbox")):
            raise AnnotationError(f"{path}: an annotation is {note!s:.80}, allowed: one with bbox [x, y, w, h]")
        for key, part in (("image_id", "images"), ("category_id", "categories")):
            if note.get(key) not in known[part]:
                got = f"annotation {note.get('id')} has {key} {note.get(key)!r}"
                raise AnnotationError(f"{path}: {got}, which is not in {part}: is it of another dataset?")
    return content


def load_coco(name: str) -> list[Record]:
    """Return the records of a dataset in COCO's format; its classes are in the ``MetadataCatalog`` afterwards.

    Crowds, objects without an area in the image, and outlines of less than three points are left out and counted in
    the log. An image may have no object.

    Raises:
        AnnotationError: see ``read_annotations``; or keypoints of another number.
        OSError: the annotation file cannot be read.
    """
    path, folder = coco_files(name)
    content = read_annotations(path)
    categories = sorted(content["categories"], key=lambda category: category["id"])
    classes = {category["id"]: index for index, category in enumerate(categories)}
    points = {category["id"]: list(category.get("keypoints", ())) for category in categories}
    images = {image["id"]: image for image in content["images"]}
    objects: dict[Any, list[dict[str, Any]]] = {number: [] for number in images}
    left_out: Counter[str] = Counter()
    for note in content["annotations"]:
        given, count = note.get("keypoints"), len(points[note["category_id"]])
        if given is not None and count and len(given) != 3 * count:
            wanted = f"{3 * count}: x, y and visibility of {count} points"
            raise AnnotationError(
                f"{path}: annotation {note.get('id')} has {len(given)} keypoint numbers, not {wanted}"
            )
        found = _usable(note, images[note["image_id"]])
        if isinstance(found, str):
            left_out[found] += 1
        else:
            objects[note["image_id"]].append({**found, "class": classes[note["category_id"]]})
    _keypoints[name] = next((found for found in points.values() if found), [])
    metadata = MetadataCatalog.get(name)
    metadata.classes, metadata.classes_from = [category["name"] for category in categories], path
    metadata.evaluator_type = "multilabel"
    text = ", ".join(f"{count} {what}" for what, count in left_out.items())
    empty = sum(not own for own in objects.values())
    total = sum(map(len, objects.values()))
    _logger.info("%s: %d objects, %d images without any%s", name, total, empty, f"; left out: {text}" if text else "")
    return [
        {
            "file_name": join_path(folder, image["file_name"]),
            "label": sorted({own["class"] for own in objects[number]}),
            "video_id": str(number),
            "height": image["height"],
            "width": image["width"],
            "annotations": objects[number],
        }
        for number, image in images.items()
    ]


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(value, (int, float)) for value in box)


def _usable(note: dict[str, Any], image: dict[str, Any]) -> dict[str, Any] | str:
    """What is learned of an annotation, or why nothing is."""
    if note.get("iscrowd"):
        return "crowds"
    x, y, width, height = note["bbox"]
    if min(x + width, image["width"]) <= max(x, 0) or min(y + height, image["height"]) <= max(y, 0):
        return "boxes without an area in the image"
    found = {"bbox": note["bbox"]}
    outline = note.get("segmentation")
    if isinstance(outline, list):
        outline = [polygon for polygon in outline if len(polygon) >= 6 and len(polygon) % 2 == 0]
        if not outline:
            return "outlines of less than three points"
    return {**found, **{k: v for k, v in (("segmentation", outline), ("keypoints", note.get("keypoints"))) if v}}


_COCO = {
    f"coco_2017_{split}{suffix}": (f"{prefix}_{split}2017.json", f"{split}2017")
    for split in ("train", "val")
    for suffix, prefix in (("", "instances"), ("_keypoints", "person_keypoints"))
}
_SHAPES = {f"{name}_{split}": (name, split) for name, sizes in PRESETS.items() for split in sizes}


def known_names() -> list[str]:
    """Return the names of the datasets that this project adds."""
    return [*_COCO, *_SHAPES]


DatasetCatalog.kinds["coco"] = load_coco
for _name in known_names():
    DatasetCatalog.register(_name, partial(load_coco, _name))
