"""A trained model for use outside of training: tests, and predictions for single files."""

import os

import torch
from torch import nn

from nlvideo.checkpoint import Checkpointer, read_file, resolve_weights
from nlvideo.config import CfgNode
from nlvideo.data.dataset_mapper import MAPPER
from nlvideo.modeling import build_model
from nlvideo.modeling.backbone import inflate_2d_weights


def load_model_for_test(cfg: CfgNode, resume: bool = False) -> nn.Module:
    """Build ``MODEL`` with trained weights: the moving average where there is one and ``SOLVER.EMA`` is on.

    Args:
        cfg: ``MODEL.WEIGHTS`` names the checkpoint.
        resume: prefer the last checkpoint in ``OUTPUT_DIR``.

    Raises:
        ValueError: no checkpoint is named, or it hardly fits the model.
        FileNotFoundError: the file is missing.
    """
    model = build_model(cfg)
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, adapt_weights=inflate_2d_weights, cfg=cfg)
    path = (checkpointer.last_checkpoint() if resume else None) or cfg.MODEL.WEIGHTS
    if not path:
        raise ValueError(
            "MODEL.WEIGHTS: got '', allowed for a test: a checkpoint, or --resume for the last one in OUTPUT_DIR"
            f" (now {cfg.OUTPUT_DIR!r})"
        )
    averaged = cfg.SOLVER.EMA.ENABLED and "ema" in read_file(resolve_weights(path))
    checkpointer.load_weights(path, entry="ema" if averaged else "model")
    return model.eval()


class DefaultPredictor:
    """Scores of one video at a time, through the mapper and the views of the test.

    Example:
        >>> scores = DefaultPredictor(cfg)("clip.mp4")
        >>> scores.topk(5)
    """

    def __init__(self, cfg: CfgNode):
        """Build the model and load ``MODEL.WEIGHTS``.

        Raises:
            ValueError: no weights are named, or they hardly fit the model.
            FileNotFoundError: the file is missing.
        """
        self.model = load_model_for_test(cfg)
        self._mapper = MAPPER.get(cfg.DATALOADER.MAPPER)(cfg, False)

    @torch.no_grad()
    def __call__(self, path: str) -> torch.Tensor:
        """Return the scores of a video, averaged over its views: float32 (num_classes,) on the CPU.

        Raises:
            VideoDecodeError: the file cannot be read.
            ValueError: the video is too short and ``INPUT.SHORT_VIDEO`` is "error".
        """
        # The mapper wants a label; 0 is one for a single and for several labels, and nobody looks at it.
        record = {"file_name": os.path.abspath(path), "label": 0, "video_id": os.path.basename(path)}
        return self.model([self._mapper(record, None)])[0]["scores"]
