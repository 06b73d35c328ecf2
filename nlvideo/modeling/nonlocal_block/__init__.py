"""Non-local blocks: the block, its places in a ResNet, its insertion into any other network, its costs."""

from nlvideo.modeling.nonlocal_block.base import NonLocalBase
from nlvideo.modeling.nonlocal_block.block import NonLocalBlock
from nlvideo.modeling.nonlocal_block.build import NONLOCAL, build_nonlocal_block, nonlocal_placement
from nlvideo.modeling.nonlocal_block.insert import WithNonLocal, insert_nonlocal
from nlvideo.modeling.nonlocal_block.pairwise import SoftmaxBase
from nlvideo.modeling.nonlocal_block.summary import format_nonlocal_table, nonlocal_table

__all__ = [
    "NONLOCAL",
    "NonLocalBase",
    "NonLocalBlock",
    "SoftmaxBase",
    "WithNonLocal",
    "build_nonlocal_block",
    "format_nonlocal_table",
    "insert_nonlocal",
    "nonlocal_placement",
    "nonlocal_table",
]
