"""The registry of backbones."""

from torch import nn

from nlvideo.config import CfgNode
from nlvideo.layers.shape_spec import ShapeSpec
from nlvideo.utils.registry import Registry

BACKBONE = Registry(
    "BACKBONE",
    """Networks that turn clips into feature maps.

    Called as ``cls(cfg, input_shape: ShapeSpec)``; returns an ``nn.Module`` with
    ``forward(video: float (N, C, T, H, W)) -> dict[str, Tensor]``, maps (N, C', T', H', W') by name in the order of the
    network, and ``output_shape() -> dict[str, ShapeSpec]`` with the same names. The head reads the last one. The
    backbone itself puts the blocks of ``NONLOCAL`` where ``nonlocal_placement`` says.
    """,
)


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> nn.Module:
    """The backbone that ``cfg.MODEL.BACKBONE.NAME`` names.

    Args:
        cfg: the whole config.
        input_shape: what the backbone is fed; None: RGB video.

    Raises:
        KeyError: the name is not registered.
    """
    return BACKBONE.get(cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME")(cfg, input_shape or ShapeSpec(channels=3))
