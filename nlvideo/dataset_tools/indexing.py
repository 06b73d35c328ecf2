"""The indices of all videos of a dataset, ahead of training."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from nlvideo.data.many_files import map_in_processes
from nlvideo.data.video.paths import is_frame_folder, local_video_path
from nlvideo.data.video.video_index import IndexCache
from nlvideo.data.video.video_reader import VideoReader
from nlvideo.errors import ProcessDied, VideoDecodeError
from nlvideo.utils.console import progress_bar
from nlvideo.utils.files.file_io import must_be_local


@dataclass
class IndexingResult:
    """What became of the videos of a dataset."""

    num_indexed: int = 0  #: indices made
    num_known: int = 0  #: indices that were there
    num_slow: int = 0  #: of both, videos that are always decoded from their beginning
    failed: list[tuple[str, str]] = field(default_factory=list)  #: (path, reason) of videos that do not open, in order


def index_videos(paths: Sequence[str], index_dir: str | os.PathLike, num_workers: int = 1) -> IndexingResult:
    """Make the index of every video file that has none, or has changed since.

    Each file is decoded once, and frames by random access are compared with what comes out.

    Args:
        paths: files, each indexed once; folders of frames need no index and are passed over.
        index_dir: folder of the indices, see ``IndexCache``.
        num_workers: files read at once, each in a process of its own.

    Raises:
        ValueError: the folder is remote.
        OSError: an index cannot be written.
    """
    must_be_local("index_dir", index_dir)
    os.makedirs(index_dir, exist_ok=True)
    files = list(dict.fromkeys(paths))
    found: dict[int, tuple[bool | None, str]] = {}
    # Processes: a file that crashes FFmpeg ends only the one that reads it.
    results = map_in_processes(partial(_index_video, os.fspath(index_dir)), files, num_workers)
    try:
        for place, answer in progress_bar(results, total=len(files), unit="video"):
            found[place] = (None, str(answer)) if isinstance(answer, ProcessDied) else answer
    finally:
        results.close()
    result = IndexingResult()
    for path, (can_seek, note) in ((files[place], found[place]) for place in sorted(found)):
        if can_seek is None:
            result.failed += [(path, note)] if note else []
            continue
        result.num_indexed += note == "new"
        result.num_known += note == ""
        result.num_slow += not can_seek
    return result


def _index_video(index_dir: str, path: str) -> tuple[bool | None, str]:
    """Whether the video can seek, and "new" if its index was made; or None and the reason, "" for a frame folder."""
    try:
        local = local_video_path(path)
    except OSError as error:
        return None, str(error)
    if is_frame_folder(local):
        return None, ""
    cache = IndexCache(index_dir)
    known = cache.load(local)
    if known and known.checked:
        return known.can_seek, ""
    try:
        with VideoReader(local, index_dir=index_dir, check=True):
            index = cache.load(local)
    except VideoDecodeError as error:
        return None, error.reason
    if index is None or not index.checked:
        raise OSError(f"{cache.file_of(local)}: the index of {path} cannot be written")
    return index.can_seek, "new"
