"""The protocol of an evaluator, and the registry of evaluators."""

from typing import Any

from nlvideo.config import CfgNode
from nlvideo.utils.registry import Registry

EVALUATOR = Registry(
    "EVALUATOR",
    """What turns the outputs of a model over a test set into metrics.

    Called as ``cls(cfg, dataset_name, num_classes)``; returns an :class:`Evaluator`.
    """,
)

_BY_LOSS = {"softmax": "ClassificationEvaluator", "sigmoid": "MultiLabelEvaluator"}


class Evaluator:
    """Collects what it needs of each video, then computes metrics once."""

    def reset(self) -> None:
        """Forget everything; called before each run over the dataset."""
        raise NotImplementedError

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take in some videos.

        Args:
            inputs: what the test loader gave, ``{"video", "label", "video_id", "failed", "file_name"}`` each.
            outputs: what the model gave, ``{"video_id", "scores": (num_classes,)}`` each, maybe with "views":
                (num_views, num_classes), in the order of the inputs that did not fail; the model never sees those that
                did.
        """
        raise NotImplementedError

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Compute the metrics over all ranks; called on every rank.

        Returns:
            ``{task: {metric: value}}`` on rank 0 and ``{}`` elsewhere. Higher is better.
        """
        raise NotImplementedError


def build_evaluator(cfg: CfgNode, dataset_name: str) -> Evaluator:
    """Build ``TEST.EVALUATOR``, by default the one that suits ``MODEL.HEAD.LOSS``, for one dataset.

    Raises:
        LookupFailed: the name is not registered.
        ValueError: no name is given and the loss has no evaluator of its own.
    """
    loss = cfg.MODEL.HEAD.LOSS
    name = cfg.TEST.EVALUATOR or _BY_LOSS.get(loss)
    if name is None:
        raise ValueError(f"TEST.EVALUATOR: got '', allowed with MODEL.HEAD.LOSS {loss!r}: {', '.join(EVALUATOR)}")
    return EVALUATOR.get(name, "TEST.EVALUATOR")(cfg, dataset_name, cfg.MODEL.HEAD.NUM_CLASSES)
