"""Heads: from the last feature map of a backbone to class scores and losses."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nlvideo.config import CfgNode, configurable
from nlvideo.config.configurable import build_registered
from nlvideo.layers.blocks import ShapeSpec
from nlvideo.layers.nonlocal_ops import softmax_aggregate
from nlvideo.layers.precision import widened
from nlvideo.modeling.losses import check_loss_options, classification_loss
from nlvideo.utils.messages import check_one_of
from nlvideo.utils.registry import Registry

HEAD = Registry(
    "HEAD",
    """Modules that turn the last feature map of the backbone into class scores.

    Called as ``cls(cfg, input_shape: ShapeSpec, **args)``; ``args`` are the pairs of ``MODEL.HEAD.ARGS``. Returns an
    ``nn.Module`` with ``forward(x: (N, C, T, H, W))``, which gives logits (N, K) in training mode and probabilities
    (N, K) in eval mode, and ``losses(logits, labels) -> dict[str, scalar loss]``, whose labels are those of
    ``META_ARCH``. For TEST.AVERAGE "logits" it also has ``logits(x) -> (N, P, K)``, of the P positions of a map, and
    ``activate(logits)``, which makes probabilities of them.

    A backbone may also give a sequence (N, C, L); a head for such a backbone takes it in place of a map.

    `LinearHead` has all that heads with a linear classifier share.
    """,
)


def build_head(cfg: CfgNode, input_shape: ShapeSpec) -> nn.Module:
    """The head that ``cfg.MODEL.HEAD.NAME`` names, for feature maps of `input_shape`.

    Raises:
        KeyError: the name is not registered.
        ValueError: a value of the config that the head does not allow.
    """
    return build_registered(HEAD, cfg, "MODEL.HEAD", input_shape)


class LinearHead(nn.Module):
    """Base class: dropout, one linear classifier and the losses of `classification_loss`.

    A subclass says in ``training_logits`` and ``logits`` what is classified. Maps are (N, C, T, H, W); a sequence is
    (N, C, L).

    Args:
        in_channels: inputs of the classifier: the channels of the feature map.
        num_classes: number of classes K.
        dropout: probability of dropping an input of the classifier in training (Sec. 4.1: 0.5).
        loss: "softmax" (one label) or "sigmoid" (any number of them; Sec. 5.2).
        init_std: standard deviation of the classifier's weights (authors' FC_INIT_STD 0.01); its biases start at 0.
        label_smoothing: share of every label that is spread evenly: over all classes for "softmax", over yes and no
            of each class for "sigmoid".
        class_weights: K numbers that multiply the losses of the classes; None: no weights; "balanced": not known yet,
            so there is no loss.
        focal_gamma: exponent of the focal loss; 0: none.

    Raises:
        ValueError: for a value that is not allowed.
    """

    class_weights: torch.Tensor | None

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        dropout: float = 0.5,
        loss: str = "softmax",
        init_std: float = 0.01,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | str | None = None,
        focal_gamma: float = 0.0,
    ) -> None:
        super().__init__()
        check_loss_options(loss, num_classes, label_smoothing, class_weights, focal_gamma)
        self.loss, self.label_smoothing, self.focal_gamma = loss, label_smoothing, focal_gamma
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_channels, num_classes)
        nn.init.normal_(self.classifier.weight, std=init_std)
        nn.init.zeros_(self.classifier.bias)
        self.is_balanced = class_weights == "balanced"
        known = class_weights is not None and not self.is_balanced
        # No part of a checkpoint: the config has them.
        self.register_buffer("class_weights", torch.tensor(class_weights).float() if known else None, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Keyword arguments of the constructor."""
        node = cfg.MODEL.HEAD
        return {
            "in_channels": input_shape.channels,
            "num_classes": node.NUM_CLASSES,
            "dropout": node.DROPOUT,
            "loss": node.LOSS,
            "init_std": node.INIT_STD,
            "label_smoothing": node.LABEL_SMOOTHING,
            "class_weights": node.CLASS_WEIGHTS,
            "focal_gamma": node.FOCAL_GAMMA,
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) or (N, C, L) -> (N, K): logits in training mode, probabilities in eval mode.

        Raises:
            ValueError: another number of axes.
        """
        if x.dim() not in (3, 5):
            raise ValueError(f"x: expected a map (N, C, T, H, W) or a sequence (N, C, L), got {tuple(x.shape)}")
        return self.training_logits(x) if self.training else self.activate(self.logits(x)).mean(dim=1)

    def training_logits(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, K): the logits that the loss is of, with dropout."""
        raise NotImplementedError

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> float32 (N, P, K): the logits of the P positions whose probabilities are averaged."""
        raise NotImplementedError

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., K): logits in float32 or wider."""
        return widened(self.classifier(x))[0]

    def activate(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (..., K) -> probabilities (..., K), of the kind that the loss assumes."""
        return logits.softmax(dim=-1) if self.loss == "softmax" else logits.sigmoid()

    def losses(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """``{"loss_cls": the loss of a batch}`` of what `forward` gave in training mode; see `classification_loss`.

        Raises:
            ValueError: labels that do not fit the loss, or weights that are not known.
        """
        if self.is_balanced:
            how = "nlvideo.engine.resolve_from_data(cfg) returns a config with the numbers of its training data"
            raise ValueError(f"class_weights: got 'balanced', allowed in training: {how}")
        loss = classification_loss(
            logits,
            labels,
            loss=self.loss,
            label_smoothing=self.label_smoothing,
            class_weights=self.class_weights,
            focal_gamma=self.focal_gamma,
        )
        return {"loss_cls": loss}


@HEAD.register()
class PoolLinearHead(LinearHead):
    """Average pooling, dropout and one linear classifier.

    In eval mode the classifier is convolutional. A window of the size seen in training moves over the map, its averages
    are classified, and the probabilities of all positions are averaged. On a 256 px frame the authors' 7x7 windows give
    2x2 positions. A sequence is averaged as a whole.

    Args:
        window: frames, height and width that are averaged in eval mode; None: the whole map.
        arguments: of `LinearHead`.
    """

    @configurable
    def __init__(self, *, window: tuple[int, int, int] | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.window = window

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Keyword arguments of the constructor; the window is the feature map of a training clip."""
        side = math.ceil(cfg.INPUT.CROP_SIZE / input_shape.stride)
        frames = math.ceil(cfg.INPUT.NUM_FRAMES / input_shape.temporal_stride)
        return {**super().from_config(cfg, input_shape), "window": (frames, side, side)}

    def training_logits(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, K): the logits of the average over all positions."""
        return self.classifier(self.dropout(x.mean(dim=tuple(range(2, x.dim())))))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> float32 (N, P, K): the logits of the P positions of the window on the map."""
        if x.dim() == 3:
            return self.classify(x.mean(dim=2))[:, None]
        return self.classify(_windows(x, self.window or x.shape[2:]).flatten(2).transpose(1, 2))


def _windows(x: torch.Tensor, window: Sequence[int]) -> torch.Tensor:
    """(N, C, T, H, W) -> the averages of a window at all its positions; a smaller map is one position."""
    return F.avg_pool3d(x, [min(size, have) for size, have in zip(window, x.shape[2:], strict=True)], stride=1)


@HEAD.register()
class ConsensusHead(LinearHead):
    """Each frame of the map is pooled over space and classified, and all frames agree (TSN, Wang et al., ECCV 2016).

    TSM (Lin et al., ICCV 2019) has it, too. A frame of the map is a segment of the video, and each step of a sequence
    is one. In eval mode a window of the size seen in training moves over larger frames, as in `PoolLinearHead`. All
    frames always count, also more than in training.

    Args:
        consensus: "logits", the mean of the logits of all frames: the default of the code of TSN and TSM and of
            mmaction2; or "probabilities", the mean of their probabilities (``before_softmax=False`` in that code).
        window: height and width that are averaged in eval mode; None: whole frames.
        arguments: of `LinearHead`.
    """

    @configurable
    def __init__(self, *, consensus: str = "logits", window: tuple[int, int] | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        check_one_of("consensus", consensus, ("logits", "probabilities"))
        self.consensus, self.window = consensus, window

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Keyword arguments of the constructor; the window is the frame of a training clip's map."""
        side = math.ceil(cfg.INPUT.CROP_SIZE / input_shape.stride)
        return {**super().from_config(cfg, input_shape), "window": (side, side)}

    def training_logits(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, K): what the frames agree on."""
        return self._agreed(self.classify(self.dropout(x.mean(dim=(3, 4)) if x.dim() == 5 else x).mT))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> float32 (N, P, K): what the frames agree on at the P positions of the window."""
        x = x[..., None, None] if x.dim() == 3 else x
        positions_NPTC = _windows(x, (1, *(self.window or x.shape[3:]))).flatten(3).permute(0, 3, 2, 1)
        return self._agreed(self.classify(positions_NPTC))

    def _agreed(self, logits: torch.Tensor) -> torch.Tensor:
        """(..., T, K) -> (..., K); for probabilities, logits whose probabilities are the means."""
        if self.consensus == "logits":
            return logits.mean(dim=-2)
        if self.loss == "softmax":
            return logits.log_softmax(dim=-1).logsumexp(dim=-2) - math.log(logits.shape[-2])
        return F.logsigmoid(logits).logsumexp(dim=-2) - F.logsigmoid(-logits).logsumexp(dim=-2)


@HEAD.register()
class AttentiveHead(LinearHead):
    """Learned queries attend over all positions of the map, and one linear layer classifies what they gather.

    This is the attentive probe of frozen backbones (Bardes et al., V-JEPA: cross-attention of one learned query with
    the features, then a linear layer), without its MLP. With x_j the normalised features of position j, query q and
    head h give

        y_qh = sum_j softmax_j(s k_qh . W_h x_j) V_h x_j + b_h,    s = (C / heads) ** -0.5

    and the classifier reads the normalised y of all heads and queries. k . W x_j is (W^T k) . x_j, and the sum over j
    comes before V: so nothing is projected at each position, and there is no matrix but (queries x heads) rows of
    weights. This is exact. Maps and sequences of any size are taken, in training and at test.

    Args:
        num_queries: learned queries (V-JEPA: 1).
        num_heads: a divisor of the channels.
        arguments: of `LinearHead`.
    """

    @configurable
    def __init__(self, *, in_channels: int, num_queries: int = 1, num_heads: int = 8, **arguments: Any) -> None:
        if num_queries < 1:
            raise ValueError(f"num_queries: got {num_queries}, allowed: 1 or more")
        if num_heads < 1 or in_channels % num_heads:
            raise ValueError(f"num_heads: got {num_heads}, allowed: divisors of {in_channels} channels")
        super().__init__(num_queries * in_channels, **arguments)
        self.num_heads = num_heads
        self.norm_in, self.norm_out = nn.LayerNorm(in_channels), nn.LayerNorm(in_channels)
        self.queries = nn.Parameter(torch.empty(num_queries, in_channels))
        # A bias of the keys would add the same to all logits of a query.
        self.key, self.value = nn.Linear(in_channels, in_channels, bias=False), nn.Linear(in_channels, in_channels)
        # All products have about unit size: with the 0.02 of V-JEPA, which AdamW trains, SGD hardly begins to look.
        nn.init.normal_(self.queries)
        for layer in (self.key, self.value):
            nn.init.normal_(layer.weight, std=in_channels**-0.5)
        nn.init.zeros_(self.value.bias)

    def training_logits(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, K)."""
        return self.classifier(self.dropout(self._gathered(x)))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> float32 (N, 1, K): the queries see the whole map at once."""
        return self.classify(self._gathered(x))[:, None]

    @torch.no_grad()
    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """Where each query looks: (N, C, ...) -> (N, queries, ...), weights that sum to 1, the mean over the heads."""
        weights_NRQ = (self._rows() @ self.norm_in(x.flatten(2).mT).mT).softmax(dim=2)
        return weights_NRQ.unflatten(1, (-1, self.num_heads)).mean(dim=2).unflatten(2, x.shape[2:])

    def _rows(self) -> torch.Tensor:
        """The queries as vectors that are compared with the normalised features: (queries x heads, C), scaled."""
        query_QHD, weight_HDC = (
            t.unflatten(i, (self.num_heads, -1)) for i, t in ((1, self.queries), (0, self.key.weight))
        )
        return torch.einsum("qhd,hdc->qhc", query_QHD, weight_HDC).flatten(0, 1) * query_QHD.shape[2] ** -0.5

    def _gathered(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, queries x C): the input of the classifier."""
        x_NQC = self.norm_in(x.flatten(2).mT)
        # Dense: the few rows of weights are smaller than the features.
        rows_NRC = self._rows().expand(x.shape[0], -1, -1)
        seen_NRC = softmax_aggregate(rows_NRC, x_NQC, x_NQC, scale=1.0, algorithm="dense")
        weight_HEC = self.value.weight.unflatten(0, (self.num_heads, -1))
        y = torch.einsum("nqhc,hec->nqhe", seen_NRC.unflatten(1, (-1, self.num_heads)), weight_HEC).flatten(2)
        return self.norm_out(y + self.value.bias).flatten(1)
