"""Backbones: networks that turn clips into feature maps."""

from nlvideo.modeling.backbone.build import BACKBONE, build_backbone
from nlvideo.modeling.backbone.inflate import inflate_2d_weights
from nlvideo.modeling.backbone.resnet3d import ResNet3d

__all__ = ["BACKBONE", "ResNet3d", "build_backbone", "inflate_2d_weights"]
