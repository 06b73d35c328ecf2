"""The indices of all videos of a dataset, ahead of training."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from nlvideo.data.video.paths import is_frame_folder, local_video_path
from nlvideo.data.video.video_index import IndexCache, VideoIndex
from nlvideo.data.video.video_reader import VideoReader
from nlvideo.errors import VideoDecodeError
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
        num_workers: files read at once.

    Raises:
        ValueError: the folder is remote.
        OSError: an index cannot be written.
    """
    must_be_local("index_dir", index_dir)
    os.makedirs(index_dir, exist_ok=True)
    cache, result = IndexCache(index_dir), IndexingResult()
    files = list(dict.fromkeys(paths))

    def _work(path: str) -> tuple[VideoIndex | None, str]:
        try:
            local = local_video_path(path)
        except OSError as error:
            return None, str(error)
        if is_frame_folder(local):
            return None, ""
        known = cache.load(local)
        if known and known.checked:
            return known, ""
        try:
            with VideoReader(local, index_dir=index_dir, check=True):
                index = cache.load(local)
        except VideoDecodeError as error:
            return None, error.reason
        if index is None or not index.checked:
            raise OSError(f"{cache.file_of(local)}: the index of {path} cannot be written")
        return index, "new"

    # Threads do: FFmpeg reads without holding Python's lock.
    with ThreadPoolExecutor(num_workers) as pool:
        done = progress_bar(pool.map(_work, files), total=len(files), unit="video")
        for path, (index, note) in zip(files, done, strict=True):
            if index is None:
                result.failed += [(path, note)] if note else []
                continue
            result.num_indexed += note == "new"
            result.num_known += note == ""
            result.num_slow += not index.can_seek
    return result
