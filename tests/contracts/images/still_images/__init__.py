"""A project whose samples are images of several sizes, each with points as its target, as the docstrings allow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from nlvideo.config import CfgNode
from nlvideo.data import MAPPER, SAMPLER, DatasetCatalog, VideoDecodeError
from nlvideo.data.samplers import StreamSampler
from nlvideo.evaluation import EVALUATOR
from nlvideo.evaluation.evaluator import Evaluator
from nlvideo.modeling import META_ARCH
from nlvideo.modeling.nonlocal_block import build_nonlocal_block, insert_nonlocal
from nlvideo.utils import comm


def load_dots(name: str) -> list[dict[str, Any]]:
    """The images of ``dots:FOLDER``."""
    paths = sorted(Path(name.partition(":")[2]).glob("*.png"))
    return [{"file_name": str(path), "label": i % 2, "video_id": path.stem} for i, path in enumerate(paths)]


DatasetCatalog.kinds["dots"] = load_dots


@MAPPER.register()
class DotMapper:
    """An image and as many points as its label says, and one more."""

    def __init__(self, cfg: CfgNode, is_train: bool):
        self.is_train = is_train

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        try:
            with Image.open(record["file_name"]) as image:
                pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        except OSError as error:
            raise VideoDecodeError(record["file_name"], str(error)) from None
        points = torch.arange(2.0 * (1 + record["label"])).view(-1, 2)
        return {"image": pixels, "points": points, "label": record["label"], "video_id": record["video_id"]}

    @staticmethod
    def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"images": [s["image"] for s in samples], "points": [s["points"] for s in samples]}


@SAMPLER.register()
class PairSampler(StreamSampler):
    """Pairs of one record, as long as a batch."""

    def __init__(self, records: Any, *, batch: int, **kwargs: int):
        super().__init__(records, **kwargs)
        self.batch = batch

    @staticmethod
    def options(cfg: CfgNode) -> dict[str, int]:
        return {"batch": cfg.SOLVER.CLIPS_PER_BATCH}

    def index_at(self, position: int) -> int:
        return position // self.batch % self.size


@META_ARCH.register()
class DotModel(nn.Module):
    """Counts the points of images."""

    def __init__(self, cfg: CfgNode):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.Linear(4, 1)
        if cfg.MODEL.NONLOCAL.ENABLED:
            insert_nonlocal(self, {"conv": build_nonlocal_block(cfg, 4, dim=2)})
        self.example_input = torch.zeros(1, 3, 24, 40, dtype=torch.uint8, device="meta")

    def forward(self, batch: Any) -> Any:
        if self.training:
            assert "failed" not in batch
            counts = torch.cat([self.forward_clips(image[None]) for image in batch["images"]])
            return {"loss": (counts - torch.tensor([[float(len(p))] for p in batch["points"]])).square().mean()}
        return [{"video_id": s["video_id"], "count": self.forward_clips(s["image"][None]).item()} for s in batch]

    def forward_clips(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(images.float() / 255).mean(dim=(2, 3)))

    def rename_weights(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name.replace("old_", ""): value for name, value in weights.items()}


@EVALUATOR.register()
class DotEvaluator(Evaluator):
    """Two tasks."""

    def reset(self) -> None:
        self.counts: dict[str, float] = {}
        self.failed = 0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        self.failed += sum(bool(sample["failed"]) for sample in inputs)
        self.counts.update({output["video_id"]: output["count"] for output in outputs})

    def evaluate(self) -> dict[str, dict[str, float]]:
        parts = comm.gather_object((self.counts, self.failed))
        if not parts:
            return {}
        counts = [count for part, _ in parts for count in part.values()]
        return {"dots": {"mean": sum(counts) / len(counts)}, "images": {"failed": sum(failed for _, failed in parts)}}
