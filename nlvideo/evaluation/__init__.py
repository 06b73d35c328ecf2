"""Evaluators, the loop that runs a model over a dataset, and checks of its results."""

from nlvideo.evaluation.classification import ClassificationEvaluator
from nlvideo.evaluation.evaluator import EVALUATOR, Evaluator, build_evaluator
from nlvideo.evaluation.inference import inference_on_dataset
from nlvideo.evaluation.multilabel import MultiLabelEvaluator, average_precision
from nlvideo.evaluation.per_video import PerVideoEvaluator, VideoScores
from nlvideo.evaluation.testing import print_results, verify_results

__all__ = [
    "EVALUATOR",
    "ClassificationEvaluator",
    "Evaluator",
    "MultiLabelEvaluator",
    "PerVideoEvaluator",
    "VideoScores",
    "average_precision",
    "build_evaluator",
    "inference_on_dataset",
    "print_results",
    "verify_results",
]
