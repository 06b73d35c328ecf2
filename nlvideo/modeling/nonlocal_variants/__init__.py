"""Descendants of the non-local block, one file each. Importing them here registers them in ``NONLOCAL``.

A new one is a file of the form of these (`NonLocalBase` says what a block must have), an import here, and a line in the
table of ``tests/modeling/test_variants.py``.
"""

from nlvideo.modeling.nonlocal_variants.asymmetric_pyramid import AsymmetricPyramid
from nlvideo.modeling.nonlocal_variants.bilinear_attention import BilinearAttentionTransform
from nlvideo.modeling.nonlocal_variants.compact_generalized import CompactGeneralizedNonLocal
from nlvideo.modeling.nonlocal_variants.criss_cross import CrissCross
from nlvideo.modeling.nonlocal_variants.disentangled import DisentangledNonLocal
from nlvideo.modeling.nonlocal_variants.double_attention import DoubleAttention
from nlvideo.modeling.nonlocal_variants.efficient_attention import EfficientAttention
from nlvideo.modeling.nonlocal_variants.expectation_maximization import ExpectationMaximization
from nlvideo.modeling.nonlocal_variants.factorised import AxialNonLocal, DividedSpaceTime
from nlvideo.modeling.nonlocal_variants.global_context import GlobalContext, SimplifiedNonLocal
from nlvideo.modeling.nonlocal_variants.global_reasoning import GlobalReasoning
from nlvideo.modeling.nonlocal_variants.region import RegionNonLocal
from nlvideo.modeling.nonlocal_variants.spectral import SpectralNonLocal

__all__ = [
    "AsymmetricPyramid",
    "AxialNonLocal",
    "BilinearAttentionTransform",
    "CompactGeneralizedNonLocal",
    "CrissCross",
    "DisentangledNonLocal",
    "DividedSpaceTime",
    "DoubleAttention",
    "EfficientAttention",
    "ExpectationMaximization",
    "GlobalContext",
    "GlobalReasoning",
    "RegionNonLocal",
    "SimplifiedNonLocal",
    "SpectralNonLocal",
]
