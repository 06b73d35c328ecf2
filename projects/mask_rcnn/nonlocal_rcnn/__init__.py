"""Mask R-CNN and keypoint detection with non-local blocks (Tables 5 and 6), on torchvision's detectors."""

from nlvideo.config import CfgNode
from nonlocal_rcnn.coco_data import load_coco
from nonlocal_rcnn.evaluator import CocoEvaluator
from nonlocal_rcnn.mapper import DetectionMapper
from nonlocal_rcnn.model import KeypointRCNN, MaskRCNN
from nonlocal_rcnn.sampler import AspectRatioSampler

__all__ = [
    "AspectRatioSampler",
    "CocoEvaluator",
    "DetectionMapper",
    "KeypointRCNN",
    "MaskRCNN",
    "add_config",
    "load_coco",
]


def add_config(cfg: CfgNode) -> None:
    """Add the keys of this project, before the YAML is merged."""
    node = cfg.MODEL.RCNN = CfgNode()
    # Channels of the feature pyramid and of the mask head. The box head has four times, the keypoint head twice.
    node.CHANNELS = 256
    # Sides of the anchors in pixels, one for each level of the pyramid (Mask R-CNN).
    node.ANCHOR_SIZES = [32, 64, 128, 256, 512]
    # Keypoints of an object (COCO's persons: 17).
    node.NUM_KEYPOINTS = 17
    # The long side of an image is at most this, in pixels; the short side is then shorter than asked for.
    node.MAX_SIZE = 1333
    # Added to the variance of frozen norms. torchvision's detectors COCO_V1 are made for 0.
    node.FROZEN_EPS = 1e-5
    # [name, value] pairs: numbers that torchvision's FasterRCNN takes, e.g. [["box_batch_size_per_image", 64]].
    node.ARGS = []
