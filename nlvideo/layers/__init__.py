"""Building blocks that know nothing of configs: the non-local operation, normalisation, shapes, residual blocks."""

from nlvideo.layers.nonlocal_ops import (
    choose_algorithm,
    concatenation_aggregate,
    dot_product_aggregate,
    softmax_aggregate,
)
from nlvideo.layers.norm import FrozenBatchNorm, SyncBatchNorm, freeze_norms, get_norm
from nlvideo.layers.shape_spec import ShapeSpec

__all__ = [
    "FrozenBatchNorm",
    "ShapeSpec",
    "SyncBatchNorm",
    "choose_algorithm",
    "concatenation_aggregate",
    "dot_product_aggregate",
    "freeze_norms",
    "get_norm",
    "softmax_aggregate",
]
