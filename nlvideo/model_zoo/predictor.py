"""``Predictor``: what a trained model says of a video, in one line."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nlvideo.config import CfgNode
from nlvideo.data.dataset_mapper import MAPPER
from nlvideo.model_zoo.trained import get, trained_config


class Predictor:
    """Scores of one video at a time, through the mapper and the views of the test (``TEST``).

    Example:
        >>> predictor = Predictor("quickstart")
        >>> predictor("clip.mp4", top_k=2)
        [('clockwise', 0.98), ('shake', 0.01)]

    Attributes:
        model: in eval mode.
        cfg: frozen; its MODEL.WEIGHTS names the weights.
        classes: names of the classes in the order of the scores; "0", "1", ... where nobody has named them.
    """

    def __init__(
        self,
        cfg_or_name: CfgNode | str | os.PathLike,
        weights: str | os.PathLike | None = None,
        device: str | None = None,
        opts: Sequence[str] = (),
    ):
        """Build the model with its weights; arguments as for ``nlvideo.model_zoo.get``, but there must be weights.

        Args:
            cfg_or_name: a trained model such as "quickstart", the folder of a run, a YAML file, the name of a config,
                or a config.
            weights: None: those of the trained model or run, or MODEL.WEIGHTS of a file or config.
            device: as MODEL.DEVICE; None: as the config says.
            opts: overrides ``[KEY, VALUE, ...]``, e.g. ``["TEST.NUM_CLIPS", "1"]``.

        Raises:
            LookupFailed: no such model, config or key.
            FileNotFoundError: the weights are missing.
            ValueError: no weights are named, they are of another network, or a wrong value.
        """
        cfg = trained_config(cfg_or_name, weights, device, opts)
        if not cfg.MODEL.WEIGHTS:
            raise ValueError("MODEL.WEIGHTS: got '', allowed for a prediction: a checkpoint of this config's network")
        self.model = get(cfg)
        self.cfg: CfgNode = self.model.cfg
        self.classes: list[str] = self.model.classes
        self._mapper = MAPPER.get(self.cfg.DATALOADER.MAPPER)(self.cfg, False)

    def __call__(self, video: str | os.PathLike | np.ndarray | torch.Tensor, top_k: int = 5) -> list[tuple[str, float]]:
        """Return the ``top_k`` best (class name, score), the best first; arguments as for `scores`.

        Raises:
            VideoDecodeError, ValueError: as `scores`.
        """
        return self.best(self.scores(video), top_k)

    def best(self, scores: torch.Tensor, top_k: int = 5) -> list[tuple[str, float]]:
        """Return the ``top_k`` best (class name, score) of scores (num_classes,), the best first.

        Raises:
            ValueError: ``top_k`` is below 1.
        """
        if top_k < 1:
            raise ValueError(f"top_k: got {top_k}, allowed: 1 or more")
        values, labels = scores.topk(min(top_k, len(scores)))
        return [(self.classes[label], value) for label, value in zip(labels.tolist(), values.tolist())]

    @torch.no_grad()
    def scores(self, video: str | os.PathLike | np.ndarray | torch.Tensor) -> torch.Tensor:
        """Return the scores of a video, averaged over its views.

        Args:
            video: a file, a folder of frames, or frames as uint8 (T, H, W, 3), RGB.

        Returns:
            float32 (num_classes,) on the CPU: probabilities that add up to 1, or one probability for each class where
            MODEL.HEAD.LOSS is "sigmoid".

        Raises:
            VideoDecodeError: the file cannot be read.
            ValueError: an array of another type or shape, or the video is too short and ``INPUT.SHORT_VIDEO`` is
                "error".
        """
        return self._score(_record(video))

    def _score(self, record: dict[str, Any]) -> torch.Tensor:
        return self.model([self._mapper(record, None)])[0]["scores"]


def _record(video: str | os.PathLike | np.ndarray | torch.Tensor) -> dict[str, Any]:
    # The mapper wants a label; 0 is one for a single and for several labels, and nobody looks at it.
    if isinstance(video, (str, os.PathLike)):
        path = os.path.abspath(video)
        return {"file_name": path, "label": 0, "video_id": os.path.basename(path)}
    frames = video.cpu().numpy() if isinstance(video, torch.Tensor) else np.asarray(video)
    return {"file_name": frames, "label": 0, "video_id": "<frames>"}
