"""A small dataset in COCO's format, and small detectors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nlvideo.config import CfgNode, load_cfg
from nlvideo.utils.plugins import load_plugin

PROJECT = Path(__file__).resolve().parents[1]
load_plugin(str(PROJECT))

NAMES = ["nose", "left_hand", "right_hand"]


def _note(number: int, image: int, box: list[float], category: int = 3, **more: Any) -> dict[str, Any]:
    x, y, w, h = box
    square = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    points = [x + 1, y + 1, 2, x + 2, y + 4, 1, 0, 0, 0]
    fixed = {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": w * h, "iscrowd": 0}
    return {**fixed, "segmentation": square, "keypoints": points, "num_keypoints": 2, **more}


def coco_content() -> dict[str, Any]:
    """Four images, wide and tall; two categories whose ids have a gap; each kind of outline; one image of nothing."""
    crowd = {"size": [40, 60], "counts": [0, 100, 2300]}
    return {
        "images": [
            {"id": 7, "file_name": "wide.png", "height": 40, "width": 60},
            {"id": 2, "file_name": "tall.png", "height": 60, "width": 40},
            {"id": 11, "file_name": "empty.png", "height": 40, "width": 60},
            {"id": 5, "file_name": "other.png", "height": 44, "width": 60},
        ],
        "annotations": [
            _note(1, 7, [10, 8, 20, 16]),
            _note(
                2,
                7,
                [35, 10, 12, 12],
                8,
                segmentation={"size": [40, 60], "counts": [40 * 35 + 10, 12, 28, 12, 28, 12, 898]},
            ),
            _note(3, 7, [0, 0, 20, 10], 8, iscrowd=1, segmentation=crowd),
            _note(4, 2, [5, 20, 16, 16], keypoints=[0] * 9, num_keypoints=0),
            _note(5, 2, [20, 20, 0, 8]),
            _note(6, 2, [45, 20, 6, 8]),
            _note(7, 5, [30, 20, 16, 14], segmentation=[[30, 20, 46, 20, 30, 34], [1, 2, 3, 4]]),
            _note(8, 5, [3, 3, 10, 9], 8),
        ],
        "categories": [{"id": 8, "name": "cat"}, {"id": 3, "name": "person", "keypoints": NAMES}],
    }


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., str]:
    """``write_coco({part: entries})`` writes the dataset and returns its name.

    The first entry of a part has these entries, without those of None; None: the dataset lacks the part.
    """
    folder = tmp_path / "images"
    folder.mkdir()
    for image in coco_content()["images"]:
        pixels = np.random.default_rng(image["id"]).integers(0, 256, (image["height"], image["width"], 3), np.uint8)
        Image.fromarray(pixels).save(folder / image["file_name"])

    def write(changes: dict[str, dict[str, Any] | None] | None = None) -> str:
        """Write it."""
        content = coco_content()
        for part, entries in (changes or {}).items():
            if entries is None:
                del content[part]
                continue
            first = {**content[part][0], **entries}
            content[part][0] = {key: value for key, value in first.items() if value is not None}
        (tmp_path / "notes.json").write_text(json.dumps(content))
        return f"coco:{tmp_path}/notes.json:{folder}"

    return write


@pytest.fixture
def tiny_cfg(tmp_path: Path) -> Callable[..., CfgNode]:
    """``tiny_cfg(KEY=value, ...)``, dots of keys as double underscores: a detector of few channels on the CPU."""

    def make(**changes: Any) -> CfgNode:
        """Make it."""
        fixed = {
            "MODEL__DEVICE": "cpu", "MODEL__RCNN__CHANNELS": 8, "INPUT__SHORT_SIDE_RANGE": [40, 48],
            "INPUT__CROP_SIZE": 40, "TEST__SHORT_SIDE": 40, "SOLVER__CLIPS_PER_BATCH": 2, "SOLVER__WARMUP_ITERS": 0,
            "DATASETS__TEST": [], "OUTPUT_DIR": str(tmp_path / "out"),
        }  # fmt: skip
        words = [(key.replace("__", "."), str(value)) for key, value in {**fixed, **changes}.items()]
        return load_cfg(str(PROJECT / "configs" / "shapes.yaml"), [word for pair in words for word in pair])

    return make
