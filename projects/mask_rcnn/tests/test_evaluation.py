"""COCO's metrics: pycocotools' own to the last digit, the same on several ranks, and files in COCO's format."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nonlocal_rcnn.coco_data import load_coco
from nonlocal_rcnn.evaluator import CocoEvaluator, coco_metrics
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from nlvideo.config import CfgNode
from nlvideo.engine import DefaultTrainer
from nlvideo.errors import AnnotationError
from nlvideo.utils import comm


def _outputs(name: str, keypoints: bool = False) -> list[dict[str, Any]]:
    """Detections near what is annotated, some with the wrong class, and some of nothing."""
    rng = np.random.default_rng(0)
    outputs = []
    for record in load_coco(name):
        notes = record["annotations"]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (note["bbox"] for note in notes)] + [[2.0, 2.0, 9.0, 30.0]]
        found: dict[str, torch.Tensor] = {
            "boxes": torch.tensor(boxes) + torch.from_numpy(rng.normal(0, 0.7, (len(boxes), 4))).float(),
            "labels": torch.tensor([1 + note["class"] for note in notes] + [2]),
            "scores": torch.from_numpy(rng.random(len(boxes))).float(),
        }
        if keypoints:
            points = [note["keypoints"] for note in notes] + [[4, 4, 1] * 3]
            found["keypoints"] = torch.tensor(points).view(-1, 3, 3).float() + 0.5
        else:
            masks = torch.zeros(len(boxes), 1, record["height"], record["width"])
            for mask, (x0, y0, x1, y1) in zip(masks, boxes):
                mask[0, int(y0) + 1 : int(y1) + 1, int(x0) : int(x1)] = 0.8
            found["masks"] = masks
        outputs.append({"video_id": record["video_id"], "detections": found})
    return outputs


def _inputs(outputs: list[dict[str, Any]], failed: str = "") -> list[dict[str, Any]]:
    return [{"video_id": o["video_id"], "label": [], "failed": o["video_id"] == failed} for o in outputs]


def _independent(name: str, path: Path, kind: str) -> list[float]:
    """What pycocotools prints from the two files alone."""
    truth = COCO(name.split(":")[1])
    evaluation = COCOeval(truth, truth.loadRes(str(path)), kind)
    if kind == "keypoints":
        evaluation.params.kpt_oks_sigmas = np.full(3, 0.07)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats.tolist()


@pytest.mark.parametrize("second", ["segm", "keypoints"])
def test_metrics_are_pycocotools_own(second: str, write_coco: Callable[..., str], tmp_path: Path) -> None:
    name = write_coco()
    outputs = _outputs(name, second == "keypoints")
    evaluator = CocoEvaluator(name, 2, str(tmp_path / "out"), second == "keypoints")
    evaluator.reset()
    evaluator.process(_inputs(outputs), outputs)
    results = evaluator.evaluate()
    assert list(results) == ["box", {"segm": "mask"}.get(second, second)]
    assert results["box"].pop("num_images") == 4 and results["box"].pop("num_failed") == 0
    (folder,) = (tmp_path / "out" / "inference").iterdir()
    for kind, found in zip(("bbox", second), results.values()):
        wanted = _independent(name, folder / f"{kind}.json", kind)
        assert 15 < found["AP"] < 100 or kind == "keypoints"
        assert [value for value in found.values() if not math.isnan(value)] == [100 * v for v in wanted if v >= 0]
        assert len(found) == len(wanted)
    entry = json.loads((folder / f"{second}.json").read_text())[0]
    assert entry.keys() == {"image_id", "category_id", "score", {"segm": "segmentation"}.get(second, second)}
    assert entry["image_id"] == 7 and entry["category_id"] == 3


def test_ranks_together_give_what_one_gives(write_coco: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    name = write_coco()
    outputs = _outputs(name)
    whole = CocoEvaluator(name, 2)
    whole.process(_inputs(outputs), outputs)
    ranks = [CocoEvaluator(name, 2) for _ in range(3)]
    for rank, share in zip(ranks, (outputs[2:], outputs[:1], outputs[1:2])):
        rank.process(_inputs(share), share)
    wanted = whole.evaluate()
    monkeypatch.setattr(comm, "gather_object", lambda own: [rank._images for rank in ranks])
    assert str(ranks[0].evaluate()) == str(wanted)


def test_an_image_that_cannot_be_read_has_no_detections(
    write_coco: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    name = write_coco()
    outputs = _outputs(name)
    evaluator = CocoEvaluator(name, 2)
    evaluator.process(_inputs(outputs, failed="7"), outputs[1:])
    results = evaluator.evaluate()
    assert results["box"]["num_failed"] == 1 and "1 of 4 images could not be read" in caplog.text
    evaluator.reset()
    empty = [{**o, "detections": {k: v[:0] for k, v in o["detections"].items()}} for o in outputs]
    evaluator.process(_inputs(empty), [empty[0] | {"detections": outputs[0]["detections"]}, *empty[1:]])
    # Recall cannot be more than the share of the objects in the image that was seen.
    assert evaluator.evaluate()["box"]["AR100"] < 70 > results["box"]["AR100"] > 0


def test_no_detections_at_all_are_zero(write_coco: Callable[..., str]) -> None:
    name = write_coco()
    evaluator = CocoEvaluator(name, 2)
    outputs = [{**o, "detections": {k: v[:0] for k, v in o["detections"].items()}} for o in _outputs(name)]
    evaluator.process(_inputs(outputs), outputs)
    results = evaluator.evaluate()
    assert results["box"]["AP"] == results["mask"]["AP"] == 0 and math.isnan(results["box"]["APl"])


def test_without_outlines_masks_cannot_be_tested(write_coco: Callable[..., str]) -> None:
    content = json.loads(Path(write_coco({"annotations": {"segmentation": None}}).split(":")[1]).read_text())
    with pytest.raises(AnnotationError, match="annotation 1 has no segmentation"):
        coco_metrics(content, [], "segm", [7])
    # What pycocotools asks of annotations and files may lack is filled in.
    for note in content["annotations"]:
        for key in ("num_keypoints", "area", "iscrowd"):
            del note[key]
    assert coco_metrics(content, [], "keypoints", [7])["AP"] == 0


def test_a_resumed_run_goes_on_to_the_bit(
    tiny_cfg: Callable[..., CfgNode], write_coco: Callable[..., str], tmp_path: Path
) -> None:
    name = write_coco()
    (tmp_path / "images" / "other.png").write_bytes(b"no image")
    data = {
        "DATASETS__TRAIN": [name], "DATASETS__TEST": [name], "DATALOADER__MAX_FAILED_FRACTION": 0.5,
        "MODEL__NONLOCAL__ENABLED": True, "MODEL__NONLOCAL__BLOCKS": ["layer3.0"], "SOLVER__CHECKPOINT_PERIOD": 2,
    }  # fmt: skip
    weights = {}
    for folder, ends in (("once", [4]), ("twice", [2, 4])):
        for end in ends:
            cfg = tiny_cfg(**data, OUTPUT_DIR=str(tmp_path / folder), SOLVER__MAX_ITER=4)
            # The first process of both runs starts alike, and the one that resumes does not.
            torch.manual_seed(end - ends[0])
            trainer = DefaultTrainer(cfg)
            trainer.resume_or_load(resume=end > ends[0])
            results = trainer.train(max_iter=end)
        weights[folder] = trainer.bare_model.state_dict()
        assert results["box"]["num_failed"] == 1 and list(results)[:2] == ["box", "mask"]
    assert all(torch.equal(value, weights["twice"][key]) for key, value in weights["once"].items())
    failed = json.loads((tmp_path / "twice" / "failed_videos.json").read_text())["failed"]
    assert [Path(entry["file_name"]).name for entry in failed] == ["other.png"]
