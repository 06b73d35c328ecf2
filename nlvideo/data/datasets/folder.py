"""``folder:DIR``: one folder of videos per class, labelled in the alphabetical order of the folders."""

from pathlib import Path

from nlvideo.data.catalog import MetadataCatalog, Record
from nlvideo.data.frame_folder import IMAGE_EXTENSIONS

VIDEO_EXTENSIONS = (".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")


def load_folder(name: str) -> list[Record]:
    """Return the records of ``folder:DIR`` and note its classes in the ``MetadataCatalog``.

    Videos are found at any depth below a class folder, and so are folders of frames; hidden files and folders are
    skipped, and images that lie in the class folder itself belong to no video.

    Raises:
        ValueError: the folder does not exist or has no folders for classes in it.
    """
    root = Path(name.removeprefix("folder:")).expanduser().absolute()
    if not root.is_dir():
        raise ValueError(f"{name}: there is no folder {root}")
    classes = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise ValueError(f"{name}: expected one folder per class in {root}, found no folders")
    records = []
    for label, class_name in enumerate(classes):
        videos = _find_videos(root / class_name)
        for path in sorted(videos):
            inside = path.relative_to(root)
            if not any(part.startswith(".") for part in inside.parts):
                records.append({"file_name": str(path), "label": label, "video_id": inside.as_posix()})
    MetadataCatalog.get(name).classes = classes
    return records


def _find_videos(folder: Path) -> set[Path]:
    videos = set()
    for path in folder.rglob("*"):
        if path.suffix.lower() in VIDEO_EXTENSIONS:
            videos.add(path)
        elif path.suffix.lower() in IMAGE_EXTENSIONS and path.parent != folder and not path.name.startswith("."):
            videos.add(path.parent)
    return videos
