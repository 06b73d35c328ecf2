"""What we are compared with: mmcv's ``NonLocal3d`` and PyTorchVideo's networks, with the same weights as ours."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nlvideo.checkpoint.convert.pytorchvideo import convert
from nlvideo.config import CfgNode
from nlvideo.modeling.nonlocal_block import NonLocalBlock

# MODEL.BACKBONE.TEMPORAL and STEM of ours -> the function of PyTorchVideo's hub that makes the same network.
PYTORCHVIDEO = {
    ("c2d", "slowfast_8x8"): "c2d_r50",
    ("i3d_3x1x1", "slowfast_8x8"): "i3d_r50",
    ("slow", "slow"): "slow_r50",
}
# Scores of their networks and of ours may differ by rounding.
TOLERANCE = 1e-4


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


class PyTorchVideo(nn.Module):
    """A network of PyTorchVideo that takes the batches of a `VideoClassifier`, and has its loss and its average.

    Args:
        cfg: of our network; it says which of theirs, its classes, and how pixels are normalised.

    Raises:
        ImportError: pytorchvideo is not installed.
        ValueError: PyTorchVideo has no such network.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        node = cfg.MODEL.BACKBONE
        name = PYTORCHVIDEO.get((node.TEMPORAL, node.STEM))
        plain = node.NAME == "ResNet3d" and node.DEPTH == 50 and node.WIDTH == 1 and not cfg.MODEL.NONLOCAL.ENABLED
        if name is None or not plain or cfg.MODEL.HEAD.LOSS != "softmax":
            allowed = " or ".join("TEMPORAL {} with STEM {}".format(*key) for key in PYTORCHVIDEO)
            raise ValueError(
                f"--peer pytorchvideo: got MODEL.BACKBONE.TEMPORAL {node.TEMPORAL} with STEM {node.STEM}, allowed:"
                f" {allowed}, in a ResNet-50 without non-local blocks and with loss softmax"
            )
        try:
            from pytorchvideo.models import hub
        except ImportError as error:
            raise ImportError("pytorchvideo is not installed; pip install pytorchvideo") from error
        self.network = getattr(hub, name)(
            model_num_class=cfg.MODEL.HEAD.NUM_CLASSES, dropout_rate=cfg.MODEL.HEAD.DROPOUT
        )
        for name in ("mean", "std"):
            value = torch.tensor(cfg.value_at(f"MODEL.PIXEL_{name.upper()}")).float().view(-1, 1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.get_buffer("mean").device

    def forward(self, batch: Any) -> Any:
        """A batch -> its loss in training mode; one video in a list -> its scores, of the mean of its views' logits."""
        video, label = (batch["video"], batch["label"]) if self.training else (batch[0]["video"], None)
        pixels = (video.to(self.device, non_blocking=True).float() - self.mean) / self.std
        logits = self.network(pixels)
        if label is None:
            return [{"video_id": batch[0]["video_id"], "scores": logits.mean(dim=0).softmax(0).cpu()}]
        return {"loss_cls": F.cross_entropy(logits, label.to(self.device, non_blocking=True))}


def pytorchvideo_network(cfg: CfgNode, model: Any) -> PyTorchVideo:
    """Return PyTorchVideo's network, and give ours its weights by the converter; both compute the same.

    Args:
        cfg: of our network.
        model: ours, a `VideoClassifier` of this config.

    Raises:
        ImportError, ValueError: as `PyTorchVideo`; also where the scores of the two differ.
    """
    peer = PyTorchVideo(cfg)
    # With norms that are not the identity, and logits that differ.
    for module in peer.network.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert module.running_var is not None and module.running_mean is not None
            nn.init.uniform_(module.weight, 0.3, 0.7)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, std=0.1)
    model.load_state_dict(convert(peer.network.state_dict()).weights)
    peer.to(model.device)
    # Of the size of training, where the mean of probabilities over positions is that of logits: there is one.
    clip = torch.randint(0, 256, (1, 3, cfg.INPUT.NUM_FRAMES, cfg.INPUT.CROP_SIZE, cfg.INPUT.CROP_SIZE)).byte()
    inputs = [{"video": clip, "video_id": ""}]
    modes = model.training
    with torch.no_grad():
        theirs, ours = (network.eval()(inputs)[0]["scores"] for network in (peer, model))
    model.train(modes)
    difference = float((theirs - ours).abs().max())
    if difference > TOLERANCE:
        raise ValueError(
            f"--peer pytorchvideo: its scores differ from ours by {difference:.1e}, allowed: {TOLERANCE:g}"
        )
    return peer.train(modes)
