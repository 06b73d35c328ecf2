"""Datasets as their authors publish them: from annotation files and a folder of videos to records of the catalog."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain
from pathlib import Path

from nlvideo.data.catalog import DatasetCatalog, MetadataCatalog, Record
from nlvideo.data.datasets.annotations import Sample, check_unique
from nlvideo.data.video.paths import VIDEO_EXTENSIONS
from nlvideo.errors import AnnotationError, LookupFailed
from nlvideo.utils.messages import did_you_mean, some

_logger = logging.getLogger(__name__)

Files = dict[str, list[Path]]


@dataclass(frozen=True)
class OfficialFormat:
    """What is known about a dataset and the files its authors publish."""

    name: str  #: the prefix of its names in the catalog
    title: str  #: its name in print
    num_classes: int  #: how many classes its files must name
    splits: tuple[str, str]  #: for training and for testing; keys of ``files``
    files: dict[str, tuple[str, ...]]  #: patterns of file names, in lower case: ``{"train": ("*train*.csv",), ...}``
    #: ``read(format, split, files)`` returns the samples and the classes. It raises ``AnnotationError`` for a file that
    #: is missing, damaged or of another dataset.
    read: Callable[["OfficialFormat", str, Files], tuple[list[Sample], list[str]]]
    folder: str = ""  #: of ``$NLVIDEO_DATASETS``; default: the name
    video_folders: tuple[str, ...] = ("videos",)  #: names that the folder of videos may have in it
    fps: float | None = None  #: of the published folders of frames; None where only videos are published
    max_missing: float = 0.0  #: fraction of a split's videos that may be missing
    multi_label: bool = False  #: whether a video has any number of labels

    def register(self) -> None:
        """Add the format to ``FORMATS`` and its splits to the catalog, as ``<name>_<split>``."""
        FORMATS[self.name] = self
        for split in self.splits:
            name = f"{self.name}_{split}"
            DatasetCatalog.register(name, partial(load_official, self, split))
            MetadataCatalog.get(name).evaluator_type = "multilabel" if self.multi_label else "classification"


@dataclass
class Split:
    """What was found of a split."""

    records: list[Record]  #: of the videos that exist
    classes: list[str]  #: their names, in the order of the labels
    missing: list[str] = field(default_factory=list)  #: ids of the videos that do not exist
    repeated: int = 0  #: entries of the annotation file that say again what another one says

    @property
    def missing_fraction(self) -> float:
        """Of the annotated videos."""
        return len(self.missing) / max(1, len(self.records) + len(self.missing))


FORMATS: dict[str, OfficialFormat] = {}


def get_format(name: str) -> OfficialFormat:
    """Return a format by name; ``LookupFailed`` lists them where there is none."""
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
            " Set $NLVIDEO_DATASETS to use another root. tools/prepare_dataset.py makes lists of files elsewhere"
        )
    found = read_split(spec, split, find_annotations(spec, [root / "annotations"]), videos)
    if found.missing:
        of = f"{len(found.records) + len(found.missing)} videos ({found.missing_fraction:.1%})"
        message = f"{name}: {len(found.missing)} of {of} are not in {videos}: {some(found.missing)}"
        if found.missing_fraction > spec.max_missing:
            raise ValueError(f"{message}; allowed: {spec.max_missing:.0%}")
        _logger.warning("%s; tools/prepare_dataset.py lists them all", message)
    MetadataCatalog.get(name).classes = found.classes
    return found.records


def find_annotations(spec: OfficialFormat, paths: Sequence[Path]) -> Files:
    """Sort annotation files, given as files or folders that hold them, by their role, which their names tell.

    Raises:
        ValueError: a path does not exist.
        AnnotationError: the name of a file that was given tells no role.
    """
    roles: Files = {role: [] for role in spec.files}
    for path in paths:
        if not path.exists():
            raise ValueError(f"{spec.name}: there is no file or folder {path}")
        # Beside a file, macOS writes a hidden one whose name ends like it: ._train.csv.
        inside = sorted(file for file in path.iterdir() if file.name[0] != ".") if path.is_dir() else [path]
        for file in inside:
            matching = [
                (r, p) for r, patterns in spec.files.items() for p in patterns if fnmatchcase(file.name.lower(), p)
            ]
            if not matching and file == path:
                patterns = ", ".join(chain(*spec.files.values()))
                raise AnnotationError(f"{path}: expected a file of {spec.title} with a name like {patterns}")
            for role in dict(matching):
                roles[role].append(file)
    return roles


def single_file(spec: OfficialFormat, files: Files, role: str) -> Path:
    """Return the one file of a role.

    Raises:
        AnnotationError: there is none, or there are several.
    """
    found = files.get(role, [])
    if len(found) != 1:
        others = some([path.name for path in chain(*files.values())])
        there = some(list(map(str, found))) or f"none{f' beside {others}' if others else ''}"
        wanted = f"one annotation file {' or '.join(spec.files[role])} ({role})"
        raise AnnotationError(f"{spec.name}: expected {wanted}, found {there}")
    return found[0]


def read_split(spec: OfficialFormat, split: str, files: Files, videos: Path) -> Split:
    """Read a split and look for its videos.

    Args:
        spec: the format.
        split: one of ``spec.splits``.
        files: see ``find_annotations``.
        videos: where the videos are, see ``find_named_videos``.

    Raises:
        ValueError: the folder of videos does not exist.
        AnnotationError: an annotation file is missing, damaged or of another dataset.
    """
    if not videos.is_dir():
        raise ValueError(f"{spec.name}: there is no folder {videos}")
    samples, classes = spec.read(spec, split, files)
    if len(classes) != spec.num_classes:
        found = f"{len(classes)} are named in {some(sorted(set(map(str, chain(*files.values())))))}"
        advice = "a part of it, or another dataset, is read with 'list:FILE'"
        raise AnnotationError(f"{spec.name}: {spec.title} has {spec.num_classes} classes, {found}; {advice}")
    samples, repeated = check_unique(samples)
    paths = find_named_videos(videos.absolute(), {sample.video_id for sample in samples})
    records: list[Record] = []
    missing = []
    for sample in samples:
        if (path := paths.get(sample.video_id)) is None:
            missing.append(sample.video_id)
            continue
        records.append({"file_name": str(path), "label": sample.label, "video_id": sample.video_id})
        if sample.label_spans is not None:
            records[-1]["label_spans"] = sample.label_spans
        if spec.fps is not None and path.suffix.lower() not in VIDEO_EXTENSIONS:
            records[-1]["fps"] = spec.fps
    return Split(records, classes, missing, repeated)


def find_named_videos(root: Path, wanted: set[str], depth: int = 3) -> dict[str, Path]:
    """Return where the wanted videos are: files of that name with any extension of a video, or folders of frames.

    They are in ``root`` or up to ``depth`` folders deeper, as in train/<class>/<video>. ``wanted`` are names, ``video``
    or ``folder/video``. Of several that match the first in alphabetical order is taken.
    """
    found: dict[str, Path] = {}
    with os.scandir(root) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        stem, extension = os.path.splitext(entry.name)
        is_file = extension.lower() in VIDEO_EXTENSIONS
        name = stem if is_file else entry.name
        inside = dict.fromkeys({name, f"{root.name}/{name}"} & wanted, root / entry.name)
        # A folder of frames is not entered: only its name is asked for.
        if not inside and not is_file and depth and entry.is_dir():
            inside = find_named_videos(root / entry.name, wanted, depth - 1)
        for hit, path in inside.items():
            found.setdefault(hit, path)
    return found
