"""Descendants of the non-local block, one file each. Importing them here registers them in ``NONLOCAL``.

A new one is a file of the form of these (`NonLocalBase` says what a block must have), an import here, and a line in the
table of ``tests/modeling/test_variants.py``.
"""

from nlvideo.modeling.nonlocal_variants.asymmetric_pyramid import AsymmetricPyramid
from nlvideo.modeling.nonlocal_variants.compact_generalized import CompactGeneralizedNonLocal
from nlvideo.modeling.nonlocal_variants.criss_cross import CrissCross
from nlvideo.modeling.nonlocal_variants.disentangled import DisentangledNonLocal
from nlvideo.modeling.nonlocal_variants.double_attention import DoubleAttention
from nlvideo.modeling.nonlocal_variants.global_context import GlobalContext, SimplifiedNonLocal

__all__ = [
    "AsymmetricPyramid",
    "CompactGeneralizedNonLocal",
    "CrissCross",
    "DisentangledNonLocal",
    "DoubleAttention",
    "GlobalContext",
    "SimplifiedNonLocal",
]
