"""What is in a dataset: every file opened and decoded, counted, and what that says about training from it."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import av
import numpy as np
from tabulate import tabulate

from nlvideo.data.catalog import Record, source_of
from nlvideo.data.dataset_mapper import frame_interval
from nlvideo.data.many_files import map_in_processes
from nlvideo.data.records.records import labels_of, span_labels_of
from nlvideo.data.video.paths import is_frame_folder, local_video_path, split_member_path
from nlvideo.data.video.video_reader import is_outage, open_video
from nlvideo.errors import ProcessDied, VideoDecodeError
from nlvideo.utils.console import progress_bar
from nlvideo.utils.files.file_io import is_remote

# What tools/transcode_dataset.py makes.
SHORT_SIDE, KEY_FRAME_DISTANCE = 256, 30
# Below this estimated gain re-encoding a dataset is not worth the work.
MIN_GAIN = 1.3


@dataclass
class VideoFacts:
    """What is known about one file.

    Attributes:
        path: as in the records.
        error: why it cannot be decoded; None: every frame can.
        num_bytes: size of the file, or of the files of a folder; 0 for a remote folder.
        num_frames, fps, height, width: as ``VideoReader`` has them; fps is 0 where unknown.
        codec: FFmpeg's name; "images" for a folder of frames.
        key_frame_distance: frames from one key-frame to the next, the largest; 1 for a folder.
        mean_wait: frames between a random frame and the key-frame before it, on average.
        bad_parts: by the id of a record that is a part of the file without any frame, the reason.
    """

    path: str
    error: str | None = None
    num_bytes: int = 0
    num_frames: int = 0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    codec: str = ""
    key_frame_distance: int = 1
    mean_wait: float = 0.0
    bad_parts: dict[str, str] = field(default_factory=dict)

    @property
    def duration_sec(self) -> float:
        """Frames over frames per second; 0 where the rate is unknown."""
        return self.num_frames / self.fps if self.fps else 0.0


@dataclass
class Survey:
    """What is known about a dataset.

    Attributes:
        num_files: files of the dataset, each once.
        files: those that were looked at, in the order of the records.
    """

    num_files: int
    files: list[VideoFacts] = field(default_factory=list)

    @property
    def bad(self) -> list[VideoFacts]:
        """The files that cannot be decoded."""
        return [facts for facts in self.files if facts.error is not None]

    @property
    def bad_parts(self) -> dict[str, str]:
        """The records without any frame among the other files, and the reasons."""
        return {video_id: reason for facts in self.files for video_id, reason in facts.bad_parts.items()}

    @property
    def good(self) -> list[VideoFacts]:
        """The files that can."""
        return [facts for facts in self.files if facts.error is None]


def survey_video(parts: Sequence[Record]) -> VideoFacts:
    """Open a video, decode all of it and return what is known.

    Args:
        parts: the records of this video.

    Raises:
        OSError: its store does not answer or refuses access, or the disk is full.
    """
    path = parts[0]["file_name"]
    facts = VideoFacts(path)
    try:
        with open_video(path, parts[0].get("fps")) as video:
            video.check()
            facts.num_frames, facts.fps = video.num_frames, video.fps
            facts.height, facts.width = video.height, video.width
            for part in parts:
                try:
                    frame_interval(part, video)
                except VideoDecodeError as error:
                    facts.bad_parts[part["video_id"]] = error.reason
        _look_into(local_video_path(path), facts)
    except VideoDecodeError as error:
        facts.error = error.reason
    except (OSError, av.FFmpegError) as error:
        if is_outage(error):
            raise
        facts.error = str(error)
    return facts


def _look_into(path: str, facts: VideoFacts) -> None:
    if is_frame_folder(path):
        facts.codec = "images"
        if not is_remote(path):
            facts.num_bytes = sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
        return
    member = split_member_path(path)
    facts.num_bytes = os.path.getsize(path) if member is None else member[2]
    with av.open(path, metadata_errors="replace") as container:
        stream = container.streams.best("video")
        facts.codec = stream.codec_context.name
        keys = np.array([packet.is_keyframe for packet in container.demux(stream) if packet.size])
    # A file may begin with frames before its first key-frame; they wait for the beginning.
    distances = np.diff(np.unique([0, *np.flatnonzero(keys), len(keys)]))
    facts.key_frame_distance = int(distances.max())
    facts.mean_wait = float((distances * (distances - 1) / 2).sum() / len(keys))


def survey_dataset(records: Sequence[Record], num_workers: int, sample: int | None = None) -> tuple[Survey, bool]:
    """Look at every file of a dataset, in several processes, with a progress bar.

    Args:
        records: the dataset; a file that several records share is looked at once.
        num_workers: processes.
        sample: so many files, evenly spread, are looked at; None: all.

    Returns:
        What was found, and whether it is all: Ctrl-C stops the search and keeps what there is.
    """
    parts: dict[str, list[Record]] = {}
    for record in records:
        parts.setdefault(record["file_name"], []).append(source_of(record) | {"video_id": record["video_id"]})
    items = list(parts.values())
    if sample is not None and sample < len(items):
        items = [items[i * len(items) // sample] for i in range(sample)]
    found, num_bad, complete = {}, 0, True
    results = map_in_processes(survey_video, items, num_workers)
    try:
        with progress_bar(total=len(items), desc="videos", unit="video") as progress:
            for index, facts in results:
                if isinstance(facts, ProcessDied):
                    facts = VideoFacts(items[index][0]["file_name"], error=str(facts))
                found[index] = facts
                num_bad += facts.error is not None
                progress.set_postfix(bad=num_bad, refresh=False)
                progress.update()
    except KeyboardInterrupt:
        complete = False
    finally:
        results.close()
    return Survey(len(parts), [found[index] for index in sorted(found)]), complete


def negative_labels(records: Sequence[Record]) -> dict[str, str]:
    """Return, by the id of each record with a negative label, what is wrong: training refuses such records."""
    found: dict[str, str] = {}
    for what, labels in (("the label", labels_of(records)), ("label_spans with the label", span_labels_of(records))):
        if labels is None:
            continue
        for place in np.flatnonzero(labels.values < 0).tolist():
            video_id = records[int(labels.owners[place])]["video_id"]
            found.setdefault(video_id, f"has {what} {labels.values[place]}, allowed: 0 or more")
    return found


def speed_up(files: Sequence[VideoFacts], clip_frames: int, short_side: int = SHORT_SIDE) -> tuple[float, float]:
    """Estimate how many times less work decoding clips is after transcoding, by frames and by pixels.

    A clip at a random place costs its own frames and those since the key-frame before it; the time for a frame is taken
    to be in proportion to its pixels.

    Args:
        files: of sound videos.
        clip_frames: from the first frame of a clip to its last.
        short_side: of the frames that are trained on, pixels.
    """
    frames = [(min(clip_frames, facts.num_frames), facts) for facts in files if facts.codec != "images"]
    if not frames:
        return 1.0, 1.0
    wait = (KEY_FRAME_DISTANCE - 1) / 2
    scales = [min(1.0, (short_side / min(facts.height, facts.width)) ** 2) for _, facts in frames]
    now = sum(span + facts.mean_wait for span, facts in frames)
    fewer = now / sum(span + min(wait, facts.mean_wait) for span, facts in frames)
    return fewer, len(scales) / sum(scales)


def advise(files: Sequence[VideoFacts], clip_frames: int, short_side: int = SHORT_SIDE) -> str | None:
    """Return one or two sentences where re-encoding would pay, and None where it would not; see ``speed_up``."""
    fewer, smaller = speed_up(files, clip_frames, short_side)
    if fewer * smaller < MIN_GAIN:
        return None
    reasons = []
    if fewer > 1.05:
        distance = np.median([facts.key_frame_distance for facts in files])
        reasons.append(f"{fewer:.1f} times by a key-frame every {KEY_FRAME_DISTANCE} frames (now {distance:.0f})")
    if smaller > 1.05:
        side = np.median([min(facts.height, facts.width) for facts in files])
        reasons.append(f"{smaller:.1f} times by a short side of {short_side} pixels (now {side:.0f})")
    return (
        f"Decoding clips of {clip_frames} frames would be about {fewer * smaller:.1f} times faster after"
        f" tools/transcode_dataset.py --short-side {short_side}: {', '.join(reasons)};"
        " estimated from frames and pixels."
    )


def format_survey(survey: Survey) -> str:
    """Return tables of the sound videos: their measures, codecs and sizes."""
    files = survey.good
    if not files:
        return "no video can be decoded"
    columns: dict[str, list[float]] = {
        "duration (s)": [facts.duration_sec for facts in files if facts.fps],
        "frames": [facts.num_frames for facts in files],
        "frames per second": [facts.fps for facts in files if facts.fps],
        "short side (pixels)": [min(facts.height, facts.width) for facts in files],
        "key-frame distance (frames)": [facts.key_frame_distance for facts in files],
        "size (MiB)": [facts.num_bytes / 2**20 for facts in files],
    }
    added_up = ("duration (s)", "frames", "size (MiB)")
    rows = [
        [name, *np.quantile(values, (0, 0.05, 0.5, 0.95, 1)), np.sum(values) if name in added_up else None]
        for name, values in columns.items()
        if values
    ]
    table = tabulate(rows, headers=["", "min", "5 %", "median", "95 %", "max", "total"], floatfmt=".6g")
    codecs = Counter(facts.codec for facts in files)
    sizes = Counter(f"{facts.width}x{facts.height}" for facts in files)
    return f"{table}\n\ncodecs: {_most(codecs)}\nsizes: {_most(sizes)}"


def to_json(survey: Survey) -> dict[str, Any]:
    """Return everything, as JSON has it."""
    files = [asdict(facts) | {"duration_sec": facts.duration_sec} for facts in survey.files]
    return {"num_files": survey.num_files, "num_checked": len(files), "num_bad": len(survey.bad), "files": files}


def _most(counts: Counter, shown: int = 5) -> str:
    rest = len(counts) - shown
    named = ", ".join(f"{name} {count}" for name, count in counts.most_common(shown))
    return named + (f" and {rest} others" if rest > 0 else "")
