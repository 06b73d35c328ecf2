"""Kinetics-400, -600 and -700 (Carreira et al.): csv files of YouTube clips, and videos named after id and seconds."""

import os
from pathlib import Path

from nlvideo.data.datasets.annotations import Sample, check_label, class_index, read_json, read_lines, read_table
from nlvideo.data.datasets.kinetics_names import kinetics400_classes
from nlvideo.data.datasets.listed import read_classes
from nlvideo.data.datasets.official import Files, OfficialFormat, single_file
from nlvideo.errors import AnnotationError

_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
# Clips vanish from YouTube. The authors of the non-local network trained without 4.8 % of the training clips and put
# the loss of accuracy below half a per cent.
MAX_MISSING = 0.1


def _read_kinetics(spec: OfficialFormat, split: str, files: Files) -> tuple[list[Sample], list[str]]:
    """Read a split, from the official csv file or from the text file ``path label`` of the non-local network's authors.

    A file ``classes.txt`` (one name a line) or the authors' ``classids.json`` names the classes. Without one, labels
    are the alphabetical order of the names in the training file, or in that of the split alone. The names of
    Kinetics-400 are known: a part of it has the labels of the whole, and a list needs no file of names.
    """
    path = single_file(spec, files, split)
    classes, source = _classes_of(spec, files, path)
    if path.suffix.lower() == ".txt":
        return _read_list(path, len(classes)), classes
    labels = {name: label for label, name in enumerate(classes)}
    samples = []
    for where, row in read_table(path, _COLUMNS, spec.title):
        label = class_index(_clean(row["label"]), labels, where, source)
        try:
            start, end = (int(float(row[key])) for key in ("time_start", "time_end"))
        except ValueError:
            times = f"{row['time_start']!r} and {row['time_end']!r}"
            raise AnnotationError(f"{where}: time_start and time_end are numbers, found {times}") from None
        samples.append(Sample(f"{row['youtube_id']}_{start:06d}_{end:06d}", label, where))
    return samples, classes


def _classes_of(spec: OfficialFormat, files: Files, path: Path) -> tuple[list[str], str]:
    is_list, train = path.suffix.lower() == ".txt", spec.splits[0]
    known = kinetics400_classes() if spec.name == "kinetics400" else ()
    if files["classes"] or (is_list and not known):
        source = single_file(spec, files, "classes")
        return _named_classes(source), source.name
    if is_list:
        return list(known), spec.title
    source = single_file(spec, files, train) if files[train] else path
    names = {_clean(row["label"]) for _, row in read_table(source, _COLUMNS, spec.title)}
    # A part of the dataset has the labels of the whole.
    return sorted(names.union(known) if names.issubset(known) else names), source.name


def _named_classes(path: Path) -> list[str]:
    if path.suffix.lower() != ".json":
        return read_classes(str(path))
    ids = read_json(path, dict, "class names and ids")
    if sorted(ids.values(), key=str) != sorted(range(len(ids)), key=str):
        raise AnnotationError(f"{path}: expected the ids 0 to {len(ids) - 1}, each once")
    return [_clean(name) for name in sorted(ids, key=ids.__getitem__)]


def _read_list(path: Path, num_classes: int) -> list[Sample]:
    samples = []
    for where, line in read_lines(path):
        words = line.rsplit(maxsplit=1)
        if len(words) != 2:
            raise AnnotationError(f"{where}: expected 'path label', found {line!r:.80}")
        label = check_label(words[1].split(",")[0], num_classes, where)
        # The folders are those of another machine; the name is that of the video.
        samples.append(Sample(os.path.splitext(os.path.basename(words[0]))[0], label, where))
    return samples


def _clean(name: str) -> str:
    # Early files, and classids.json, have quotes around names of several words.
    return name.strip().strip('"').strip()


for _size in (400, 600, 700):
    OfficialFormat(
        name=f"kinetics{_size}",
        title=f"Kinetics-{_size}",
        num_classes=_size,
        splits=("train", "val"),
        files={
            "train": ("*train*.csv", "*train*.txt"),
            "val": ("*val*.csv", "*val*.txt"),
            "classes": ("classes.txt", "classids.json"),
        },
        read=_read_kinetics,
        max_missing=MAX_MISSING,
    ).register()
