"""The registry of backbones."""

from torch import nn

from nlvideo.config import CfgNode
from nlvideo.layers.shape_spec import ShapeSpec
from nlvideo.utils.registry import Registry

BACKBONE = Registry(
    "BACKBONE",
    """Networks that turn clips into feature maps.

    Called with ``obj(cfg, input_shape: ShapeSpec)``; returns an ``nn.Module`` with
    ``forward(video: (N, C, T, H, W) float) -> dict[str, Tensor]``, names in the order of the network, and
    ``output_shape() -> dict[str, ShapeSpec]`` with the same names. The head reads the last one.
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
