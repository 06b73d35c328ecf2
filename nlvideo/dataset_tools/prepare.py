"""Lists for ``list:FILE`` from the official files of a dataset, wherever they lie."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nlvideo.data.datasets.list_files import format_list
from nlvideo.data.datasets.listed import CLASSES_FILE, write_classes
from nlvideo.data.datasets.official import Split, find_annotations, get_format, read_split
from nlvideo.errors import AnnotationError
from nlvideo.utils.files.file_io import write_text

# What the splits are called in the folder that is made, whatever the dataset calls the one for testing.
_LISTS = ("train", "val")


@dataclass
class Prepared:
    """What ``prepare_dataset`` found."""

    splits: dict[str, Split]  #: by the name of the list, "train" or "val", where the annotation file was given
    files: list[Path]  #: that were written
    too_many_missing: list[str]  #: lists that lack more than the allowed fraction; then no list was written
    shared: list[str]  #: ids of videos that are in both splits


def prepare_dataset(
    name: str, videos: Path, annotations: Sequence[Path], out: Path, max_missing: float | None = None
) -> Prepared:
    """Write ``train.csv``, ``val.csv`` and ``classes.txt`` into a folder, and ``missing.txt`` where videos are missing.

    Args:
        name: of the format, such as "kinetics400".
        videos: folder of video files or folders of frames.
        annotations: the official files, or folders that hold them.
        out: folder to write into; it is made. Paths in the lists are relative where the videos lie in it.
        max_missing: fraction of the videos of a split that may be missing; default: that of the format.

    Raises:
        LookupFailed: there is no such format.
        ValueError: a file or folder does not exist.
        AnnotationError: an annotation file is missing, damaged or of another dataset.
    """
    spec = get_format(name)
    allowed = spec.max_missing if max_missing is None else max_missing
    files = find_annotations(spec, annotations)
    given = [(split, title) for split, title in zip(spec.splits, _LISTS, strict=True) if files[split]]
    if not given:
        patterns = ", ".join(pattern for split in spec.splits for pattern in spec.files[split])
        raise AnnotationError(f"{name}: expected an annotation file of {spec.title} with a name like {patterns}")
    splits = {title: read_split(spec, split, files, videos.expanduser()) for split, title in given}
    too_many = [title for title, found in splits.items() if found.missing_fraction > allowed]
    out = out.expanduser().absolute()
    out.mkdir(parents=True, exist_ok=True)
    missing = [f"{title} {video}\n" for title, found in splits.items() for video in found.missing]
    files_written = []
    (out / "missing.txt").unlink(missing_ok=True)
    if missing:
        files_written.append(out / "missing.txt")
        write_text(files_written[0], "".join(missing))
    if not too_many:
        for title, found in splits.items():
            files_written.append(out / f"{title}.csv")
            write_text(files_written[-1], format_list(found.records, out))
        files_written.append(out / CLASSES_FILE)
        write_classes(files_written[-1], next(iter(splits.values())).classes)
    ids = [{record["video_id"] for record in found.records} for found in splits.values()]
    shared = sorted(set.intersection(*ids)) if len(ids) > 1 else []
    return Prepared(splits, files_written, too_many, shared)


def count_table(splits: dict[str, Split]) -> list[dict[str, int | str]]:
    """Return one row for each class: its label, its name, and its number of videos in each split."""
    counts = {
        title: Counter(label for record in found.records for label in np.atleast_1d(record["label"]).tolist())
        for title, found in splits.items()
    }
    classes = next(iter(splits.values())).classes
    return [
        {"label": label, "class": name, **{title: count[label] for title, count in counts.items()}}
        for label, name in enumerate(classes)
    ]
