"""``folder:DIR``: one folder of videos per class, labelled in the alphabetical order of the folders."""

from itertools import chain
from pathlib import Path

import numpy as np

from nlvideo.data.catalog import MetadataCatalog
from nlvideo.data.records.records import Labels, StringBlock, TableRecords
from nlvideo.data.video.paths import find_videos
from nlvideo.utils.console import log_once

# Names of parts of a dataset. Where all "classes" have such names, the folder is probably the one above.
_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}


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
    found = find_videos(str(root))
    by_class: dict[str, list[str]] = {class_name: [] for class_name in classes}
    for video in found.videos:
        class_name, is_inside, _ = video.partition("/")
        (by_class[class_name] if is_inside else found.left_out["not in the folder of a class"]).append(video)
    text = found.describe()
    if empty := [class_name for class_name, videos in by_class.items() if not videos]:
        left_out = f"; left out: {text}" if text else ""
        raise ValueError(f"{name}: the class {empty[0]!r} has no video, allowed: at least one{left_out}")
    if text:
        log_once(f"{name}: left out: {text}")
    if _PARTS.issuperset(class_name.lower() for class_name in classes):
        parts = ", ".join(f"{name}/{class_name}" for class_name in classes)
        log_once(f"{name}: its folders {', '.join(classes)} are taken as classes. For parts of a dataset, give {parts}")
    MetadataCatalog.get(name).classes = classes
    labels = np.repeat(np.arange(len(classes)), [len(videos) for videos in by_class.values()])
    return TableRecords(str(root), StringBlock.from_strings(chain(*by_class.values())), Labels(labels))


def folder_classes(root: Path) -> list[str]:
    """Return the names of the class folders in ``root``, in the order of the labels; none where it does not exist."""
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
