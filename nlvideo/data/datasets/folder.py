"""``folder:DIR``: one folder of videos per class, labelled in the alphabetical order of the folders."""

import functools
import logging
from pathlib import Path

import numpy as np

from nlvideo.data.catalog import MetadataCatalog
from nlvideo.data.records import Labels, TableRecords
from nlvideo.data.string_block import StringBlock
from nlvideo.data.video_files import VIDEO_EXTENSIONS, FoundVideos, find_videos

# A run reads its test sets several times, and says a thing once.
_warn_once = functools.cache(logging.getLogger(__name__).warning)


def load_folder(name: str) -> TableRecords:
    """Return the records of ``folder:DIR`` and note its classes in the ``MetadataCatalog``.

    Videos are found at any depth below a class folder, and so are folders of frames, see ``find_videos``. What is left
    out is counted in the log.

    Raises:
        ValueError: the folder does not exist, has no folders for classes in it, or a class has no video.
    """
    root = Path(name.removeprefix("folder:")).expanduser().absolute()
    if not root.is_dir():
        raise ValueError(f"{name}: there is no folder {root}")
    classes = folder_classes(root)
    if not classes:
        raise ValueError(f"{name}: expected one folder per class in {root}, found no folders")
    videos, counts, left_out = [], [], FoundVideos()
    for path in sorted(root.iterdir()):
        if path.suffix.lower() in VIDEO_EXTENSIONS and not path.name.startswith(".") and path.name not in classes:
            left_out.leave_out(path.name, "not in the folder of a class")
    for class_name in classes:
        found = find_videos(str(root / class_name))
        if not found.videos:
            without = f" (left out: {text})" if (text := found.describe()) else ""
            raise ValueError(f"{name}: the class {class_name!r} has no video{without}; allowed: at least one")
        videos.append(StringBlock.from_strings(f"{class_name}/{video}" for video in found.videos))
        counts.append(len(found.videos))
        left_out.add(found, class_name)
    if text := left_out.describe():
        _warn_once("%s: left out: %s", name, text)
    labels = np.repeat(np.arange(len(classes)), counts)
    MetadataCatalog.get(name).classes = classes
    return TableRecords(str(root), StringBlock.concatenate(videos), Labels(labels))


def folder_classes(root: Path) -> list[str]:
    """Return the names of the class folders in ``root``, in the order of the labels; none where there is no ``root``."""
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
