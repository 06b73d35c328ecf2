"""Reading training clips: ours, torchcodec, and decoding the whole file, in one run, alternating."""

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from nlvideo.data.clip_sampling import RandomClip, UniformClips
from nlvideo.data.video.frame_decoder import FrameDecoder
from nlvideo.data.video.pixels import PixelLimits
from nlvideo.data.video.video_reader import TorchCodecReader, VideoReader, load_video_decoder
from nlvideo.errors import VideoDecodeError
from nlvideo.utils.console import create_table, progress_bar
from nlvideo.utils.files.file_io import write_json
from nlvideo.utils.system.time_limit import TimeLimit

from .timing import alternate, environment

OURS, FULL, TORCHCODEC = "nlvideo", "full decode", "torchcodec"
MEMORY_POINTS = 5
# Clips per video at test, 10 times 3 crops (Sec. 4.1).
TEST_CLIPS = 10

Clip = Sequence[int]


def read_all(path: str) -> list[np.ndarray]:
    """Decode a file from its beginning and convert every frame, with PyAV alone on one thread."""
    with av.open(path) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count, stream.codec_context.thread_type = 1, "NONE"
        reformatter = av.video.reformatter.VideoReformatter()
        return [
            reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray() for frame in container.decode(stream)
        ]


def read_clip(path: str, clip: Clip, index_dir: str | None = None) -> int:
    """Read a clip as a loader does: open, read, close. Return how many frames were decoded."""
    with VideoReader(path, index_dir=index_dir) as video:
        video.get_frames(clip)
        return video.num_decoded


def read_clip_torchcodec(path: str, clip: Clip) -> None:
    """Read a clip with torchcodec alone, without our index."""
    decoder = load_video_decoder()(path, dimension_order="NHWC", num_ffmpeg_threads=1)
    decoder.get_frames_at(list(clip)).data.numpy()


def make_cases(path: str, clips: Sequence[Clip], index_dir: str) -> dict[str, Callable[[], Any]]:
    """Return what is timed: each case reads the same clips, the whole-file one each from a decode of its own."""

    def _each(read: Callable[[Clip], Any]) -> Callable[[], Any]:
        return lambda: [read(clip) for clip in clips]

    def decode_only(clip: Clip) -> None:
        """All that reading a clip is, without the conversion to RGB."""
        decoder = FrameDecoder(path, TimeLimit(0), PixelLimits())
        try:
            decoder.open()
            for _ in decoder.frames(sorted(set(clip))):
                pass
        finally:
            decoder.close()

    cases = {
        # The same for every clip: once is enough.
        FULL: lambda: read_all(path),
        OURS: _each(lambda clip: read_clip(path, clip)),
        f"{OURS}, indexed": _each(lambda clip: read_clip(path, clip, index_dir)),
        "open": _each(lambda clip: VideoReader(path).close()),
        "open, decode": _each(decode_only),
    }
    try:
        load_video_decoder()
        TorchCodecReader(path).get_frames([0])
    except (ImportError, VideoDecodeError):
        return cases
    return cases | {TORCHCODEC: _each(lambda clip: read_clip_torchcodec(path, clip))}


def memory_over(work: Sequence[Callable[[], Any]]) -> list[float]:
    """Return the memory that this process holds, MB, at points evenly spread over some work; empty where unknown."""
    status = Path("/proc/self/statm")
    if not status.is_file():
        return []
    held = []
    for number, step in enumerate(work, 1):
        step()
        if number % max(1, len(work) // MEMORY_POINTS) == 0:
            held.append(round(int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1))
    return held


def measure(
    path: str,
    index_dir: str,
    *,
    num_frames: int,
    frame_stride: int,
    num_clips: int,
    rounds: int,
    step_seconds: float,
    clips_per_step: int,
) -> dict[str, Any]:
    """Measure the reading of random training clips of one video.

    Args:
        path: the video.
        index_dir: an empty folder.
        num_frames, frame_stride: of a clip.
        num_clips: clips of a round.
        rounds: how often each case runs.
        step_seconds: of a training step that is to be kept fed; 0: unknown.
        clips_per_step: clips that such a step takes.

    Returns:
        "video", "frames"; "ms_per_clip", by case, median; "ratio_to_full", likewise; "clips_per_second", ours;
        "decoded_per_clip", frames, mean, and that of the clips that are timed; "decoded_test_views"; "stage_ms": of
        opening, decoding, converting; "memory_mb": resident, at ``MEMORY_POINTS`` points of reading five times as many
        clips; "workers" that feed the step, None where it is unknown.
    """
    with VideoReader(path, index_dir=index_dir) as video:
        total = video.num_frames
        views = UniformClips(num_frames, frame_stride, num_clips=TEST_CLIPS)(total)
        video.get_frames(sorted(set().union(*views)))
        decoded_views = video.num_decoded
    # How much is decoded depends on where a clip begins: those that are timed are spread evenly over many.
    many = RandomClip(num_frames, frame_stride, num_clips=5 * num_clips)(total, np.random.default_rng(0))
    clips = sorted(many, key=lambda clip: clip[0])[2::5]
    cases = make_cases(path, clips, index_dir)
    timings = alternate(cases, rounds=rounds)
    share = {name: 1 if name == FULL else num_clips for name in cases}
    per_clip = {name: timing.median / share[name] for name, timing in timings.items()}
    ratios = {name: timing.ratio_to(timings[FULL]) / share[name] for name, timing in timings.items()}
    stages = [per_clip["open"], per_clip["open, decode"], per_clip[OURS]]
    clip_seconds = per_clip[f"{OURS}, indexed"]
    return {
        "video": os.path.basename(path),
        "frames": total,
        "ms_per_clip": {name: 1e3 * seconds for name, seconds in per_clip.items()},
        "ratio_to_full": ratios,
        "ratio_to_torchcodec": timings[OURS].ratio_to(timings[TORCHCODEC]) if TORCHCODEC in timings else None,
        "clips_per_second": 1 / clip_seconds,
        "decoded_per_clip": float(np.mean([read_clip(path, clip) for clip in many])),
        "decoded_per_timed_clip": float(np.mean([read_clip(path, clip) for clip in clips])),
        "decoded_test_views": decoded_views,
        "stage_ms": dict(zip(("open", "decode", "convert"), (1e3 * np.diff([0, *stages])).tolist(), strict=True)),
        "memory_mb": memory_over([partial(read_clip, path, clip) for clip in many]),
        "workers": math.ceil(clip_seconds * clips_per_step / step_seconds) if step_seconds else None,
    }


def run(
    paths: Sequence[str],
    out: str | None = None,
    *,
    num_frames: int = 32,
    frame_stride: int = 2,
    num_clips: int = 8,
    rounds: int = 5,
    step_seconds: float = 0.0,
    clips_per_step: int = 8,
) -> str:
    """Measure each video; see ``measure``.

    Args:
        paths: videos; none: one that is generated, 300 frames of 340 x 256 with two key-frames.
        out: file for all figures, JSON.
        num_frames, frame_stride, num_clips, rounds, step_seconds, clips_per_step: see ``measure``.

    Returns:
        A table.

    Raises:
        ValueError: a number is below what it can be.
        VideoDecodeError: a video does not decode.
    """
    numbers = {"num_clips": num_clips, "rounds": rounds, "clips_per_step": clips_per_step}
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name}: got {value}, allowed: 1 or more")
    if step_seconds < 0:
        raise ValueError(f"step_seconds: got {step_seconds}, allowed: 0 (unknown) or more")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        paths = list(paths) or [write_video(os.path.join(folder, "generated.mp4"))]
        for number, path in enumerate(progress_bar(paths, unit="video")):
            index_dir = os.path.join(folder, str(number))
            results.append(
                measure(
                    path,
                    index_dir,
                    num_frames=num_frames,
                    frame_stride=frame_stride,
                    num_clips=num_clips,
                    rounds=rounds,
                    step_seconds=step_seconds,
                    clips_per_step=clips_per_step,
                )
            )
    if out:
        write_json(out, {"environment": environment(), "clip": f"{num_frames}x{frame_stride}", "videos": results})
    return "\n\n".join(format_result(result) for result in results)


def format_result(result: dict[str, Any]) -> str:
    """Return the figures of one video as text."""
    rows = [
        {"reader": name, "ms per clip": ms, "of a full decode": result["ratio_to_full"][name]}
        for name, ms in result["ms_per_clip"].items()
    ]
    stages = ", ".join(f"{name} {ms:.1f}" for name, ms in result["stage_ms"].items())
    lines = [
        f"{result['video']}: {result['frames']} frames",
        create_table(rows),
        f"frames decoded: {result['decoded_per_clip']:.1f} per clip, {result['decoded_test_views']} for all test views",
        f"ms: {stages}; {result['clips_per_second']:.1f} clips per second and worker",
        f"memory, MB: {', '.join(map(str, result['memory_mb'])) or 'unknown'}",
    ]
    if result["ratio_to_torchcodec"] is not None:
        lines.append(f"time of torchcodec's: {result['ratio_to_torchcodec']:.2f}")
    if result["workers"] is not None:
        lines.append(f"workers that keep the step fed: {result['workers']}")
    return "\n".join(lines)


def write_video(path: str, num_frames: int = 300, height: int = 256, width: int = 340) -> str:
    """Write a video as a camera's clip is encoded (H.264 with B-frames, a key-frame in 250) and return its path."""
    rng = np.random.default_rng(0)
    # A blurred texture that moves, with a little noise: something to predict, and something left over.
    coarse = rng.integers(0, 256, (height // 8 + 1, (width + num_frames) // 8 + 1, 3)).astype(np.uint8)
    texture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"bf": "3", "g": "250"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(num_frames):
            picture = texture[:height, index : index + width] + rng.integers(0, 6, (height, width, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path
