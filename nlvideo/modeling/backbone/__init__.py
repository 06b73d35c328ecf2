"""Backbones: networks that turn clips into feature maps."""

from nlvideo.modeling.backbone.inflate import inflate_2d_weights
from nlvideo.modeling.backbone.resnet3d import BACKBONE, ResNet3d, build_backbone

__all__ = ["BACKBONE", "ResNet3d", "build_backbone", "inflate_2d_weights"]
