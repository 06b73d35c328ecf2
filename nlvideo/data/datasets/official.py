"""Datasets as their authors publish them: from annotation files and a folder of videos to records of the catalog."""

import fnmatch
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nlvideo.data.catalog import DatasetCatalog, MetadataCatalog, Record
from nlvideo.data.datasets.annotations import Sample, check_unique
from nlvideo.data.video.paths import VIDEO_EXTENSIONS
from nlvideo.errors import AnnotationError, LookupFailed
from nlvideo.utils.messages import did_you_mean, some

# Folders between the folder of videos and a video, as in train/<class>/<video>.
_MAX_DEPTH = 3

_logger = logging.getLogger(__name__)

Files = dict[str, list[Path]]


@dataclass(frozen=True)
class OfficialFormat:
    """What is known about a dataset and the files its authors publish.

    Attributes:
        name: the prefix of its names in the catalog.
        title: its name in print.
        num_classes: how many classes its files must name.
        splits: the split for training and the one for testing; keys of ``files``.
        files: for each role patterns of file names, in lower case: ``{"train": ("*train*.csv",), ...}``.
        read: ``read(format, split, files)`` returns the samples and the classes.
        folder: of ``$NLVIDEO_DATASETS``; default: the name.
        video_folders: names that the folder of videos may have in it.
        fps: frame rate of the published folders of frames; None where only videos are published.
        max_missing: fraction of a split's videos that may be missing.
        multi_label: whether a video has any number of labels.
    """

    name: str
    title: str
    num_classes: int
    splits: tuple[str, str]
    files: dict[str, tuple[str, ...]]
    read: Callable[["OfficialFormat", str, Files], tuple[list[Sample], list[str]]]
    folder: str = ""
    video_folders: tuple[str, ...] = ("videos",)
    fps: float | None = None
    max_missing: float = 0.0
    multi_label: bool = False


@dataclass
class Split:
    """What was found of a split.

    Attributes:
        records: of the videos that exist.
        classes: their names, in the order of the labels.
        missing: ids of the videos that do not.
        repeated: entries of the annotation file that say again what another one says.
    """

    records: list[Record]
    classes: list[str]
    missing: list[str] = field(default_factory=list)
    repeated: int = 0

    @property
    def missing_fraction(self) -> float:
        """Of the annotated videos."""
        return len(self.missing) / max(1, len(self.records) + len(self.missing))


FORMATS: dict[str, OfficialFormat] = {}


def register_format(spec: OfficialFormat) -> None:
    """Add a format to ``FORMATS`` and its splits to the catalog, as ``<name>_<split>``."""
    FORMATS[spec.name] = spec
    for split in spec.splits:
        DatasetCatalog.register(f"{spec.name}_{split}", partial(load_official, spec, split))
        evaluator_type = "multilabel" if spec.multi_label else "classification"
        MetadataCatalog.get(f"{spec.name}_{split}").evaluator_type = evaluator_type


def get_format(name: str) -> OfficialFormat:
    """Return a format by name.

    Raises:
        LookupFailed: there is none; the message lists them.
    """
    if name not in FORMATS:
        hint = did_you_mean(name, FORMATS) or "no name is close."
        raise LookupFailed(f"unknown dataset {name!r}: {hint} There are: {', '.join(sorted(FORMATS))}")
    return FORMATS[name]


def datasets_root() -> Path:
    """Return ``$NLVIDEO_DATASETS``, or ``./datasets``."""
    return Path(os.environ.get("NLVIDEO_DATASETS") or "datasets").expanduser().absolute()


def load_official(spec: OfficialFormat, split: str) -> list[Record]:
    """Return the records of a split under ``$NLVIDEO_DATASETS`` and note its classes in the ``MetadataCatalog``.

    Videos that are missing are left out and reported in the log.

    Raises:
        ValueError: a folder is missing, or more videos than ``spec.max_missing`` allows.
        AnnotationError: see ``read_split``.
    """
    name = f"{spec.name}_{split}"
    root = datasets_root() / (spec.folder or spec.name)
    videos = next((root / folder for folder in spec.video_folders if (root / folder).is_dir()), None)
    if videos is None or not (root / "annotations").is_dir():
        absent = root if not root.is_dir() else root / (spec.video_folders[0] if videos is None else "annotations")
        raise ValueError(
            f"{name}: there is no folder {absent}; {spec.title} is looked for in {root}, with its files in annotations/"
            f" and its videos in {' or '.join(f'{folder}/' for folder in spec.video_folders)}: see datasets/README.md."
            " $NLVIDEO_DATASETS moves the root, and tools/prepare_dataset.py makes lists of files that lie elsewhere"
        )
    found = read_split(spec, split, find_annotations(spec, [root / "annotations"]), videos)
    if found.missing:
        message = describe_missing(name, found, videos)
        if found.missing_fraction > spec.max_missing:
            raise ValueError(f"{message}; allowed: {spec.max_missing:.0%}")
        _logger.warning("%s; tools/prepare_dataset.py lists them all", message)
    MetadataCatalog.get(name).classes = found.classes
    return found.records


def describe_missing(name: str, found: Split, videos: Path) -> str:
    """Return how many videos are missing, with the first few of them."""
    count = f"{len(found.missing)} of {len(found.records) + len(found.missing)} videos"
    return f"{name}: {count} ({found.missing_fraction:.1%}) are not in {videos}: {some(found.missing)}"


def find_annotations(spec: OfficialFormat, paths: Sequence[Path]) -> Files:
    """Sort annotation files by their role, which their names tell.

    Args:
        spec: the format.
        paths: files, or folders to look into; what a folder holds beside them does not matter.

    Raises:
        ValueError: a path does not exist.
        AnnotationError: the name of a file that was given tells no role.
    """
    roles: Files = {role: [] for role in spec.files}
    for path in paths:
        if not path.exists():
            raise ValueError(f"{spec.name}: there is no file or folder {path}")
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            matching = [r for r, patterns in spec.files.items() if _matches(file.name, patterns)]
            if not matching and file == path:
                patterns = ", ".join(pattern for patterns in spec.files.values() for pattern in patterns)
                raise AnnotationError(f"{path}: expected a file of {spec.title} with a name like {patterns}")
            for role in matching:
                roles[role].append(file)
    return roles


def single_file(spec: OfficialFormat, files: Files, role: str) -> Path:
    """Return the one file of a role.

    Raises:
        AnnotationError: there is none, or there are several.
    """
    found = files.get(role, [])
    wanted = f"{spec.name}: expected one annotation file {' or '.join(spec.files[role])}"
    if not found:
        others = some([path.name for paths in files.values() for path in paths])
        raise AnnotationError(f"{wanted} ({role}), found none{f' beside {others}' if others else ''}")
    if len(found) > 1:
        raise AnnotationError(f"{wanted} ({role}), found {some(list(map(str, found)))}")
    return found[0]


def read_split(spec: OfficialFormat, split: str, files: Files, videos: Path) -> Split:
    """Read a split and look for its videos.

    Args:
        spec: the format.
        split: one of ``spec.splits``.
        files: see ``find_annotations``.
        videos: folder of video files or folders of frames, directly or up to three folders deeper.

    Raises:
        ValueError: the folder of videos does not exist.
        AnnotationError: an annotation file is missing, damaged or of another dataset.
    """
    if not videos.is_dir():
        raise ValueError(f"{spec.name}: there is no folder {videos}")
    samples, classes = spec.read(spec, split, files)
    if len(classes) != spec.num_classes:
        named = some(sorted({str(path) for paths in files.values() for path in paths}))
        raise AnnotationError(
            f"{spec.name}: {spec.title} has {spec.num_classes} classes, {len(classes)} are named in {named};"
            " a part of it, or another dataset, is read with 'list:FILE'"
        )
    samples, repeated = check_unique(samples)
    paths = find_named_videos(videos, {sample.video_id for sample in samples})
    records, missing = [], []
    for sample in samples:
        if sample.video_id in paths:
            records.append(_to_record(spec, sample, paths[sample.video_id]))
        else:
            missing.append(sample.video_id)
    return Split(records, classes, missing, repeated)


def find_named_videos(root: Path, wanted: set[str]) -> dict[str, Path]:
    """Return where the wanted videos are: files of that name with any extension of a video, or folders.

    Args:
        root: folder to look into, three folders deep.
        wanted: names, ``video`` or ``folder/video``. Of several that match the first in alphabetical order is taken.
    """
    found: dict[str, Path] = {}
    _walk(root.absolute(), wanted, found, 0)
    return found


def _walk(folder: Path, wanted: set[str], found: dict[str, Path], depth: int) -> None:
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        stem, extension = os.path.splitext(entry.name)
        is_file = extension.lower() in VIDEO_EXTENSIONS
        name = stem if is_file else entry.name
        hits = {name, f"{folder.name}/{name}"} & wanted
        for hit in hits:
            found.setdefault(hit, folder / entry.name)
        # A folder of frames is not entered: only its name is asked for.
        if not hits and not is_file and depth < _MAX_DEPTH and entry.is_dir():
            _walk(folder / entry.name, wanted, found, depth + 1)


def _to_record(spec: OfficialFormat, sample: Sample, path: Path) -> Record:
    record: Record = {"file_name": str(path), "label": sample.label, "video_id": sample.video_id}
    if sample.label_spans is not None:
        record["label_spans"] = sample.label_spans
    if spec.fps is not None and path.suffix.lower() not in VIDEO_EXTENSIONS:
        record["fps"] = spec.fps
    return record


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in patterns)
