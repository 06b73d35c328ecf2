"""Videos, or all of a dataset, encoded again: small and with key-frames close together, so that clips decode fast."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path, PurePath

import av
import numpy as np
from av.filter import Graph

from nlvideo.data.catalog import Record
from nlvideo.data.datasets.list_files import check_classes, format_list, write_list
from nlvideo.data.many_files import map_in_processes
from nlvideo.data.video.exact.decode_in_order import decode_in_order, open_stream
from nlvideo.data.video.paths import is_frame_folder
from nlvideo.data.video.pixels import Geometry
from nlvideo.data.video.video_reader import VideoReader
from nlvideo.errors import ProcessDied, VideoDecodeError
from nlvideo.utils.console import progress_bar
from nlvideo.utils.files.file_io import WholeFile, absolute_path, is_remote, local_path, must_be_local

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")


@dataclass(frozen=True)
class TranscodeOptions:
    """How videos are encoded."""

    short_side: int = 256  #: pixels; smaller videos keep their size
    key_frame_distance: int = 30  #: frames
    crf: int = 20  #: constant rate factor of x264, 0 (lossless) to 51; 20 is hard to tell from the original
    preset: str = "medium"  #: speed of x264, one of ``PRESETS``


@dataclass
class Transcoded:
    """What became of one file."""

    source: str  #: path
    out: str  #: path of the new file
    error: str | None = None  #: why there is no new file; None: there is
    kept: bool = False  #: the file was there already, made from this source with these options
    bytes_before: int = 0
    bytes_after: int = 0


def transcode_video(task: tuple[str, str, TranscodeOptions, bool]) -> Transcoded:
    """Encode a video as H.264 in MP4, without sound and upright; the new file is whole and checked, or not there.

    Every frame is kept and shown when it was, from 0 seconds on, also where the rate varies.

    Args:
        task: path of the video, path of the new file, options, and whether a file that is there may be replaced.

    Returns:
        The outcome; failures are part of it.
    """
    source, out, options, overwrite = task
    result = Transcoded(source, out)
    try:
        local = local_path(source)
        if is_frame_folder(local):
            raise ValueError("a folder of frames: transcoding is for video files")
        if os.path.exists(out) and os.path.isfile(local) and os.path.samefile(local, out):
            result.error = f"{out} is the video itself, which is not replaced; name another folder"
            return result
        identity = [os.path.basename(source), os.stat(local).st_size, os.stat(local).st_mtime_ns]
        origin = json.dumps({"source": identity, **asdict(options)}, sort_keys=True)
        if os.path.exists(out):
            result.kept = _made_from(out) == origin
            if not result.kept and not overwrite:
                made = f"{out} exists, and was made from another file or with other options"
                result.error = f"{made}. Name another folder, or replace it with --overwrite"
                return result
        if not result.kept:
            os.makedirs(os.path.dirname(out), exist_ok=True)
            with WholeFile(out) as file:
                _encode(local, file.temporary, options, origin)
        result.bytes_before, result.bytes_after = os.path.getsize(local), os.path.getsize(out)
    except VideoDecodeError as error:
        result.error = error.reason
    except (OSError, ValueError, av.FFmpegError) as error:
        result.error = str(error)
    return result


def output_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return height and width, even, of a video scaled down to a short side; never larger than it is."""
    scale = min(1.0, short_side / min(height, width))
    new_height, new_width = (max(2, 2 * int(side * scale / 2 + (0.5 if scale < 1 else 0))) for side in (height, width))
    return new_height, new_width


def _encode(source: str, out: str, options: TranscodeOptions, origin: str) -> None:
    with VideoReader(source) as video:
        num_frames, geometry = video.num_frames, video.geometry
        height, width = output_size(video.height, video.width, options.short_side)
        times, time_base = video.show_times
        rate = max(Fraction(video.fps).limit_denominator(65535), Fraction(1, 65535))
    # No two frames of an MP4 may have the same time.
    times = np.maximum.accumulate(times - np.arange(num_frames)) + np.arange(num_frames)
    before, stream = open_stream(source)
    with before, av.open(out, "w", format="mp4") as after:
        stream.codec_context.thread_count = 1
        # sc_threshold 0: no key-frames beyond those asked for, which cuts between scenes would add.
        settings = {"crf": str(options.crf), "preset": options.preset, "sc_threshold": "0"}
        encoder = after.add_stream("libx264", rate=rate, options=settings)
        encoder.height, encoder.width, encoder.pix_fmt = height, width, "yuv420p"
        encoder.gop_size = options.key_frame_distance
        context = encoder.codec_context
        # The files are worked on in parallel already.
        context.thread_count = 1
        encoder.time_base = context.time_base = time_base
        after.metadata["comment"] = origin
        count = 0
        frames = (frame for frame, _ in decode_in_order(before, stream))
        for frame in _filtered(frames, stream, height, width, geometry):
            if count == 0:  # the tags that say how colours are meant
                context.colorspace, context.color_range = frame.colorspace, frame.color_range
                context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
            if count < num_frames:
                frame.pts, frame.time_base = int(times[count]), time_base
                frame.pict_type = av.video.frame.PictureType.NONE  # the encoder decides
                after.mux(encoder.encode(frame))
            count += 1
        after.mux(encoder.encode(None))
    if count != num_frames:
        raise VideoDecodeError(source, f"{count} of {num_frames} frames could be decoded")
    with VideoReader(out) as video:
        if (video.num_frames, video.height, video.width) != (num_frames, height, width):
            found = f"{video.num_frames} frames of {video.height}x{video.width}"
            raise VideoDecodeError(out, f"expected {num_frames} frames of {height}x{width}, wrote {found}")
        video.check()


def _filtered(
    frames: Iterator[av.VideoFrame], stream: av.VideoStream, height: int, width: int, geometry: Geometry
) -> Iterator[av.VideoFrame]:
    """Turn frames upright, scale and convert them."""
    graph, layout = None, None
    for frame in frames:
        if graph is None:
            layout = (frame.width, frame.height, frame.format.name)
            graph = _build_graph(frame, stream, height, width, geometry)
        if (frame.width, frame.height, frame.format.name) != layout:
            raise VideoDecodeError(stream.container.name, f"the frame size changes to {frame.height}x{frame.width}")
        # Frames without timestamps would be held back.
        frame.pts = None
        graph.vpush(frame)
        yield graph.vpull()


def _build_graph(frame: av.VideoFrame, stream: av.VideoStream, height: int, width: int, geometry: Geometry) -> Graph:
    graph = Graph()
    chain = [graph.add_buffer(template=stream, width=frame.width, height=frame.height, format=frame.format)]
    # "cclock": counter-clockwise by 90 degrees.
    chain += [graph.add("transpose", "dir=cclock") for _ in range(geometry.rotation // 90)]
    chain += [graph.add("hflip")] if geometry.mirrored else []
    chain.append(graph.add("scale", f"{width}:{height}:flags=bicubic"))
    graph.link_nodes(*chain, graph.add("format", "yuv420p"), graph.add("buffersink")).configure()
    return graph


def _made_from(path: str) -> str | None:
    """What ``transcode_video`` noted in a file of its own; None in any other."""
    try:
        with av.open(path, metadata_errors="replace") as container:
            return container.metadata.get("comment")
    except (OSError, av.FFmpegError):
        return None


def transcode_dataset(
    name: str,
    records: Sequence[Record],
    out: str,
    options: TranscodeOptions,
    num_workers: int = 1,
    overwrite: bool = False,
) -> tuple[list[Transcoded], str]:
    """Transcode every video of a dataset and write a list of the new files; see ``transcode_video``.

    The folders of the videos come back below the new folder. Files that an earlier call made of the same videos with
    the same options are kept, so that an interrupted run goes on where it was.

    Args:
        name: the dataset.
        records: of it.
        out: folder, which is made.
        options: how to encode.
        num_workers: processes.
        overwrite: replace other files that are in the way.

    Returns:
        What became of each file, in the order of the records, and the path of the list of those that are well.

    Raises:
        ValueError: the folder is remote, the dataset is made of shards, a list cannot hold a name, the list would
            replace one of another origin or be read with other classes, or a new file would replace another file of
            the dataset.
        KeyboardInterrupt: interrupted; what is done stays.
    """
    if name.startswith("wds:"):
        raise ValueError(f"{name}: shards hold videos as they are: transcode those, and make shards of the new ones")
    must_be_local("out", out)
    folder = Path(out).expanduser().absolute()
    listed, comment = _place_of_list(name, folder, overwrite)
    check_classes(name, str(listed))
    sources = list(dict.fromkeys(record["file_name"] for record in records))
    outs = new_paths(sources, folder)
    # A record that a list cannot hold fails here, before the work.
    format_list([record | {"file_name": str(outs[record["file_name"]])} for record in records], folder)
    tasks = [(source, str(outs[source]), options, overwrite) for source in sources]
    found: dict[int, Transcoded] = {}
    results = map_in_processes(transcode_video, tasks, num_workers)
    try:
        for index, result in progress_bar(results, total=len(tasks), desc="videos", unit="video"):
            if isinstance(result, ProcessDied):
                result = Transcoded(tasks[index][0], tasks[index][1], error=str(result))
            found[index] = result
    finally:
        results.close()
    done = [found[index] for index in range(len(tasks))]
    good = {result.source: result.out for result in done if result.error is None}
    folder.mkdir(parents=True, exist_ok=True)
    new = [record | {"file_name": good[record["file_name"]]} for record in records if record["file_name"] in good]
    write_list(name, new, str(listed), comment=comment)
    return done, str(listed)


def new_paths(sources: Sequence[str], folder: Path) -> dict[str, Path]:
    """Return where each video goes: its path below the folder that all have in common, with the extension ``.mp4``.

    Videos that would then share a name keep their extension before the new one.

    Raises:
        ValueError: a new file would replace another video or its new file.
    """
    parents = {os.path.dirname(_as_local(source)) for source in sources}
    root = os.path.commonpath(parents) if parents else "/"
    relative = {source: PurePath(os.path.relpath(_as_local(source), root)) for source in sources}
    plain = Counter(path.with_suffix(".mp4") for path in relative.values())
    outs = {
        source: folder / (path.with_suffix(".mp4") if plain[path.with_suffix(".mp4")] == 1 else f"{path}.mp4")
        for source, path in relative.items()
    }
    taken = {os.path.realpath(source): source for source in sources}
    for source, out in outs.items():
        if (other := taken.setdefault(os.path.realpath(out), source)) != source:
            raise ValueError(f"{source}: its new file {out} would replace {other} or its new file; name another folder")
    return outs


def _as_local(path: str) -> str:
    """A path as one of this machine: far://folder/a.mp4 becomes /far/folder/a.mp4."""
    return "/" + path.replace("://", "/", 1) if is_remote(path) else path


def _place_of_list(name: str, folder: Path, overwrite: bool) -> tuple[Path, str]:
    """The path of the new list, and its comment; ``ValueError`` where a list is there that must not be replaced."""
    kind, _, place = name.partition(":")
    place = place and absolute_path(place)
    # The new list is called after the old one, the folder, or the dataset.
    listed = folder / f"{PurePath(place).stem or name}.csv"
    comment = f"made by tools/transcode_dataset.py, which may replace it, from {f'{kind}:{place}' if place else name!a}"
    if str(listed) == place:
        raise ValueError(f"{listed} is the list itself, which is not replaced. Name another folder")
    if listed.exists() and not overwrite:
        with open(listed, errors="replace") as file:
            if f"# {comment}\n" not in (file.readline(), file.readline()):
                raise ValueError(f"{listed} exists and was not made from {name}. Name another folder, or --overwrite")
    return listed, comment
