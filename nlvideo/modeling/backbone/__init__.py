"""Backbones: networks that turn clips into feature maps."""

from nlvideo.modeling.backbone.inflate import inflate_2d_weights
from nlvideo.modeling.backbone.resnet3d import BACKBONE, ResNet3d, build_backbone, freeze_stages
from nlvideo.modeling.backbone.slowfast import SlowFast
from nlvideo.modeling.backbone.torchvision_video import TorchvisionVideo
from nlvideo.modeling.backbone.tsm import TSM

__all__ = [
    "BACKBONE",
    "TSM",
    "ResNet3d",
    "SlowFast",
    "TorchvisionVideo",
    "build_backbone",
    "freeze_stages",
    "inflate_2d_weights",
]
