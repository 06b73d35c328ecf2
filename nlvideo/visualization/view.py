"""One view of a video as a test shows it to a network, where its pixels lie in the video, and maps in numbers."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from nlvideo.config import CfgNode
from nlvideo.data import Video, VideoMapper, open_video
from nlvideo.data.transforms import augmentation
from nlvideo.data.transforms.augmentation import read_resized
from nlvideo.visualization.attention import NUM_ARROWS, AttentionMaps, TopKeys, top_cells, top_keys
from nlvideo.visualization.gradcam import ClassMaps
from nlvideo.visualization.grid import Grid


@dataclass(frozen=True)
class View:
    """A clip, cropped and resized, and the way back to the file it is from."""

    video: torch.Tensor  #: uint8 (C, T, H, W), what a model takes
    frames: tuple[int, ...]  #: index in the file of each of the T frames
    scale: tuple[float, ...]  #: pixels of the view per pixel of the file, (vertical, horizontal)
    corner: tuple[int, ...]  #: (y, x) of the crop in the resized frame, pixels

    def to_view(self, y: float, x: float) -> tuple[float, float]:
        """A point of the file's frames in the view: both count from the corner of the frame, in pixels."""
        return y * self.scale[0] - self.corner[0], x * self.scale[1] - self.corner[1]

    def to_file(self, y: float, x: float) -> tuple[float, float]:
        """The inverse of ``to_view``."""
        return (y + self.corner[0]) / self.scale[0], (x + self.corner[1]) / self.scale[1]


def load_view(
    cfg: CfgNode, path: str | os.PathLike, start_sec: float | None = None, end_sec: float | None = None
) -> View:
    """The clip of a test with one clip and one crop: the middle of the video, the centre of the frame.

    Frames, resizing and crop are those of `VideoMapper` with the config's ``TEST`` keys. Only the frames of the clip
    are decoded, however long the video is.

    Args:
        cfg: the model's config.
        path: a video, or a folder of frames.
        start_sec, end_sec: the part to look at; None: from its begin, and to its end.

    Raises:
        VideoDecodeError: the file cannot be read, or has no frames between ``start_sec`` and ``end_sec``.
        ValueError: the video is too short and ``INPUT.SHORT_VIDEO`` is "error", or too small for the crop.
    """
    return next(load_views(cfg, path, [(start_sec, end_sec)]))


def load_views(
    cfg: CfgNode, path: str | os.PathLike, parts: Iterable[tuple[float | None, float | None]]
) -> Iterator[View]:
    """Yield a view for each part (start_sec, end_sec) of a video, which is opened once; see `load_view`."""
    mapper = VideoMapper(cfg.with_overrides(["TEST.NUM_CLIPS", 1, "TEST.NUM_CROPS", 1, "TEST.FLIP", False]), False)
    with open_video(path, **mapper.reading) as video:
        for start_sec, end_sec in parts:
            yield _view(video, mapper, start_sec, end_sec)


def _view(video: Video, mapper: VideoMapper, start_sec: float | None, end_sec: float | None) -> View:
    part = {"start_sec": start_sec, "end_sec": end_sec}
    (indices,) = mapper.choose_clips({key: value for key, value in part.items() if value is not None}, video, None)
    resized = read_resized(video, indices, mapper.short_side_range[0], mapper.pixels)
    original = (video.height, video.width)
    crop = augmentation.uniform_crops(resized, mapper.crop_size, 1)[0]
    sides = list(zip(original, resized.shape[1:3], crop.shape[1:3], strict=True))
    return View(
        video=augmentation.to_clip(crop),
        frames=tuple(indices),
        scale=tuple(after / before for before, after, _ in sides),
        corner=tuple((after - cropped) // 2 for _, after, cropped in sides),
    )


def describe(maps: AttentionMaps, view: View, k: int = NUM_ARROWS) -> dict[str, Any]:
    """Queries and their keys of the highest weights, at most ``k``, in numbers. The maps are of the clip of the view.

    Returns:
        ``{"block", "pairwise", "num_keys", "queries": [{**place, "share", "keys": [{"weight", **place}]}]}``. The share
        is what the keys have of all weight above 0. A place is ``"shown": [t, y, x]``, in sampled frames and pixels of
        the view, and ``"video": [frame, y, x]``, the index of a frame in the file and pixels there. The place of a key
        is the centre of its window, and the frame that stands for it.
    """
    queries = []
    for position, found in zip(maps.positions.tolist(), top_keys(maps, k), strict=True):
        place = _place(view, int(position[0]), position)
        queries.append({**place, "share": round(found.share, 4), "keys": _places(view, maps.keys, found)})
    return {"block": maps.block, "pairwise": maps.pairwise, "num_keys": maps.weights[0].numel(), "queries": queries}


def describe_class(maps: ClassMaps, view: View) -> dict[str, Any]:
    """The cells that speak most for a class, in numbers. The maps are of the clip of the view.

    Returns:
        ``{"layer", "class", "num_cells", "share", "cells": [{"weight", **place}]}``: the number of the class, and as
        few cells as have 90 % of the weight, at most 20. See `describe`.
    """
    found = top_cells(maps.weights[0], maps.grid)
    numbers = {"num_cells": maps.weights[0].numel(), "share": round(found.share, 4)}
    return {"layer": maps.layer, "class": maps.target, **numbers, "cells": _places(view, maps.grid, found)}


def _places(view: View, grid: Grid, found: TopKeys) -> list[dict[str, Any]]:
    columns = zip(found.cells.tolist(), found.centres.tolist(), found.weights.tolist(), strict=True)
    return [{"weight": w, **_place(view, grid.shown_frame(cell[0]), centre)} for cell, centre, w in columns]


def _place(view: View, frame: int, point: list[float]) -> dict[str, list[float]]:
    y, x = view.to_file(point[1], point[2])
    return {"shown": [round(v, 3) for v in point], "video": [view.frames[frame], round(y, 3), round(x, 3)]}
