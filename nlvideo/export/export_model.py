"""Export a trained model to a file that runs without nlvideo, with the same scores on a real clip."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from nlvideo import __version__
from nlvideo.config import CfgNode
from nlvideo.data import VideoDecodeError, get_dataset
from nlvideo.data.dataset_mapper import MAPPER
from nlvideo.errors import UnexpectedResults, VideoTooShort
from nlvideo.export.export_files import FORMATS, check_packages, read_export, write_export
from nlvideo.export.export_network import trace
from nlvideo.export.recipe import view_recipe
from nlvideo.utils.console import progress_bar
from nlvideo.utils.files.file_io import make_writable, naming

#: largest difference of a probability, between the model and what was exported
TOLERANCE = 1e-4
_KIND, _VERSION = "nlvideo export", 1
# Records of the test set that are tried for a clip.
_MAX_ATTEMPTS = 20


@dataclass(frozen=True)
class Export:
    """What was written."""

    path: str
    #: "pt2" or "onnx"
    format: str
    #: largest difference of a probability from the model's, on real clips
    difference: float
    #: what travels in the file
    recipe: dict[str, Any]


def export_model(
    model: nn.Module,
    cfg: CfgNode,
    classes: Sequence[str],
    output: str,
    format: str | None = None,
    video: str | None = None,
    overwrite: bool = False,
) -> Export:
    """Write a model as a graph from uint8 clips (N, 3, T, H, W) to probabilities (N, K).

    The normalisation of pixels is inside; N is free, T, H and W are those of the test. The file appears under its name
    only once its scores agree with the model's on a real clip, alone and in a batch of three.

    Args:
        model: a `VideoClassifier` with its weights, left as it is.
        cfg: of the model.
        classes: names of the K classes.
        output: the file; its folder is made.
        format: "pt2" (torch.export) or "onnx"; None: the ending of ``output``.
        video: to compare on; None: the first of DATASETS.TEST that can be read.
        overwrite: replace a file that is there.

    Raises:
        ValueError: an unknown format, a path that cannot be written, clips without a fixed size, or no video.
        ImportError: a package of the extra ``export`` is missing.
        VideoDecodeError: the video that was given cannot be read.
        UnexpectedResults: the scores differ by more than `TOLERANCE`; nothing is written.
    """
    format = format or _format_of(output)
    check_packages(format)
    _check_output(output, overwrite)
    if not cfg.TEST.CROP_SIZE:
        raise ValueError("TEST.CROP_SIZE: got 0 (whole frames), allowed for an export: the size of the clips, pixels")
    recipe = {"kind": _KIND, "version": _VERSION, "nlvideo": __version__, "classes": list(classes), **view_recipe(cfg)}
    clips = three_clips(real_views(cfg, video))
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(output)), prefix=".export") as folder:
        # Not a name of its own: what reads the file may go by the ending.
        path = os.path.join(folder, f"model.{format}")
        with progress_bar(total=3, desc="tracing", unit="step") as bar:
            program = trace(model, clips)
            _next(bar, "writing")
            with naming(output, path):
                write_export(program, path, format, recipe)
            _next(bar, "comparing")
            difference = largest_difference(model, path, format, clips)
            _next(bar, "done")
        if not difference <= TOLERANCE:  # nor where it is NaN
            raise UnexpectedResults(
                f"{output}: not written, its probabilities differ by {difference:.1e} from the model's on a real clip,"
                f" allowed: {TOLERANCE:.0e}"
            )
        os.replace(path, output)
    return Export(output, format, difference, recipe)


def real_views(cfg: CfgNode, video: str | None = None) -> torch.Tensor:
    """Return the test views of a video: uint8 (V, 3, T, H, W).

    Args:
        cfg: of the model.
        video: file or folder of frames; None: the first of DATASETS.TEST that can be read.

    Raises:
        ValueError: no video can be read, or ``video`` is too short.
        VideoDecodeError: ``video`` cannot be read.
    """
    mapper = MAPPER.get(cfg.DATALOADER.MAPPER, "DATALOADER.MAPPER")(cfg, False)
    if video is not None:
        return mapper({"file_name": os.path.abspath(video), "label": 0, "video_id": video}, None)["video"]
    for name in cfg.DATASETS.TEST:
        try:
            records = get_dataset(name)
        except (ValueError, KeyError, OSError) as error:
            raise ValueError(f"--video is needed to compare on, since DATASETS.TEST cannot be read: {error}") from None
        for record in records[:_MAX_ATTEMPTS]:
            try:
                return mapper(record, None)["video"]
            except (VideoDecodeError, VideoTooShort):
                continue
    raise ValueError(f"--video is needed to compare on: DATASETS.TEST {list(cfg.DATASETS.TEST)} has no readable video")


def three_clips(views: torch.Tensor) -> torch.Tensor:
    """The first three views (V, 3, T, H, W) of a video; where there are fewer, also mirrored and backwards."""
    return torch.cat([views, views.flip(4), views.flip(2)])[:3]


@torch.no_grad()
def largest_difference(model: nn.Module, path: str, format: str, clips: torch.Tensor) -> float:
    """Return how far the probabilities of an exported file are from the model's, one clip at a time and all at once.

    Args:
        model: in eval mode.
        path: the file.
        format: "pt2" or "onnx".
        clips: uint8 (N, 3, T, H, W).
    """
    # The way of the test, a video with one view each, and not a function that the graph was traced from.
    outputs = model([{"video": clip[None], "video_id": ""} for clip in clips])
    expected = torch.stack([output["scores"] for output in outputs])
    run, _ = read_export(path, format)
    alone = torch.cat([run(clip[None]) for clip in clips])
    return torch.stack([run(clips) - expected, alone - expected]).abs().max().item()


def _format_of(output: str) -> str:
    ending = os.path.splitext(output)[1].removeprefix(".")
    if ending not in FORMATS:
        raise ValueError(f"--output: got {output!r}, allowed without --format: a name that ends in .pt2 or .onnx")
    return ending


def _check_output(output: str, overwrite: bool) -> None:
    if os.path.isdir(output):
        raise ValueError(f"--output: got the folder {output!r}, allowed: a file")
    if os.path.exists(output) and not overwrite:
        raise ValueError(f"--output: {output} exists; --overwrite replaces it")
    make_writable(os.path.dirname(os.path.abspath(output)), "--output")


def _next(bar: tqdm, description: str) -> None:
    bar.update()
    bar.set_description(description)
