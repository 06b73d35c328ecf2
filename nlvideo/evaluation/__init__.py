"""Evaluators, the loop that runs a model over a dataset, and checks of its results."""

from nlvideo.evaluation.ensemble import average_scores, ensemble, evaluate_results, rescore
from nlvideo.evaluation.evaluator import (
    EVALUATOR,
    ClassificationEvaluator,
    Evaluator,
    PerVideoEvaluator,
    build_evaluator,
)
from nlvideo.evaluation.inference import inference_on_dataset
from nlvideo.evaluation.multilabel import CharadesEvaluator, MultiLabelEvaluator, average_precision
from nlvideo.evaluation.results_file import Results, VideoScores, read_results, write_results
from nlvideo.evaluation.testing import print_results, verify_results

__all__ = [
    "EVALUATOR",
    "CharadesEvaluator",
    "ClassificationEvaluator",
    "Evaluator",
    "MultiLabelEvaluator",
    "PerVideoEvaluator",
    "Results",
    "VideoScores",
    "average_precision",
    "average_scores",
    "build_evaluator",
    "ensemble",
    "evaluate_results",
    "inference_on_dataset",
    "print_results",
    "read_results",
    "rescore",
    "verify_results",
    "write_results",
]
