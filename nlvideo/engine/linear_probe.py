"""Linear probing: features of a fixed backbone, computed once for each video, and a classifier fitted to them."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from nlvideo.checkpoint import Checkpointer
from nlvideo.config import CfgNode
from nlvideo.data.checks import dataset_classes
from nlvideo.data.workers import explained
from nlvideo.engine.trainer import DefaultTrainer, distribute
from nlvideo.evaluation import Evaluator, inference_on_dataset
from nlvideo.modeling.backbone import inflate_2d_weights
from nlvideo.modeling.head import ConsensusHead, LinearHead, PoolLinearHead
from nlvideo.modeling.meta_arch import VideoClassifier
from nlvideo.utils import comm

logger = logging.getLogger(__name__)


def linear_probe(cfg: CfgNode) -> dict[str, Any]:
    """Fit the classifier of ``MODEL.WEIGHTS`` to the training data, save the model and test it; call it on every rank.

    The features of a video are the mean over its test views and over their positions, so nothing in them is random.
    The folder is then that of a run, with ``model_final.pth``.

    Returns:
        What `DefaultTrainer.test` returns.

    Raises:
        ValueError: a model without a linear classifier; weights or data that do not fit.
    """
    model = DefaultTrainer.build_model(cfg)
    if not isinstance(model, VideoClassifier) or not isinstance(model.head, (PoolLinearHead, ConsensusHead)):
        allowed = "'PoolLinearHead', 'ConsensusHead'; train_net with MODEL.BACKBONE.FREEZE_AT 5 trains any head alone"
        raise ValueError(f"MODEL.HEAD.NAME: got {cfg.MODEL.HEAD.NAME!r}, allowed for a linear probe: {allowed}")
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, adapt_weights=inflate_2d_weights, cfg=cfg)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=False)
    # Making the wrapper gives all ranks the weights of rank 0; what is new in the network is random.
    distribute(model)
    features, labels = video_features(model, cfg)
    loss = fit_classifier(model.head, features, labels)
    logger.info("Fitted the classifier to %d videos: loss %.4g", len(features), loss)
    checkpointer.save("model_final", classes=dataset_classes(cfg.DATASETS.TRAIN))
    comm.synchronize()
    return DefaultTrainer.test(cfg, model)


def video_features(model: VideoClassifier, cfg: CfgNode) -> tuple[Tensor, Tensor]:
    """Return the features (N, C) of the videos of DATASETS.TRAIN, and their labels, on every rank and on the CPU.

    Videos that cannot be read are left out; the log names them.
    """
    collected = _Collector("", 0)
    head, average = model.head, model.average
    model.head, model.average = _MeanOfMap(), "softmax"
    try:
        for name in cfg.DATASETS.TRAIN:
            loader: Any = DefaultTrainer.build_test_loader(cfg, name)
            loader.failed_as = "it is left out"
            with explained(loader):
                inference_on_dataset(model, loader, collected)
    finally:
        model.head, model.average = head, average
    if not collected.videos:
        raise ValueError(f"DATASETS.TRAIN: got {list(cfg.DATASETS.TRAIN)}, of which no video can be read")
    features, labels = zip(*collected.videos, strict=True)
    return torch.stack(features), torch.stack(labels)


def fit_classifier(head: LinearHead, features: Tensor, labels: Tensor) -> float:
    """Set the classifier of a head to the best one for its own loss, and return that loss.

    It is fitted to standardised features with the penalty ``|weight|^2 / (2 N)``, which is scikit-learn's default for
    logistic regression (C = 1).

    Args:
        head: its ``losses`` decide, with label smoothing.
        features: float (N, C).
        labels: as the head takes them. Both may be on another device than the head.
    """
    device = head.classifier.weight.device
    features, labels = features.to(device), labels.to(device)
    spread, mean = torch.std_mean(features, dim=0, correction=0)
    # Below this a feature is constant, and what differs is rounding.
    spread = torch.where(spread > 1e-5 * mean.abs(), spread, 1.0)
    inputs = (features - mean) / spread
    fitted = nn.Linear(features.shape[1], head.classifier.out_features, device=device)
    nn.init.zeros_(fitted.weight)
    nn.init.zeros_(fitted.bias)
    optimizer = torch.optim.LBFGS(fitted.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def _loss() -> Tensor:
        optimizer.zero_grad()
        loss = head.losses(fitted(inputs), labels)["loss_cls"]
        (loss + fitted.weight.square().sum() / (2 * len(features))).backward()
        return loss

    optimizer.step(_loss)
    with torch.no_grad():
        weight = fitted.weight / spread
        head.classifier.weight.copy_(weight)
        head.classifier.bias.copy_(fitted.bias - weight @ mean)
    return _loss().item()


class _MeanOfMap(nn.Module):
    """Stands in for a head: its scores are the features."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) or (N, C, L) -> (N, C)."""
        return x.mean(dim=tuple(range(2, x.dim())))


class _Collector(Evaluator):
    """Keeps scores and label of each video that was read, of all datasets and ranks."""

    videos: tuple[tuple[Tensor, Tensor], ...] = ()

    def reset(self) -> None:
        """Begin the next dataset."""
        self._own: list[tuple[Tensor, Tensor]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep those that were read."""
        labels = [torch.as_tensor(video["label"]) for video in inputs if not video["failed"]]
        self._own += [(output["scores"], label) for output, label in zip(outputs, labels, strict=True)]

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Add the videos of all ranks, on every rank; there is no metric."""
        self.videos += tuple(video for part in comm.all_gather_object(self._own) for video in part)
        return {}
