"""Data: datasets by name, exact video decoding, clip sampling, augmentation, and the loaders built from them."""

from nlvideo.data.build import build_test_loader, build_train_loader
from nlvideo.data.catalog import DatasetCatalog, MetadataCatalog, label_target
from nlvideo.data.clip_sampling import CLIP_SAMPLER, MMActionClips, SlowFastClips, SlowFastOffsetClips
from nlvideo.data.dataset_mapper import MAPPER, VideoMapper
from nlvideo.data.datasets import get_dataset
from nlvideo.data.loaders import TestLoader, TrainLoader
from nlvideo.data.samplers import SAMPLER
from nlvideo.data.video.base import Video
from nlvideo.data.video.frame_stream import FrameStream, Window, open_camera, slide
from nlvideo.data.video.frames import FrameArray, FrameFolder
from nlvideo.data.video.video_index import IndexCache, VideoIndex
from nlvideo.data.video.video_reader import READERS, TorchCodecReader, VideoReader, open_video
from nlvideo.errors import VideoDecodeError, VideoTooShort

__all__ = [
    "CLIP_SAMPLER",
    "MAPPER",
    "READERS",
    "SAMPLER",
    "DatasetCatalog",
    "FrameArray",
    "FrameFolder",
    "FrameStream",
    "IndexCache",
    "MMActionClips",
    "MetadataCatalog",
    "SlowFastClips",
    "SlowFastOffsetClips",
    "TestLoader",
    "TorchCodecReader",
    "TrainLoader",
    "Video",
    "VideoDecodeError",
    "VideoIndex",
    "VideoMapper",
    "VideoReader",
    "VideoTooShort",
    "Window",
    "build_test_loader",
    "build_train_loader",
    "get_dataset",
    "label_target",
    "open_camera",
    "open_video",
    "slide",
]
