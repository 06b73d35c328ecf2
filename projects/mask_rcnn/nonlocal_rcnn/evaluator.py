"""COCO's average precision of boxes, masks and keypoints, by pycocotools."""

import contextlib
import io
import logging
import os
import re
from typing import Any

import numpy as np
import torch

from nlvideo.config import CfgNode, configurable
from nlvideo.errors import AnnotationError
from nlvideo.evaluation import EVALUATOR
from nlvideo.evaluation.evaluator import Evaluator
from nlvideo.utils import comm
from nlvideo.utils.files.file_io import PathManager, write_json
from nlvideo.utils.messages import some
from nonlocal_rcnn.coco_data import coco_files, read_annotations
from nonlocal_rcnn.mapper import mask_api

_logger = logging.getLogger(__name__)

# The tasks by what COCO calls them, and what COCO prints of each, in percent here.
TASKS = {"bbox": "box", "segm": "mask", "keypoints": "keypoints"}
_METRICS = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"),
}
_METRICS["segm"] = _METRICS["bbox"]
# Of COCO's 17 keypoints of a person pycocotools knows how exactly people mark them. Others get about the mean of these.
_OTHER_SIGMA = 0.07


@EVALUATOR.register()
class CocoEvaluator(Evaluator):
    """COCO's metrics, computed once from the detections of all ranks; an image that cannot be read has none.

    Every image counts once, whatever the number of ranks. Detections go to
    ``<output_dir>/inference/<dataset_name>/<task>.json`` in COCO's format of results.

    Args:
        dataset_name: a dataset in COCO's format.
        num_classes: of the model.
        output_dir: None: no files.
        has_keypoints: the model detects keypoints and no masks.
    """

    @configurable
    def __init__(self, dataset_name: str, num_classes: int, output_dir: str | None = None, has_keypoints: bool = False):
        super().__init__(dataset_name, num_classes)
        self.output_dir, self.kinds = output_dir, ("bbox", "keypoints" if has_keypoints else "segm")
        mask_api()  # so that what is missing is an error before the test
        self.reset()

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset_name: str, num_classes: int) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = {"output_dir": cfg.OUTPUT_DIR, "has_keypoints": cfg.MODEL.META_ARCHITECTURE == "KeypointRCNN"}
        return {**super().from_config(cfg, dataset_name, num_classes), **own}

    def reset(self) -> None:
        """Forget all images."""
        # The id of each image -> its detections, by task, or None where it could not be read.
        self._images: dict[str, dict[str, list[dict[str, Any]]] | None] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the detections of some images, masks as runs of pixels."""
        for image in inputs:
            self._images[image["video_id"]] = None
        for output in outputs:
            self._images[output["video_id"]] = self._detections(output["detections"])

    def _detections(self, found: dict[str, torch.Tensor]) -> dict[str, list[dict[str, Any]]]:
        boxes = found["boxes"].double()
        boxes[:, 2:] -= boxes[:, :2]
        columns = found["labels"].tolist(), found["scores"].tolist()
        common = [{"class": label - 1, "score": score} for label, score in zip(*columns, strict=True)]
        values: dict[str, Any] = {"bbox": boxes.tolist()}
        if "keypoints" in self.kinds:
            values["keypoints"] = found["keypoints"].flatten(1).tolist()
        else:
            masks = (found["masks"][:, 0] >= 0.5).permute(1, 2, 0).to(torch.uint8).numpy()
            runs = mask_api().encode(np.asfortranarray(masks)) if len(common) else []
            values["segm"] = [{"size": list(run["size"]), "counts": run["counts"].decode()} for run in runs]
        key = {"segm": "segmentation"}
        return {
            kind: [{**own, key.get(kind, kind): value} for own, value in zip(common, values[kind], strict=True)]
            for kind in self.kinds
        }

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Gather the detections of all ranks and compute COCO's metrics on rank 0; ``{}`` elsewhere.

        Raises:
            ValueError: there was no image.
            AnnotationError: see ``read_annotations``.
        """
        gathered = comm.gather_object(self._images)
        if not comm.is_main_process():
            return {}
        images = {number: found for part in gathered for number, found in part.items()}
        if not images:
            raise ValueError(f"dataset {self.dataset_name!r}: no image was evaluated")
        content = read_annotations(coco_files(self.dataset_name)[0])
        # As in the file, in its order: neither depends on the number of ranks.
        ids = {str(image["id"]): image["id"] for image in content["images"] if str(image["id"]) in images}
        categories = sorted(category["id"] for category in content["categories"])
        failed = [number for number in ids if images[number] is None]
        if failed:
            text = "%s: %d of %d images could not be read and count as images without detections: %s"
            _logger.warning(text, self.dataset_name, len(failed), len(ids), some(failed, 20))
        metrics = {}
        for kind in self.kinds:
            results = [
                {"image_id": ids[number], "category_id": categories[found["class"]],
                 **{name: value for name, value in found.items() if name != "class"}}
                for number in ids for found in (images[number] or {}).get(kind, ())
                if found["class"] < len(categories)
            ]  # fmt: skip
            self._write(kind, results)
            metrics[TASKS[kind]] = coco_metrics(content, results, kind, list(ids.values()))
        metrics["box"] |= {"num_images": len(ids), "num_failed": len(failed)}
        return metrics

    def _write(self, kind: str, results: list[dict[str, Any]]) -> None:
        if self.output_dir is None:
            return
        folder = re.sub(r"[^\w.-]+", "_", self.dataset_name).strip("_")
        path = os.path.join(self.output_dir, "inference", folder, f"{kind}.json")
        PathManager.mkdirs(os.path.dirname(path))
        write_json(path, results)
        _logger.info("Wrote %d detections to %s", len(results), path)


def coco_metrics(
    content: dict[str, Any], results: list[dict[str, Any]], kind: str, image_ids: list[Any]
) -> dict[str, float]:
    """Return what pycocotools computes from results in COCO's format, in percent; NaN where nothing is annotated.

    Args:
        content: of the annotation file.
        results: in COCO's format of results.
        kind: "bbox", "segm" or "keypoints".
        image_ids: the images that count.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = _completed(content, kind)
    # pycocotools prints what it does.
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        if results:
            found = truth.loadRes([dict(result) for result in results])
        else:
            found = COCO()
            found.dataset = {**content, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, kind)
        evaluation.params.imgIds = image_ids
        if kind == "keypoints" and (count := _num_keypoints(content)) != len(evaluation.params.kpt_oks_sigmas):
            evaluation.params.kpt_oks_sigmas = np.full(count, _OTHER_SIGMA)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = zip(_METRICS[kind], evaluation.stats.tolist(), strict=True)
    return {name: 100 * value if value >= 0 else float("nan") for name, value in values}


def _completed(content: dict[str, Any], kind: str) -> dict[str, Any]:
    """The annotations with what pycocotools asks of each, where it can be said from the others."""
    notes = []
    for number, note in enumerate(content["annotations"], start=1):
        note = {"id": number, "iscrowd": 0, "area": note["bbox"][2] * note["bbox"][3], **note}
        if kind == "segm" and "segmentation" not in note:
            raise AnnotationError(f"annotation {note['id']} has no segmentation, which a test of masks needs")
        if kind == "keypoints":
            note = {"keypoints": [0, 0, 0] * _num_keypoints(content), **note}
            note = {"num_keypoints": sum(v > 0 for v in note["keypoints"][2::3]), **note}
        notes.append(note)
    return {**content, "annotations": notes}


def _num_keypoints(content: dict[str, Any]) -> int:
    return max((len(category.get("keypoints", ())) for category in content["categories"]), default=0)
