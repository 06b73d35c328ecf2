"""Paths of videos: their extensions, all videos below a folder, and videos that are part of a tar file."""

import os
import re
from collections import defaultdict, deque
from dataclasses import dataclass, field

from nlvideo.utils.files.file_io import has_own_handler, is_remote, local_path
from nlvideo.utils.files.remote import fetch
from nlvideo.utils.messages import some

IMAGE_EXTENSIONS = (".jpeg", ".jpg", ".png")
# What FFmpeg opens and programs and cameras write.
VIDEO_EXTENSIONS = (
    ".264", ".265", ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".h265", ".hevc",
    ".ivf", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv",
    ".ts", ".vob", ".webm", ".wmv", ".y4m",
)  # fmt: skip
_SUBFILE = re.compile(r"subfile,,start,(\d+),end,(\d+),,:(.*)", re.DOTALL)


def member_path(shard: str, offset: int, size: int) -> str:
    """Return the path under which FFmpeg opens a part of a file as if it were a file."""
    return f"subfile,,start,{offset},end,{offset + size},,:{shard}"


def split_member_path(path: str) -> tuple[str, int, int] | None:
    """Return shard, offset and size of a path that ``member_path`` made, and None for any other."""
    match = _SUBFILE.fullmatch(path)
    if match is None:
        return None
    begin, end = int(match[1]), int(match[2])
    return match[3], begin, end - begin


def local_video_path(path: str) -> str:
    """Fetch a remote video and return the path that FFmpeg opens. A folder of frames stays where it is.

    Of a remote shard only the video is fetched, or all of it where its handler cannot fetch a part.

    Raises:
        OSError, ImportError: it cannot be fetched.
    """
    member = split_member_path(path)
    if member is None:
        return local_path(path)
    shard, offset, size = member
    if is_remote(shard) and not has_own_handler(shard):
        return fetch(shard, (offset, size))
    return member_path(local_path(shard), offset, size)


def is_frame_folder(local: str) -> bool:
    """Return whether a path is a folder of frames, given as ``local_video_path`` returns it."""
    # Of remote paths only folders stay remote.
    return is_remote(local) or os.path.isdir(local)


@dataclass
class FoundVideos:
    """What is below a folder."""

    #: video files and folders of frames, relative to the folder; a folder comes before what is in it
    videos: list[str] = field(default_factory=list)
    #: the other files and links, by the reason
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def describe(self) -> str:
        """Return what was left out, such as ``broken links: 1 (run/a.mp4)``; an empty text where nothing was."""
        return "; ".join(f"{reason}: {len(paths)} ({some(paths)})" for reason, paths in self.left_out.items())


def find_videos(root: str) -> FoundVideos:
    """Return the videos at any depth below a folder.

    Links to folders are followed, and each folder is entered once. Hidden files and folders are skipped and not
    counted. A folder below the root that holds images is a video if no video file lies in it. Images in the root itself
    belong to no video.
    """
    found, videos, entered = FoundVideos(), set(), set()
    folders = deque([""])
    while folders:
        inside = folders.pop()
        try:
            status = os.stat(os.path.join(root, inside))
            entries = sorted(os.scandir(os.path.join(root, inside)), key=lambda entry: entry.name)
        except OSError:
            found.left_out["folders that cannot be read"].append(inside)
            continue
        if (status.st_dev, status.st_ino) in entered:
            found.left_out["links to folders that were counted before"].append(inside)
            continue
        entered.add((status.st_dev, status.st_ino))
        pictures, has_video = [], False
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = f"{inside}/{entry.name}".lstrip("/")
            kind, extension = _kind_of(entry), os.path.splitext(entry.name)[1].lower()
            if kind == "folder":
                # Links last, so that a folder counts at its own place.
                (folders.appendleft if entry.is_symlink() else folders.append)(path)
            if kind in ("file", "folder") and extension in VIDEO_EXTENSIONS:
                videos.add(path)
                has_video |= kind == "file"
            elif kind == "file" and extension in IMAGE_EXTENSIONS and inside:
                pictures.append(path)
            elif kind == "file":
                found.left_out["not videos by their extension"].append(path)
            elif kind != "folder":
                found.left_out[kind].append(path)
        if pictures and has_video:
            found.left_out["pictures beside videos"] += pictures
        elif pictures:
            videos.add(inside)
    found.videos = sorted(videos, key=lambda video: video.split("/"))
    return found


def _kind_of(entry: os.DirEntry) -> str:
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:  # a link that leads to itself
        pass
    return "broken links" if entry.is_symlink() else "neither files nor folders"
