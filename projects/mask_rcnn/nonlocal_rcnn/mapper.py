"""From a record of a dataset in COCO's format to an image and, in training, the target of torchvision's detectors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as transforms

from nlvideo.config import CfgNode, configurable
from nlvideo.data import MAPPER, VideoDecodeError
from nlvideo.data.catalog import Record
from nlvideo.data.video.pixels import DEFAULT_LIMITS, PixelLimits
from nlvideo.utils.files.file_io import PathManager
from nonlocal_rcnn.coco_data import keypoint_names

# What of a target torchvision's transforms move by its type.
_MOVED: tuple[str, ...] = ("boxes", "masks")


def mask_api() -> Any:
    """Return ``pycocotools.mask``; ImportError with what to install where there is none."""
    try:
        from pycocotools import mask
    except ImportError:
        raise ImportError("masks and COCO's metrics need pycocotools: pip install 'nlvideo[coco]'") from None
    return mask


def read_image(path: str, size: tuple[int, int] | None = None, limits: PixelLimits = DEFAULT_LIMITS) -> torch.Tensor:
    """Read an image as uint8 (3, H, W), turned by its EXIF tag where only then it has the ``size`` (height, width).

    Raises:
        VideoDecodeError: it cannot be read, is larger than the limits allow, or has another size.
    """
    try:
        with PathManager.open(path, "rb") as file, Image.open(file) as image:
            limits.check_frame(path, image.height, image.width)
            turned = image if size in (None, (image.height, image.width)) else ImageOps.exif_transpose(image)
            pixels = np.array(turned.convert("RGB"))
    # Pillow raises these for damaged files, by format.
    except (OSError, SyntaxError, ValueError, IndexError, Image.DecompressionBombError) as error:
        raise VideoDecodeError(path, " ".join(str(error).split()) or type(error).__name__) from None
    if size not in (None, pixels.shape[:2]):
        given, wanted = ("x".join(map(str, sides)) for sides in (pixels.shape[:2], size or ()))
        raise VideoDecodeError(path, f"an image of {given} (height x width), its annotations are for {wanted}")
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


@MAPPER.register()
class DetectionMapper:
    """An image whole, and in training flipped and resized at random, with boxes and masks or keypoints.

    A training image draws from its generator in the order flip, short side. At test the model resizes it.

    Args:
        is_train: for training; False: for test.
        short_side_range: [smallest, largest] short side in training, pixels.
        max_size: of the long side, pixels.
        flip_prob: probability of a mirrored image, in training.
        keypoints: names of the keypoints of an object; ``left_...`` and ``right_...`` change places in a mirror. None:
            targets have masks in place of keypoints.
        pixels: the largest image.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        short_side_range: Sequence[int] = (800, 800),
        max_size: int = 1333,
        flip_prob: float = 0.5,
        keypoints: Sequence[str] | None = None,
        pixels: PixelLimits = DEFAULT_LIMITS,
    ):
        self.is_train, self.short_side_range, self.max_size = is_train, tuple(short_side_range), max_size
        self.flip_prob, self.pixels = flip_prob, pixels
        self.mirrored = None if keypoints is None else [_partner(name, keypoints) for name in keypoints]
        if keypoints is None and is_train:
            mask_api()  # so that what is missing is an error here and not in a worker

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool) -> dict[str, Any]:
        """Return the constructor's arguments.

        Raises:
            ValueError: clips are to be mixed, or the training data has another number of keypoints than the model.
        """
        mix, wanted, keypoints = cfg.SOLVER.MIX, cfg.MODEL.RCNN.NUM_KEYPOINTS, None
        if (mix.MIXUP_ALPHA or mix.CUTMIX_ALPHA) and mix.PROB:
            raise ValueError("SOLVER.MIX.PROB: got a mix of clips, allowed for detection: 0, no mix")
        if cfg.MODEL.META_ARCHITECTURE == "KeypointRCNN" and is_train:
            keypoints = keypoint_names(cfg.DATASETS.TRAIN)
            if len(keypoints) != wanted:
                allowed = f"{len(keypoints)}, the keypoints in {', '.join(cfg.DATASETS.TRAIN)}"
                raise ValueError(f"MODEL.RCNN.NUM_KEYPOINTS: got {wanted}, allowed: {allowed}")
        return {
            "is_train": is_train,
            "short_side_range": cfg.INPUT.SHORT_SIDE_RANGE,
            "max_size": cfg.MODEL.RCNN.MAX_SIZE,
            "flip_prob": cfg.INPUT.FLIP_PROB,
            "keypoints": keypoints,
            "pixels": PixelLimits(cfg.DATALOADER.MAX_FRAME_PIXELS),
        }

    def __call__(self, record: Record, rng: np.random.Generator | None) -> dict[str, Any]:
        if "annotations" not in record:
            raise ValueError(f"{record['file_name']}: a record without annotations, allowed: those of COCO's format")
        size = record["height"], record["width"]
        image = read_image(record["file_name"], size, self.pixels)
        sample = {"image": image, "label": record["label"], "video_id": record["video_id"]}
        if not self.is_train:
            return sample
        assert rng is not None, "a mapper for training needs a random generator"
        target = self._target(record, size)
        if rng.random() < self.flip_prob:
            image, target = self._flip(image, target)
        side = int(rng.integers(self.short_side_range[0], self.short_side_range[1] + 1))
        return {**sample, **self._resize(image, target, side)}

    @staticmethod
    def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Make {"images": list of uint8 (3, H, W), "targets": list of dicts} of samples."""
        return {"images": [sample["image"] for sample in samples], "targets": [sample["target"] for sample in samples]}

    def _target(self, record: Record, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        notes, (height, width) = record["annotations"], size
        boxes = torch.tensor([note["bbox"] for note in notes], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        target: dict[str, torch.Tensor] = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.tensor([note["class"] + 1 for note in notes], dtype=torch.int64),
        }
        if self.mirrored is None:
            masks = [_mask(note.get("segmentation"), record) for note in notes]
            target["masks"] = tv_tensors.Mask(torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.uint8))
        else:
            none = [0] * 3 * len(self.mirrored)
            points = torch.tensor([note.get("keypoints", none) for note in notes], dtype=torch.float32)
            target["keypoints"] = points.view(-1, len(self.mirrored), 3)
        return target

    def _flip(
        self, image: torch.Tensor, target: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        changed = {name: transforms.horizontal_flip(target[name]) for name in _MOVED if name in target}
        if self.mirrored is not None:
            points = target["keypoints"][:, self.mirrored].clone()
            points[..., 0] = torch.where(points[..., 2] > 0, image.shape[2] - points[..., 0], points[..., 0])
            changed["keypoints"] = points
        return transforms.horizontal_flip(image), {**target, **changed}

    def _resize(self, image: torch.Tensor, target: dict[str, torch.Tensor], side: int) -> dict[str, Any]:
        before = tuple(image.shape[1:])
        after = resized_size(before, side, self.max_size)
        # Without antialiasing, as the model resizes test images.
        changed = {name: transforms.resize(target[name], after) for name in _MOVED if name in target}
        if "keypoints" in target:
            factors = torch.tensor([after[1] / before[1], after[0] / before[0], 1.0])
            changed["keypoints"] = target["keypoints"] * factors
        image = transforms.resize(image, after, antialias=False)
        target = {name: value.as_subclass(torch.Tensor) for name, value in {**target, **changed}.items()}
        # A box may be less than a pixel wide, but not of no width.
        target["boxes"][:, 2:] = torch.maximum(target["boxes"][:, 2:], target["boxes"][:, :2] + 1e-2)
        return {"image": image, "target": target}


def resized_size(size: tuple[int, ...], side: int, max_size: int) -> list[int]:
    """Return (height, width) of an image whose short side becomes ``side``, and its long side ``max_size`` at most."""
    scale = min(side / min(size), max_size / max(size))
    return [max(1, int(length * scale)) for length in size]


def _partner(name: str, names: Sequence[str]) -> int:
    """The keypoint that has the place of ``name`` in a mirror."""
    for one, other in (("left_", "right_"), ("right_", "left_")):
        if name.startswith(one) and (found := other + name.removeprefix(one)) in names:
            return list(names).index(found)
    return list(names).index(name)


def _mask(outline: Any, record: Record) -> torch.Tensor:
    """Polygons, or runs of pixels, as uint8 (H, W)."""
    if outline is None:
        raise ValueError(f"{record['file_name']}: an object has no segmentation, which MaskRCNN learns from")
    api, size = mask_api(), (record["height"], record["width"])
    try:
        if isinstance(outline, list):
            runs = api.merge(api.frPyObjects(outline, *size))
        else:
            runs = outline if isinstance(outline["counts"], (str, bytes)) else api.frPyObjects(outline, *size)
        mask = api.decode(runs)
    except Exception as error:
        raise ValueError(f"{record['file_name']}: a segmentation of an unknown form: {error}") from None
    if mask.shape != size:
        raise ValueError(f"{record['file_name']}: a segmentation for {mask.shape}, the image is {size}")
    return torch.from_numpy(mask)
