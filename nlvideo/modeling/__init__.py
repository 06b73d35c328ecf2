"""Models: meta-architectures, backbones, heads and non-local blocks. Importing them here registers them."""

from nlvideo.modeling import nonlocal_variants
from nlvideo.modeling.backbone import (
    BACKBONE,
    TSM,
    ResNet3d,
    SlowFast,
    TorchvisionVideo,
    build_backbone,
    inflate_2d_weights,
)
from nlvideo.modeling.build import build_model, resolve_device
from nlvideo.modeling.costs import model_costs
from nlvideo.modeling.head import HEAD, AttentiveHead, ConsensusHead, LinearHead, PoolLinearHead, build_head
from nlvideo.modeling.meta_arch import META_ARCH, VideoClassifier
from nlvideo.modeling.nonlocal_block import (
    NONLOCAL,
    NonLocalBlock,
    build_nonlocal_block,
    insert_nonlocal,
    nonlocal_placement,
)

__all__ = [
    "BACKBONE",
    "HEAD",
    "META_ARCH",
    "NONLOCAL",
    "TSM",
    "AttentiveHead",
    "ConsensusHead",
    "LinearHead",
    "NonLocalBlock",
    "PoolLinearHead",
    "ResNet3d",
    "SlowFast",
    "TorchvisionVideo",
    "VideoClassifier",
    "build_backbone",
    "build_head",
    "build_model",
    "build_nonlocal_block",
    "inflate_2d_weights",
    "insert_nonlocal",
    "model_costs",
    "nonlocal_placement",
    "nonlocal_variants",
    "resolve_device",
]
