"""Heads: from the last feature map of a backbone to class scores and losses."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from nlvideo.config import CfgNode, configurable
from nlvideo.layers.blocks import ShapeSpec
from nlvideo.utils.messages import check_one_of
from nlvideo.utils.registry import Registry

HEAD = Registry(
    "HEAD",
    """Modules that turn the last feature map of the backbone into class scores.

    Called as ``cls(cfg, input_shape: ShapeSpec)``; returns an ``nn.Module`` with ``forward(x: (N, C, T, H, W))``,
    which gives logits (N, K) in training mode and probabilities (N, K) in eval mode, and
    ``losses(logits, labels) -> dict[str, scalar loss]``, whose labels are those of ``META_ARCH``. For TEST.AVERAGE
    "logits" it also has ``logits(x) -> (N, P, K)``, of the P positions of a map, and ``activate(logits)``, which makes
    probabilities of them.
    """,
)

LOSSES = ("softmax", "sigmoid")


def build_head(cfg: CfgNode, input_shape: ShapeSpec) -> nn.Module:
    """The head that ``cfg.MODEL.HEAD.NAME`` names, for feature maps of `input_shape`.

    Raises:
        KeyError: the name is not registered.
    """
    return HEAD.get(cfg.MODEL.HEAD.NAME, "MODEL.HEAD.NAME")(cfg, input_shape)


@HEAD.register()
class PoolLinearHead(nn.Module):
    """Average pooling, dropout and one linear classifier.

    In eval mode the classifier is convolutional. A window of the size seen in training moves over the map, its averages
    are classified, and the probabilities of all positions are averaged. On a 256 px frame the authors' 7x7 windows give
    2x2 positions.

    Args:
        in_channels: channels of the feature map.
        num_classes: number of classes K.
        dropout: probability of dropping a pooled channel in training (Sec. 4.1: 0.5).
        loss: "softmax" (one label) or "sigmoid" (any number of them; Sec. 5.2).
        window: frames, height and width that are averaged in eval mode; None: the whole map.
        init_std: standard deviation of the classifier's weights (authors' FC_INIT_STD 0.01); its biases start at 0.
        label_smoothing: share of every label that is spread evenly: over all classes for "softmax", over yes and no
            of each class for "sigmoid".

    Raises:
        ValueError: an unknown loss.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        dropout: float = 0.5,
        loss: str = "softmax",
        window: tuple[int, int, int] | None = None,
        init_std: float = 0.01,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_one_of("loss", loss, LOSSES)
        self.loss = loss
        self.window = window
        self.label_smoothing = label_smoothing
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_channels, num_classes)
        nn.init.normal_(self.classifier.weight, std=init_std)
        nn.init.zeros_(self.classifier.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Keyword arguments of the constructor; the window is the feature map of a training clip."""
        node = cfg.MODEL.HEAD
        side = math.ceil(cfg.INPUT.CROP_SIZE / input_shape.stride)
        return {
            "in_channels": input_shape.channels,
            "num_classes": node.NUM_CLASSES,
            "dropout": node.DROPOUT,
            "loss": node.LOSS,
            "window": (math.ceil(cfg.INPUT.NUM_FRAMES / input_shape.temporal_stride), side, side),
            "init_std": node.INIT_STD,
            "label_smoothing": node.LABEL_SMOOTHING,
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> (N, K): logits in training mode, probabilities in eval mode."""
        if self.training:
            return self.classifier(self.dropout(x.mean(dim=(2, 3, 4))))
        return self.activate(self.logits(x)).mean(dim=1)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> float32 (N, P, K): the logits of the P positions of the window on the map."""
        # A map smaller than the window is one position.
        window = [min(size, have) for size, have in zip(self.window or x.shape[2:], x.shape[2:], strict=True)]
        positions = F.avg_pool3d(x, window, stride=1).flatten(2).transpose(1, 2)
        return self.classifier(positions).float()

    def activate(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (..., K) -> probabilities (..., K), of the kind that the loss assumes."""
        return logits.softmax(dim=-1) if self.loss == "softmax" else logits.sigmoid()

    def losses(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss of a batch, averaged over clips (and over classes for "sigmoid").

        Args:
            logits: (N, K), what `forward` gave in training mode.
            labels: for "softmax" int64 (N,), or float (N, K) with the share of each class, rows that sum to 1; for
                "sigmoid" float (N, K), multi-hot or anything from 0 to 1.

        Raises:
            ValueError: labels of another shape, or shares of another sum; the sum is checked on the CPU alone, because
                a GPU would have to wait for it.
        """
        if self.loss == "softmax":
            if labels.dim() == 2 and labels.is_floating_point():
                _check_shares(logits, labels)
            elif tuple(labels.shape) != (len(logits),):
                raise _wrong_labels(self.loss, (len(logits),), labels)
            return {"loss_cls": F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)}
        if labels.shape != logits.shape:
            raise _wrong_labels(self.loss, tuple(logits.shape), labels)
        targets = labels.float() * (1 - self.label_smoothing) + self.label_smoothing / 2
        return {"loss_cls": F.binary_cross_entropy_with_logits(logits.float(), targets)}


def _check_shares(logits: torch.Tensor, labels: torch.Tensor) -> None:
    if labels.shape != logits.shape:
        raise _wrong_labels("softmax", tuple(logits.shape), labels)
    sums = labels.sum(dim=1) if labels.device.type == "cpu" else None
    if sums is not None and not torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        wrong = sums[(sums - 1).abs().argmax()].item()
        raise ValueError(
            f"labels: loss 'softmax' expects shape {(len(logits),)}, or shares of the classes that sum to 1; got shape"
            f" {tuple(labels.shape)} with a sum of {wrong:g}. Several labels of a clip need loss 'sigmoid'"
        )


def _wrong_labels(loss: str, expected: tuple[int, ...], labels: torch.Tensor) -> ValueError:
    return ValueError(f"labels: loss {loss!r} expects shape {expected}, got {tuple(labels.shape)}")
