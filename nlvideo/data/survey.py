"""A short look at some videos when a training starts: what a clip covers of them, and which keys would fit better."""

import logging
import os
import time
from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

import av
import numpy as np

from nlvideo.config import CfgNode
from nlvideo.data.catalog import Record
from nlvideo.data.clip_sampling import CLIP_SAMPLER
from nlvideo.data.many_files import map_in_processes
from nlvideo.data.video.exact.decode_in_order import open_stream, stated_rates, time_base_of
from nlvideo.data.video.paths import local_video_path
from nlvideo.data.video.video_reader import open_video
from nlvideo.utils.system.time_limit import TimeLimit

_logger = logging.getLogger(__name__)
# Videos that are looked at, evenly spread, and how long that may take: in all, and for one file, seconds.
MAX_VIDEOS, _MAX_SEC, _FILE_SEC = 200, 20.0, 5.0
_MAX_PROCESSES, _FILES_PER_PROCESS = 8, 25


class Header(NamedTuple):
    """What is known about a video without decoding it."""

    num_frames: float  #: of the video, or of the part of it that a record is, about
    fps: float  #: frames per second; 0.0 where it is not known
    height: int  #: pixels
    width: int  #: pixels


def read_header(record: Record) -> Header | None:
    """Return what the header of a video says, or None where it cannot be read: a run that uses it says more."""
    try:
        return TimeLimit(_FILE_SEC, record["file_name"]).run(lambda: _read_header(record), cleanup=lambda: None)
    except Exception:
        return None


def _read_header(record: Record) -> Header:
    path, num_frames, fps, size = local_video_path(record["file_name"]), 0.0, 0.0, (0, 0)
    if not os.path.isdir(path):
        container, stream = open_stream(path)
        with container:
            fps, size = float(stated_rates(stream)[0]), (stream.codec_context.height, stream.codec_context.width)
            seconds = (stream.duration or 0) * time_base_of(stream) or (container.duration or 0) / av.time_base
            num_frames = float(seconds) * fps
    if not num_frames or not size[0]:
        # A folder, or a file that says too little.
        with open_video(path, record.get("fps")) as video:
            num_frames, fps, size = video.num_frames, video.fps, (video.height, video.width)
    if fps:
        end = min(record.get("end_sec", np.inf), num_frames / fps)
        num_frames = max(0.0, end - record.get("start_sec", 0.0)) * fps
    return Header(num_frames, fps, *size)


def log_survey(cfg: CfgNode, records: Sequence[Record]) -> None:
    """Look at up to 200 of the training videos, and log what a clip covers of them and what would fit better.

    Remote videos are left out: they would be fetched.
    """
    count = min(len(records), MAX_VIDEOS)
    evenly = (records[i * len(records) // count] for i in range(count))
    # A member of a shard has the address of the shard in its name.
    picked = [record for record in evenly if "://" not in record["file_name"]]
    if not picked:
        return
    end, looked = time.monotonic() + _MAX_SEC, []
    results = map_in_processes(read_header, picked, min(_MAX_PROCESSES, 1 + len(picked) // _FILES_PER_PROCESS))
    with closing(results):
        for _, header in results:
            looked.append(header)
            if time.monotonic() > end:
                break
    found = [header for header in looked if isinstance(header, Header)]
    line, advice = describe(cfg, found) if found else ("none could be read", [])
    failed = f"; {len(looked) - len(found)} could not be read" if 0 < len(found) < len(looked) else ""
    _logger.info("Survey of %d of %d videos: %s%s", len(looked), len(records), line, failed)
    for text in advice:
        _logger.warning("%s", text)


def describe(cfg: CfgNode, videos: Sequence[Header]) -> tuple[str, list[str]]:
    """Return what a clip covers of the videos, in a line, and a line for each thing that another value makes better.

    Args:
        cfg: its INPUT keys say what a clip is.
        videos: at least one.
    """
    clip, (frames, rates, heights, widths) = cfg.INPUT, (np.array(column) for column in zip(*videos, strict=True))
    uses_stride = getattr(CLIP_SAMPLER.get(clip.CLIP_SAMPLER, "INPUT.CLIP_SAMPLER"), "uses_stride", True)
    is_timed = rates > 0
    seconds, rates = frames[is_timed] / rates[is_timed], rates[is_timed]
    fps = clip.FPS if uses_stride else 0.0
    what = f"a clip: {clip.NUM_FRAMES} frames, "
    what += f"stride {clip.FRAME_STRIDE}{f' at {fps:g} fps' if fps else ''}" if uses_stride else "spread over the video"
    length, spread = f"{np.median(frames):.0f} frames (median)", ""
    if len(rates):
        if uses_stride:
            what += f" = {clip.NUM_FRAMES * clip.FRAME_STRIDE / (fps or np.median(rates)):.3g} s"
        length = f"{np.median(seconds):.3g} s (median; {seconds.min():.3g} to {seconds.max():.3g})"
        spread = " to ".join(dict.fromkeys(f"{rate:.4g}" for rate in (rates.min(), rates.max()))) + " fps"
    size = f"{np.median(widths):.0f}x{np.median(heights):.0f} (median)"
    line = f"{what}; videos: {length}, {spread or 'rate unknown'}, {size}"
    # Frames as the sampler counts them.
    advice = _advice_on_length(clip, seconds * fps if fps else frames, uses_stride)
    if uses_stride and not fps and len(rates) and rates.max() > 1.5 * rates.min():
        differ = f"The rates of the videos differ, {spread}, so that clips cover different times"
        advice.append(f"{differ}: INPUT.FPS {rates.min():.4g} makes them the same")
    side = np.median(np.minimum(heights, widths))
    used = clip.CROP_SIZE if clip.CROP_AREA_RANGE else max(clip.SHORT_SIDE_RANGE)
    if side > 2 * used:
        sides = f"The short side of the videos is {side:.0f} pixels (median), and {used} are used"
        advice.append(f"{sides}: tools/transcode_dataset.py --short-side {used} makes videos that decode faster")
    return line, advice


def _advice_on_length(clip: CfgNode, lengths: np.ndarray, uses_stride: bool) -> list[str]:
    """Lines about clips that see little of videos of so many frames, and videos that are shorter than a clip."""
    advice, stride = [], clip.FRAME_STRIDE if uses_stride else 0
    share = clip.NUM_FRAMES * stride / max(np.median(lengths), 1) if len(lengths) else 1.0
    if uses_stride and share < 0.1:
        better = "a larger INPUT.FRAME_STRIDE, or INPUT.CLIP_SAMPLER 'SegmentClip', sees more of it"
        advice.append(f"A clip covers {100 * share:.2g} % of the median video: {better}")
    needed = (clip.NUM_FRAMES - 1) * stride + 1 if uses_stride else clip.NUM_FRAMES
    short = int((np.round(lengths) < needed).sum())
    if short > 0.1 * len(lengths):
        then = "are refused" if clip.SHORT_VIDEO == "error" else "repeat frames"
        smaller = "INPUT.FRAME_STRIDE or INPUT.NUM_FRAMES" if uses_stride else "INPUT.NUM_FRAMES"
        advice.append(f"{short} of {len(lengths)} videos are shorter than a clip and {then}: a smaller {smaller} fits")
    return advice
