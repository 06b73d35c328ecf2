"""From a dataset record to what a model takes: decode, choose clips, augment."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from nlvideo.config import CfgNode, configurable
from nlvideo.data.catalog import Record, label_target
from nlvideo.data.clip_sampling import CLIP_SAMPLER
from nlvideo.data.transforms import augmentation
from nlvideo.data.transforms.clip_augmentations import ClipAugmentation, augment_clip, build_clip_augmentations
from nlvideo.data.video.base import Video
from nlvideo.data.video.pixels import DEFAULT_LIMITS, PixelLimits
from nlvideo.data.video.video_reader import load_video_decoder, open_video
from nlvideo.errors import VideoDecodeError, VideoTooShort
from nlvideo.utils.registry import Registry

MAPPER = Registry(
    "MAPPER",
    """Turns a dataset record into a sample.

    Created as ``cls(cfg, is_train)`` and called as ``mapper(record, rng)``. ``open_video(record["file_name"],
    record.get("fps"))`` opens the video of a record (see nlvideo/data/catalog.py): a file, a folder of frames, or what
    a prediction is asked for, such as an array. ``rng`` is a numpy Generator in training, and the only source of
    chance; it is None at test.

    Returns {"video": uint8 (C, T, H, W) in training, (V, C, T, H, W) at test with V views, "label":
    ``label_target(record["label"], num_classes)``, "video_id": that of the record}; in training with
    INPUT.REPEATED_CLIPS R > 1 a list of R of them. All training clips have the same shape. The label of a training clip
    may be another one, such as what of ``label_spans`` is active in it.

    Raises ``VideoDecodeError`` or ``VideoTooShort`` for a video that cannot be used. The loader then takes another one
    in training, and counts the video as wrong at test. A mapper is pickled into worker processes.

    Samples need not be clips: they may hold what the model takes in place of "video". Then the mapper has
    ``collate(samples) -> dict``, a method that makes a training batch of a list of samples, and a run says nothing of
    clips in advance.
    """,
)
# Frames of a video that is longer than any usual clip.
_LONG_VIDEO = 100_000


@MAPPER.register()
class VideoMapper:
    """The mapper of Sec. 4.1: random clip, scale, crop and flip in training; clips x crops (x flips) at test.

    All clips of a video, in training and at test, are cut from one decode of the union of their frames. Views at test
    are in the order clip, crop, flip; a training clip draws from its generator in the order short side, crop, flip,
    further augmentations, and repeated clips do so one after the other.

    Args:
        is_train: False: for test.
        clip_sampler: see ``CLIP_SAMPLER``.
        short_side_range: [smallest, largest] short side, pixels; the first is used at test.
        crop_size: pixels; 0 at test for whole frames.
        flip_prob: probability of a mirrored clip, in training.
        num_crops: at test, see ``augmentation.uniform_crops``.
        flip_views: at test every view also mirrored.
        num_classes: see ``label_target``.
        reading: the keyword arguments of ``open_video``.
        crop_area_range: [smallest, largest] share of the frame, for a random resized crop in training instead of short
            side and crop; None: off.
        crop_aspect_range: [smallest, largest] width / height of that crop.
        augmentations: applied to training clips after the flip, in this order.
        fps: frames per second that the sampler counts, see ``nominal_frames``; 0: the frames of the video, as always
            for a sampler whose ``uses_stride`` is False.

    Raises:
        ValueError: at test, a clip sampler that needs a random generator.
        ImportError: torchcodec should read the files but cannot be loaded.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        clip_sampler: Callable[[int, np.random.Generator | None], list[list[int]]],
        short_side_range: tuple[int, int],
        crop_size: int,
        flip_prob: float = 0.5,
        num_crops: int = 1,
        flip_views: bool = False,
        num_classes: int | None = None,
        reading: dict[str, Any] | None = None,
        crop_area_range: Sequence[float] | None = None,
        crop_aspect_range: Sequence[float] = (3 / 4, 4 / 3),
        augmentations: Sequence[ClipAugmentation] = (),
        fps: float = 0.0,
    ):
        self.fps = fps if getattr(clip_sampler, "uses_stride", True) else 0.0
        self.is_train, self.clip_sampler, self.num_classes = is_train, clip_sampler, num_classes
        self.short_side_range, self.crop_size, self.flip_prob = tuple(short_side_range), crop_size, flip_prob
        self.num_crops, self.flip_views = num_crops, flip_views
        self.reading = reading or {}
        self.pixels = self.reading.get("pixels", DEFAULT_LIMITS)
        if self.reading.get("reader", "pyav").startswith("torchcodec"):
            load_video_decoder()  # so that what is missing is an error here and not in a worker
        self.crop_area_range, self.crop_aspect_range = crop_area_range, crop_aspect_range
        self.augmentations = list(augmentations)
        if not is_train:
            # A sampler that needs a random generator is an error here and not in a worker.
            with suppress(VideoTooShort):
                clip_sampler(_LONG_VIDEO, None)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool) -> dict[str, Any]:
        """Return the constructor's arguments."""
        part = "INPUT" if is_train else "TEST"
        clip_sampler = CLIP_SAMPLER.get(cfg[part].CLIP_SAMPLER, f"{part}.CLIP_SAMPLER")(
            num_frames=cfg.INPUT.NUM_FRAMES,
            frame_stride=cfg.INPUT.FRAME_STRIDE,
            short_video=cfg.INPUT.SHORT_VIDEO,
            num_clips=cfg.INPUT.REPEATED_CLIPS if is_train else cfg.TEST.NUM_CLIPS,
        )
        return {
            "is_train": is_train,
            "clip_sampler": clip_sampler,
            "short_side_range": cfg.INPUT.SHORT_SIDE_RANGE if is_train else (cfg.TEST.SHORT_SIDE,) * 2,
            "crop_size": cfg.INPUT.CROP_SIZE if is_train else cfg.TEST.CROP_SIZE,
            "flip_prob": cfg.INPUT.FLIP_PROB,
            "num_crops": cfg.TEST.NUM_CROPS,
            "flip_views": cfg.TEST.FLIP,
            "num_classes": cfg.MODEL.HEAD.NUM_CLASSES if cfg.MODEL.HEAD.LOSS == "sigmoid" else None,
            "reading": reading_options(cfg),
            "crop_area_range": cfg.INPUT.CROP_AREA_RANGE or None,
            "crop_aspect_range": cfg.INPUT.CROP_ASPECT_RANGE,
            "augmentations": build_clip_augmentations(cfg) if is_train else (),
            "fps": cfg.INPUT.FPS,
        }

    def __call__(self, record: Record, rng: np.random.Generator | None) -> dict[str, Any] | list[dict[str, Any]]:
        clips, frames, labels = self._decode(record, rng)
        if self.is_train:
            assert rng is not None, "a mapper for training needs a random generator"
            videos = [self._train_clip(torch.from_numpy(frames[clip]), rng) for clip in clips]
        else:
            videos, labels = [self._test_views(torch.from_numpy(frames), clips)], labels[:1]
        samples = [
            {"video": video, "label": label_target(label, self.num_classes), "video_id": record["video_id"]}
            for video, label in zip(videos, labels, strict=True)
        ]
        return samples[0] if len(samples) == 1 else samples

    def choose_clips(self, record: Record, video: Video, rng: np.random.Generator | None) -> list[list[int]]:
        """Return the frames of each clip of a record, as indices in its file.

        Raises:
            VideoDecodeError: see ``nominal_frames``.
            VideoTooShort: see ``CLIP_SAMPLER``.
        """
        frames = nominal_frames(record, video, self.fps)
        try:
            return [[frames[place] for place in clip] for clip in self.clip_sampler(len(frames), rng)]
        except VideoTooShort as error:
            raise VideoTooShort(error.num_video_frames, error.needed, self.fps) from None

    def _decode(
        self, record: Record, rng: np.random.Generator | None
    ) -> tuple[list[list[int]], np.ndarray, list[int | list[int]]]:
        """Return the clips as rows of the frames, the frames (each one once), and the label of each clip.

        At test the frames are resized here, because all views share them.
        """
        with open_video(record["file_name"], record.get("fps"), **self.reading) as video:
            clips = self.choose_clips(record, video, rng)
            indices = sorted(set().union(*clips))
            if self.is_train:
                frames = video.get_frames(indices)
                size = augmentation.resized_size(frames.shape[1], frames.shape[2], self.short_side_range[1])
                self.pixels.check_clip(video.path, len(indices), *size)
            else:
                frames = augmentation.read_resized(video, indices, self.short_side_range[0], self.pixels).numpy()
            labels = [record["label"]] * len(clips)
            if self.is_train and "label_spans" in record:
                labels = [_active_labels(record, video, min(clip), max(clip)) for clip in clips]
        row = {index: i for i, index in enumerate(indices)}
        return [[row[index] for index in clip] for clip in clips], frames, labels

    def _train_clip(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        if self.crop_area_range is None:
            frames = augmentation.jitter_short_side(frames, self.short_side_range, rng)
            frames = augmentation.random_crop(frames, self.crop_size, rng)
        else:
            crop = self.crop_size, self.crop_area_range, self.crop_aspect_range
            frames = augmentation.random_resized_crop(frames, *crop, rng)
        frames = augmentation.random_flip(frames, self.flip_prob, rng)
        return augmentation.to_clip(augment_clip(frames, self.augmentations, rng))

    def _test_views(self, frames: torch.Tensor, clips: list[list[int]]) -> torch.Tensor:
        views = []
        for clip in clips:
            # crop[clip] is slow: torch then gathers one pixel at a time.
            rows = torch.tensor(clip)
            for crop in augmentation.uniform_crops(frames, self.crop_size, self.num_crops):
                view = crop.index_select(0, rows)
                views.extend([view, augmentation.flip(view)] if self.flip_views else [view])
        return torch.stack([augmentation.to_clip(view) for view in views])


def reading_options(cfg: CfgNode) -> dict[str, Any]:
    """Return the keyword arguments of ``open_video`` that a config asks for."""
    loader = cfg.DATALOADER
    return {
        "reader": loader.READER,
        "timeout_sec": loader.VIDEO_TIMEOUT_SEC,
        "index_dir": loader.INDEX_DIR or None,
        "pixels": PixelLimits(loader.MAX_FRAME_PIXELS, loader.MAX_CLIP_PIXELS),
    }


def _active_labels(record: Record, video: Video, first: int, last: int) -> list[int]:
    """The labels of ``label_spans`` that are active at any time from frame ``first`` to frame ``last``."""
    active = set()
    for label, start_sec, end_sec in record["label_spans"]:
        begin = video.index_at(start_sec)
        # A span between two frames counts as one frame.
        end = max(begin + 1, video.index_at(end_sec))
        if begin <= last and first < end:
            active.add(label)
    return sorted(active)


def nominal_frames(record: Record, video: Video, fps: float = 0.0) -> Sequence[int]:
    """Return the frames of a record that a clip sampler chooses among, as indices in its file.

    These are all its frames, or, with ``fps``, the frame that is shown at each 1 / fps of a second from its first frame
    on. Where the video has fewer frames per second than that, frames repeat. The frame is one that began at most a
    millisecond later: many files round their timestamps to milliseconds.

    Raises:
        VideoDecodeError: the record has no frames, or ``fps`` is asked of a video whose frame rate is not known.
    """
    first, end = frame_interval(record, video)
    if not fps:
        return range(first, end)
    seconds, rounding = video.frame_seconds, 1e-3
    length = min(record.get("end_sec", np.inf), video.duration_sec) - max(record.get("start_sec", 0.0), 0.0)
    times = seconds[first] + np.arange(0, max(length - rounding, rounding), 1 / fps)
    return np.minimum(np.searchsorted(seconds, times + rounding, side="right") - 1, end - 1).tolist()


def frame_interval(record: Record, video: Video) -> tuple[int, int]:
    """Return the frames [first, end) of a record: the whole video, or from its start_sec to before its end_sec.

    Raises:
        VideoDecodeError: there is no frame between them.
    """
    first = video.index_at(record["start_sec"]) if "start_sec" in record else 0
    end = video.index_at(record["end_sec"]) if "end_sec" in record else video.num_frames
    if first >= end:
        last = f"{record['end_sec']:g} s" if "end_sec" in record else "the end"
        interval = f"{record.get('start_sec', 0):g} s to {last}"
        raise VideoDecodeError(video.path, f"no frames from {interval} among {video.num_frames} at {video.fps:.4g} fps")
    return first, end
