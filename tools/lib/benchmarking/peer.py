"""mmcv's ``NonLocal3d`` with the weights of a ``NonLocalBlock``, to compare with."""

import torch
from torch import nn

from nlvideo.modeling.nonlocal_block import NonLocalBlock


def mmcv_block(block: NonLocalBlock) -> nn.Module:
    """Return mmcv's block with copies of these weights; it computes the same function.

    Args:
        block: for video, attending over space and time without groups, keys pooled after the projection or not at all.

    Raises:
        ImportError: mmcv is not installed.
        ValueError: mmcv has nothing like this block.
    """
    try:
        from mmcv.cnn import NonLocal3d
    except ImportError as error:
        raise ImportError("mmcv is not installed; pip install mmcv-lite") from error
    if (
        block.dim != 3
        or block.attend != "spacetime"
        or block.temporal_groups > 1
        or (block.subsample and block.pool_first)
    ):
        raise ValueError(f"mmcv has no block like {block.extra_repr()}")

    class OutOfPlace(NonLocal3d):
        """mmcv's block, but its concatenation form does not divide the ReLU's output in place: autograd needs that."""

        def concatenation(self, theta_x: torch.Tensor, phi_x: torch.Tensor) -> torch.Tensor:
            """(N, D, P, 1), (N, D, 1, Q) -> (N, P, Q)."""
            P, Q = theta_x.shape[2], phi_x.shape[3]
            pairs_N2DPQ = torch.cat([theta_x.repeat(1, 1, 1, Q), phi_x.repeat(1, 1, P, 1)], dim=1)
            return self.concat_project(pairs_N2DPQ)[:, 0] / Q

    gaussian = block.pairwise == "gaussian"
    peer = OutOfPlace(
        block.in_channels, reduction=block.in_channels // block.inner_channels, use_scale=block.scale != 1,
        conv_cfg={"type": "Conv3d"}, norm_cfg={"type": "BN3d"}, mode=block.pairwise, sub_sample=block.subsample,
    )  # fmt: skip
    with_pool = (lambda layer: layer[0]) if block.subsample else (lambda layer: layer)
    pairs = [(with_pool(peer.g).conv, block.g), (peer.conv_out.bn, block.bn)]
    if not gaussian:
        pairs += [(peer.theta.conv, block.theta), (with_pool(peer.phi).conv, block.phi)]
    if block.pairwise == "concatenation":
        with torch.no_grad():
            peer.concat_project.conv.weight.copy_(block.concat.weight.flatten(2)[..., None])
    for theirs, ours in pairs:
        theirs.load_state_dict(ours.state_dict())
    # mmcv's output convolution has no bias in front of a norm, which takes a bias away in any case.
    with torch.no_grad():
        peer.conv_out.conv.weight.copy_(block.out.weight)
    return peer


def mmcv_bytes(queries: int, keys: int, channels: int) -> int:
    """Memory of a step of mmcv's concatenation form: pairs of channels // 2 numbers of either side, several times over.

    Args:
        queries: P.
        keys: Q.
        channels: of the map.
    """
    # The two repeats and their concatenation in forward; the concatenation and its gradient in backward.
    return 2 * 4 * queries * keys * channels
