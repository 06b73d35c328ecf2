"""Building blocks without configs: the non-local operation, normalisation, residual blocks, shapes of maps."""

from nlvideo.layers.blocks import ShapeSpec
from nlvideo.layers.fuse import fuse_for_inference
from nlvideo.layers.nonlocal_ops import (
    choose_algorithm,
    concatenation_aggregate,
    dot_product_aggregate,
    softmax_aggregate,
)
from nlvideo.layers.norm import FrozenBatchNorm, SyncBatchNorm, freeze_norms, get_norm, sync_norms

__all__ = [
    "FrozenBatchNorm",
    "ShapeSpec",
    "SyncBatchNorm",
    "choose_algorithm",
    "concatenation_aggregate",
    "dot_product_aggregate",
    "freeze_norms",
    "fuse_for_inference",
    "get_norm",
    "softmax_aggregate",
    "sync_norms",
]
