"""A project with the smallest component of each registry, written from the docstring of the registry alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nlvideo.config import CfgNode
from nlvideo.data import CLIP_SAMPLER, MAPPER, SAMPLER, VideoTooShort, label_target, open_video
from nlvideo.engine import HookBase
from nlvideo.evaluation import EVALUATOR
from nlvideo.layers import ShapeSpec
from nlvideo.modeling import BACKBONE, HEAD, META_ARCH, NONLOCAL
from nlvideo.utils.events import WRITER, EventWriter, get_event_storage


def add_config(cfg: CfgNode) -> None:
    """Add the key of the hook."""
    cfg.MINIMAL = CfgNode()
    cfg.MINIMAL.VALUE = 1.0


def build_hooks(cfg: CfgNode) -> list[HookBase]:
    """Return the hook."""
    return [MinimalHook(cfg.MINIMAL.VALUE)]


class MinimalHook(HookBase):
    """Records a value and how often it was called."""

    def __init__(self, value: float):
        self.value, self.count = value, 0

    def after_step(self) -> None:
        self.count += 1
        self.trainer.storage.put_scalar("minimal", self.value * self.count, smoothing_hint=False)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]


@CLIP_SAMPLER.register()
class MinimalClips:
    """The first frames."""

    def __init__(self, *, num_frames: int, frame_stride: int, short_video: str, num_clips: int):
        self.length, self.clips, self.strict = num_frames, num_clips, short_video == "error"

    def __call__(self, num_video_frames: int, rng: np.random.Generator | None) -> list[list[int]]:
        if self.strict and num_video_frames < self.length:
            raise VideoTooShort(num_video_frames, self.length)
        return [[index % num_video_frames for index in range(self.length)] for _ in range(self.clips)]


@MAPPER.register()
class MinimalMapper:
    """The first frames, cut to the middle."""

    def __init__(self, cfg: CfgNode, is_train: bool):
        self.length, self.size, self.is_train = cfg.INPUT.NUM_FRAMES, cfg.INPUT.CROP_SIZE, is_train
        self.num_classes = cfg.MODEL.HEAD.NUM_CLASSES if cfg.MODEL.HEAD.LOSS == "sigmoid" else None

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        with open_video(record["file_name"], record.get("fps")) as video:
            frames = video.get_frames([index % video.num_frames for index in range(self.length)])
        clip = torch.from_numpy(frames[:, : self.size, : self.size].copy()).permute(3, 0, 1, 2)
        label = label_target(record["label"], self.num_classes)
        return {"video": clip if self.is_train else clip[None], "label": label, "video_id": record["video_id"]}


@SAMPLER.register()
class MinimalOrder:
    """One record after the other."""

    def __init__(self, records: Any, *, seed: int, rank: int, world_size: int, start: int):
        self.size, self.first, self.step = len(records), start + rank, world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        position = self.first
        while True:
            yield position % self.size, position
            position += self.step


@NONLOCAL.register()
class MinimalBlock(nn.Module):
    """Adds the mean of the map, times a weight."""

    def __init__(self, cfg: CfgNode, in_channels: int, stage: str = "res4"):
        super().__init__()
        self.weight = nn.Parameter(torch.full((in_channels, 1, 1, 1), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight * x.mean(dim=(2, 3, 4), keepdim=True)


@BACKBONE.register()
class MinimalBackbone(nn.Module):
    """One convolution. It reads a value, which tensors on the meta device do not have."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec):
        super().__init__()
        self.conv = nn.Conv3d(input_shape.channels, 4, 3, stride=(1, 4, 4), padding=1)

    def forward(self, video: torch.Tensor) -> dict[str, torch.Tensor]:
        assert torch.isfinite(video).all().item()
        return {"map": self.conv(video)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"map": ShapeSpec(channels=4, stride=4)}


@HEAD.register()
class MinimalHead(nn.Module):
    """The mean of the map, and a linear layer."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec):
        super().__init__()
        self.linear = nn.Linear(input_shape.channels, cfg.MODEL.HEAD.NUM_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.linear(x.mean(dim=(2, 3, 4)))
        return logits if self.training else logits.softmax(dim=1)

    def losses(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": nn.functional.cross_entropy(logits, labels)}


@META_ARCH.register()
class MinimalModel(nn.Module):
    """The mean colour, and a linear layer."""

    def __init__(self, cfg: CfgNode):
        super().__init__()
        self.linear = nn.Linear(3, cfg.MODEL.HEAD.NUM_CLASSES)

    def forward(self, batch: Any) -> Any:
        if self.training:
            return {"loss": nn.functional.cross_entropy(self._logits(batch["video"]), batch["label"])}
        return [
            {"video_id": video["video_id"], "scores": self._logits(video["video"]).softmax(dim=1).mean(dim=0).cpu()}
            for video in batch
        ]

    def _logits(self, clips: torch.Tensor) -> torch.Tensor:
        return self.linear(clips.to(self.linear.weight.device).float().mean(dim=(2, 3, 4)) / 255)


@EVALUATOR.register()
class MinimalEvaluator:
    """Counts what it is given."""

    def __init__(self, *arguments: Any):
        self.num_classes = arguments[-1]

    def reset(self) -> None:
        self.right = self.failed = self.seen = 0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        readable = [video for video in inputs if not video["failed"]]
        assert [video["video_id"] for video in readable] == [output["video_id"] for output in outputs]
        self.right += sum(int(out["scores"].argmax()) == video["label"] for video, out in zip(readable, outputs))
        self.failed, self.seen = self.failed + len(inputs) - len(readable), self.seen + len(inputs)

    def evaluate(self) -> dict[str, dict[str, float]]:
        return {"minimal": {"right": 100.0 * self.right / self.seen, "failed": self.failed}}


@WRITER.register()
class MinimalWriter(EventWriter):
    """Writes the number of the iteration into a file."""

    def __init__(self, cfg: CfgNode):
        self.path = Path(cfg.OUTPUT_DIR, "minimal.txt")

    def _add(self, word: object) -> None:
        with self.path.open("a") as file:
            print(word, file=file)

    def write(self) -> None:
        self._add(get_event_storage().iter)

    def close(self) -> None:
        self._add("closed")
