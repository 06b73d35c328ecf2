"""What an evaluator is, and the registry of evaluators."""

from typing import Any

from nlvideo.config import CfgNode, configurable
from nlvideo.utils.registry import Registry

EVALUATOR = Registry(
    "EVALUATOR",
    """What turns the outputs of a model over a test set into metrics.

    Called as ``cls(cfg, dataset_name, num_classes)`` for a test, and as ``cls(dataset_name, num_classes)`` for saved
    results, which have no config. ``@configurable`` gives a constructor both forms; :class:`Evaluator` has them.
    Returns an :class:`Evaluator`, whose three methods are all that is called. A test and ``tools/score.py`` call the
    same ones: ``reset``, then ``process`` for some videos at a time, then ``evaluate``.
    """,
)

_BY_LOSS = {"softmax": "ClassificationEvaluator", "sigmoid": "MultiLabelEvaluator"}


class Evaluator:
    """Collects what it needs of each video, then computes metrics once; a base class.

    :class:`PerVideoEvaluator` is the base for metrics of all scores together. It also saves the scores.

    Attributes:
        dataset_name: the test set.
        num_classes: length of each score vector.
    """

    @configurable
    def __init__(self, dataset_name: str, num_classes: int):
        self.dataset_name = dataset_name
        self.num_classes = num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset_name: str, num_classes: int) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"dataset_name": dataset_name, "num_classes": num_classes}

    def reset(self) -> None:
        """Forget all videos. It is called before the first one."""
        raise NotImplementedError

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take in some videos.

        Args:
            inputs: what the test loader gave for each video: "video_id", "label" (a class index, or float32 (num_classes,)
                with ones where there may be several), "failed", and where the video is (see ``source_of``) as far as that
                is known. A test also has "video", the pixels of those that did not fail; saved results do not.
            outputs: what the model gave for the videos that did not fail, in their order: ``{"video_id", "scores": tensor
                (num_classes,)}`` each, perhaps with "views": (num_views, num_classes). The model never sees the others.
        """
        raise NotImplementedError

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Compute the metrics over all ranks. It is called on every rank.

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
