"""Export a trained model to a file that runs without nlvideo, with the same scores on a real clip."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nlvideo import __version__
from nlvideo.config import CfgNode
from nlvideo.data import VideoDecodeError, get_dataset
from nlvideo.data.dataset_mapper import MAPPER
from nlvideo.errors import UnexpectedResults, VideoTooShort
from nlvideo.evaluation.inference import eval_mode
from nlvideo.export.export_files import FORMATS, check_packages, read_export, trace, view_recipe, write_export
from nlvideo.utils.console import progress_bar
from nlvideo.utils.files.file_io import FileFormat, WholeFile, make_writable

#: largest difference of a probability, between the model and what was exported
TOLERANCE = 1e-4
_FORMAT = FileFormat("nlvideo export", 1, key="kind")
# Records of the test set that are tried for a clip.
_MAX_ATTEMPTS = 20


@dataclass(frozen=True)
class Export:
    """What was written."""

    path: str
    format: str  #: "pt2" or "onnx"
    difference: float  #: largest difference of a probability from the model's, on real clips
    recipe: dict[str, Any]  #: what travels in the file


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

    The graph normalises the pixels. N is free; T, H and W are those of the test. The file gets its name only once its
    scores agree with the model's on a real clip, alone and in a batch of three.

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
        VideoDecodeError: the given video cannot be read.
        UnexpectedResults: the scores differ by more than `TOLERANCE`; nothing is written.
    """
    if format is None:
        format = os.path.splitext(output)[1].removeprefix(".")
        if format not in FORMATS:
            raise ValueError(f"output: got {output!r}, allowed without a format: a name that ends in .pt2 or .onnx")
    check_packages(format)
    _check_output(output, overwrite)
    if not cfg.TEST.CROP_SIZE:
        raise ValueError("TEST.CROP_SIZE: got 0 (whole frames), allowed for an export: the size of the clips, pixels")
    recipe = {**_FORMAT.header(), "nlvideo": __version__, "classes": list(classes), **view_recipe(cfg)}
    clips = three_clips(real_views(cfg, video))
    with WholeFile(output) as whole, progress_bar(total=3, desc="tracing", unit="step") as bar:
        program = trace(model, clips)
        bar.update()
        bar.set_description("writing")
        write_export(program, whole.temporary, format, recipe)
        bar.update()
        bar.set_description("comparing")
        difference = _largest_difference(model, whole.temporary, format, clips)
        bar.update()
        if not difference <= TOLERANCE:  # also if it is NaN
            raise UnexpectedResults(
                f"{output}: not written, its probabilities differ by {difference:.1e} from the model's on a real clip,"
                f" allowed: {TOLERANCE:.0e}"
            )
    return Export(output, format, difference, recipe)


def real_views(cfg: CfgNode, video: str | None = None) -> torch.Tensor:
    """Return the test views of a file or folder of frames, or of the first video of DATASETS.TEST that can be read.

    They are uint8 (V, 3, T, H, W).

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
            what = "video: give one to compare the scores on; DATASETS.TEST cannot be read"
            raise ValueError(f"{what}: {error}") from None
        for record in records[:_MAX_ATTEMPTS]:
            try:
                return mapper(record, None)["video"]
            except (VideoDecodeError, VideoTooShort):
                continue
    what = f"DATASETS.TEST {list(cfg.DATASETS.TEST)} has no readable video"
    raise ValueError(f"video: give one to compare the scores on; {what}")


def three_clips(views: torch.Tensor) -> torch.Tensor:
    """Return the first three views (V, 3, T, H, W) of a video; if there are fewer, also mirrored and backwards."""
    return torch.cat([views, views.flip(4), views.flip(2)])[:3]


@torch.no_grad()
def _largest_difference(model: Any, path: str, format: str, clips: torch.Tensor) -> float:
    # As in a test, a video with one view each, and not by the function that the graph was traced from. Graphs stay in
    # float32, so the model does, too.
    amp, model.amp = getattr(model, "amp", ""), ""
    try:
        with eval_mode(model):
            outputs = model([{"video": clip[None], "video_id": ""} for clip in clips])
    finally:
        model.amp = amp
    expected = torch.stack([output["scores"] for output in outputs])
    run, _ = read_export(path, format)
    alone = torch.cat([run(clip[None]) for clip in clips])
    return torch.stack([run(clips) - expected, alone - expected]).abs().max().item()


def _check_output(output: str, overwrite: bool) -> None:
    if os.path.isdir(output):
        raise ValueError(f"output: got the folder {output!r}, allowed: a file")
    if os.path.exists(output) and not overwrite:
        raise ValueError(f"output: {output} exists; --overwrite replaces it")
    make_writable(os.path.dirname(os.path.abspath(output)), "output")
