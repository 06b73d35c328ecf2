"""``folder:DIR``: one folder of videos per class, labelled in the alphabetical order of the folders."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nlvideo.data.catalog import MetadataCatalog
from nlvideo.data.frame_folder import IMAGE_EXTENSIONS
from nlvideo.data.records import Labels, TableRecords
from nlvideo.data.string_block import StringBlock

VIDEO_EXTENSIONS = (".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")


def load_folder(name: str) -> TableRecords:
    """Return the records of ``folder:DIR`` and note its classes in the ``MetadataCatalog``.

    Videos are found at any depth below a class folder, and so are folders of frames; hidden files and folders are
    skipped, and images that lie in the class folder itself belong to no video.

    Raises:
        ValueError: the folder does not exist or has no folders for classes in it.
    """
    root = Path(name.removeprefix("folder:")).expanduser().absolute()
    if not root.is_dir():
        raise ValueError(f"{name}: there is no folder {root}")
    classes = folder_classes(root)
    if not classes:
        raise ValueError(f"{name}: expected one folder per class in {root}, found no folders")
    videos, counts = [], []
    for class_name in classes:
        # A folder comes before what is in it, whatever character its name ends with.
        found = sorted(set(_find_videos(root, class_name)), key=lambda video: video.split("/"))
        videos.append(StringBlock.from_strings(found))
        counts.append(len(found))
    labels = np.repeat(np.arange(len(classes)), counts)
    MetadataCatalog.get(name).classes = classes
    return TableRecords(str(root), StringBlock.concatenate(videos), Labels(labels))


def folder_classes(root: Path) -> list[str]:
    """Return the names of the class folders in ``root``, in the order of the labels; none where there is no ``root``."""
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _find_videos(root: Path, class_name: str) -> Iterator[str]:
    """Yield the videos of a class, relative to the root."""
    for folder, folders, files in os.walk(root / class_name):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(folder).relative_to(root).as_posix()
        for name in [*folders, *files]:
            extension = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if extension in VIDEO_EXTENSIONS:
                yield f"{inside}/{name}"
            elif extension in IMAGE_EXTENSIONS and inside != class_name:
                yield inside
