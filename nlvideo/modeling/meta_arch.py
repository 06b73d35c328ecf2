"""Whole models, from the pixels of a batch to losses or scores: the meta-architecture."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nlvideo.config import CfgNode, configurable
from nlvideo.config.validate import ALLOWED
from nlvideo.layers.precision import accumulation_dtype
from nlvideo.modeling.backbone.resnet3d import build_backbone
from nlvideo.modeling.head import build_head
from nlvideo.utils.events import get_event_storage, has_event_storage
from nlvideo.utils.messages import check_one_of
from nlvideo.utils.registry import Registry

AVERAGES = ALLOWED["TEST.AVERAGE"]

META_ARCH = Registry(
    "META_ARCH",
    """Whole models.

    Called as ``cls(cfg)``; returns an ``nn.Module`` with at least one parameter. In training mode ``forward`` takes one
    batch, ``{"video": uint8 (N, C, T, H, W), "label": int64 (N,), or float (N, K), multi-hot or the shares of mixed
    clips, "video_id": list[str]}``, and returns ``dict[str, scalar loss]``. A loader's batches are on the CPU: the
    model moves what it uses to its own device.

    In eval mode it takes a list of videos, ``{"video": uint8 (V, C, T, H, W), "video_id": str, ...}`` with V views
    each. It returns a list of ``{"video_id": str, "scores": float32 (K,) on the CPU}`` in the same order, with "views":
    float32 (V, K) where TEST.KEEP_VIEWS asks for the scores of each view. Features of a layer can be extracted where
    the views of a video, at most TEST.VIEWS_PER_FORWARD then, pass the layer together. The attribute
    ``views_per_forward``, if there is one, lets a test give the model several videos at once. ``fuse``, if there is one
    and it is False, keeps `fuse_for_inference` from folding its norms.

    These attributes are not needed: ``backbone``, whose non-local blocks are logged, and ``forward_clips(video: uint8
    (N, C, T, H, W)) -> (N, K)``, which costs, exports and visualization use; ``example_input``, a tensor of the meta
    device that ``forward_clips`` takes in place of a clip, for a model of something else; and ``rename_weights(weights:
    dict[str, Tensor]) -> dict[str, Tensor]``, which gives the weights of a file of others the model's names, or returns
    them as they are.

    Batches and videos hold what the config's MAPPER makes, and outputs what its EVALUATOR takes. A detector's are
    images, boxes and masks.
    """,
)


def _share_correct(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The accuracy of a batch, 0 to 1. A mixed clip counts with the share that the predicted class has in it."""
    predicted = logits.argmax(dim=1)
    correct = predicted == labels if labels.dim() == 1 else labels.gather(1, predicted[:, None])
    return correct.float().mean()


@META_ARCH.register()
class VideoClassifier(nn.Module):
    """Normalised pixels, a backbone and a head.

    Args:
        backbone: as the `BACKBONE` registry describes; the head reads its last feature.
        head: as the `HEAD` registry describes.
        pixel_mean: one value for all channels or one for each, on the 0..255 scale.
        pixel_std: likewise.
        views_per_forward: views that go through the network at once in eval mode.
        channels_last: keep weights and clips in ``torch.channels_last_3d``.
        average: what is averaged over positions and views: "softmax", the probabilities of the head (Sec. 4.1), or
            "logits", whose mean is then made into probabilities.
        keep_views: also return what was averaged, for each view.
        fuse: `fuse_for_inference` may fold the norms.
        amp: "bfloat16" or "float16": eval mode runs under autocast; "": it does not.

    Raises:
        ValueError: `views_per_forward` below 1, an unknown average, or a head that has no logits to average.
    """

    # The registries describe their methods, which nn.Module does not declare.
    backbone: Any
    head: Any
    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        head: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        views_per_forward: int = 10,
        channels_last: bool = True,
        average: str = "softmax",
        keep_views: bool = False,
        fuse: bool = True,
        amp: str = "",
    ) -> None:
        super().__init__()
        if views_per_forward < 1:
            raise ValueError(f"views_per_forward: got {views_per_forward}, allowed: 1 or more")
        check_one_of("average", average, AVERAGES)
        check_one_of("amp", amp, ALLOWED["TEST.AMP"])
        if average == "logits" and not hasattr(head, "logits"):
            raise ValueError(f"average: got 'logits', allowed with {type(head).__name__}, which has none: 'softmax'")
        self.backbone = backbone
        self.head = head
        self.views_per_forward = views_per_forward
        self.average = average
        self.keep_views = keep_views
        self.fuse, self.amp = fuse, amp
        self.memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        # Not self.to(memory_format=...), which refuses tensors of four dimensions such as the weights of a Conv2d.
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.dim() == 5:
                tensor.data = tensor.data.to(memory_format=self.memory_format)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).float().view(-1, 1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).float().view(-1, 1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Keyword arguments of the constructor."""
        backbone: Any = build_backbone(cfg)
        last_shape = list(backbone.output_shape().values())[-1]
        return {
            "backbone": backbone,
            "head": build_head(cfg, last_shape),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "views_per_forward": cfg.TEST.VIEWS_PER_FORWARD,
            "channels_last": cfg.MODEL.CHANNELS_LAST,
            "average": cfg.TEST.AVERAGE,
            "keep_views": cfg.TEST.KEEP_VIEWS,
            "fuse": cfg.TEST.FUSE,
            "amp": cfg.TEST.AMP,
        }

    @property
    def device(self) -> torch.device:
        """Where the model is; inputs are moved there."""
        return self.pixel_mean.device

    def forward(self, batch: dict | list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """A batch -> losses in training mode, a list of videos -> scores in eval mode; see `META_ARCH`."""
        if self.training:
            assert isinstance(batch, dict), "in training mode the model takes one batch"
            return self._losses(batch)
        assert isinstance(batch, list), "in eval mode the model takes a list of videos"
        return self._scores(batch)

    def forward_clips(self, video: torch.Tensor) -> torch.Tensor:
        """uint8 (N, C, T, H, W) -> (N, K): what the head makes of the clips, logits or probabilities."""
        return self.head(self._last_feature(video))

    def _last_feature(self, video: torch.Tensor) -> torch.Tensor:
        # The layout changes while pixels are bytes, which is faster.
        video = video.to(self.device, non_blocking=True).contiguous(memory_format=self.memory_format)
        # In place, because each new tensor of this size costs as much as the arithmetic.
        pixels = video.to(accumulation_dtype(self.pixel_mean), copy=True).sub_(self.pixel_mean).div_(self.pixel_std)
        features = self.backbone(pixels)
        return list(features.values())[-1]

    def _view_scores(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 (N, C, T, H, W) -> (N, K): what is averaged over the views."""
        with torch.autocast(self.device.type, getattr(torch, self.amp or "bfloat16"), enabled=bool(self.amp)):
            if self.average == "softmax":
                return self.forward_clips(clips)
            return self.head.logits(self._last_feature(clips)).mean(dim=1)

    def _losses(self, batch: dict) -> dict[str, torch.Tensor]:
        labels = batch["label"].to(self.device, non_blocking=True)
        logits = self.forward_clips(batch["video"])
        losses = self.head.losses(logits, labels)
        # Labels of two dimensions are shares of classes with "softmax". Otherwise a clip may have several labels.
        if has_event_storage() and (labels.dim() == 1 or getattr(self.head, "loss", "") == "softmax"):
            get_event_storage().put_scalar("top1", 100 * _share_correct(logits.detach(), labels))
        return losses

    def _scores(self, videos: list[dict]) -> list[dict]:
        # Views of one size share forward passes, also those of different videos. So many short videos need no more
        # passes than a long one.
        by_size: dict[torch.Size, list[tuple[int, torch.Tensor]]] = defaultdict(list)
        for index, video in enumerate(videos):
            by_size[video["video"].shape[1:]] += [(index, view) for view in video["video"]]
        scores: list[list[torch.Tensor]] = [[] for _ in videos]
        for views in by_size.values():
            for start in range(0, len(views), self.views_per_forward):
                indices, clips = zip(*views[start : start + self.views_per_forward], strict=True)
                for index, row in zip(indices, self._view_scores(torch.stack(clips)), strict=True):
                    scores[index].append(row)
        pairs = zip(videos, scores, strict=True)
        return [self._result(video["video_id"], torch.stack(rows).float()) for video, rows in pairs]

    def _result(self, video_id: str, views: torch.Tensor) -> dict:
        mean = views.mean(dim=0)
        scores = self.head.activate(mean) if self.average == "logits" else mean
        result = {"video_id": video_id, "scores": scores.cpu()}
        return {**result, "views": views.cpu()} if self.keep_views else result
