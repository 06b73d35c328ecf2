"""Reading of annotation files: every mistake in one is one line that names the file, the line and what was expected."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlvideo.errors import AnnotationError


@dataclass(frozen=True)
class Sample:
    """One annotated video, before its file is looked for."""

    #: name of the video's file without extension, or of its folder of frames; ``class/name`` where the name alone may
    #: occur in several classes
    video_id: str
    label: int | list[int]  #: index of the class, or of all classes that occur
    where: str  #: file and line, or number of the entry, for messages
    label_spans: list[tuple[int, float, float]] | None = None  #: (class, start, end) in seconds, where that is known


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Return (where, line) of the lines of a text file that are not blank.

    Raises:
        AnnotationError: the file is not text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise AnnotationError(f"{path}: expected text, found a binary file") from None
    lines = enumerate(map(str.strip, text.splitlines()), start=1)
    return [(f"{path}:{number}", line) for number, line in lines if line]


def read_table(path: Path, columns: Sequence[str], of: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (where, row) of a csv file of the dataset ``of``, whose header has ``columns`` and maybe others.

    Raises:
        AnnotationError: a column is missing, or a row has too few or too many values.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            header = [name.strip() for name in next(reader, [])]
            if not set(columns) <= set(header):
                found = ",".join(header)[:200]
                raise AnnotationError(f"{path}:1: expected the columns {','.join(columns)} of {of}, found {found}")
            for values in reader:
                if not values:
                    continue
                where = f"{path}:{reader.line_num}"
                if len(values) != len(header):
                    found = f"{len(values)}: {str(values)[:80]}"
                    raise AnnotationError(f"{where}: expected {len(header)} values, found {found}")
                yield where, dict(zip(header, map(str.strip, values), strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise AnnotationError(f"{path}:{reader.line_num}: not a csv file of {of}: {error}") from None


def read_json(path: Path, kind: type, of: str) -> Any:
    """Return the content of a JSON file, a list or a dict as ``kind`` says.

    Raises:
        AnnotationError: the file is not JSON, or holds another kind of value.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{path}:{error.lineno}: expected JSON of {of}: {error.msg}") from None
    except UnicodeDecodeError:
        raise AnnotationError(f"{path}: expected JSON of {of}: not text") from None
    if not isinstance(content, kind):
        expected = "a list" if kind is list else "an object"
        raise AnnotationError(f"{path}: expected {expected} of {of}, found {content!r:.80}")
    return content


def read_entries(path: Path, keys: Sequence[str], of: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, entry) of a JSON list of objects.

    Raises:
        AnnotationError: the file is something else, or an entry lacks one of ``keys``.
    """
    for number, entry in enumerate(read_json(path, list, of), start=1):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict) or not set(keys) <= entry.keys():
            found = repr(entry)[:80] if not isinstance(entry, dict) else f"the keys {','.join(map(str, entry))[:200]}"
            raise AnnotationError(f"{where}: expected the keys {','.join(keys)} of {of}, found {found}")
        yield where, entry


def class_index(name: str, classes: dict[str, int], where: str, source: str) -> int:
    """Return the label of a class of a video.

    Raises:
        AnnotationError: the class is not among the ``classes``, which ``source`` names.
    """
    if name not in classes:
        raise AnnotationError(f"{where}: the class {name!r} is not among the {len(classes)} of {source}")
    return classes[name]


def check_label(label: object, num_classes: int, where: str, first: int = 0) -> int:
    """Return a label given as a number or as text, counted from 0; the file counts from ``first``.

    Raises:
        AnnotationError: it is not an integer or out of range.
    """
    allowed = f"allowed: {first} to {first + num_classes - 1}"
    try:
        number = int(str(label))
    except ValueError:
        raise AnnotationError(f"{where}: the label {label!r} is not an integer, {allowed}") from None
    if not first <= number < first + num_classes:
        raise AnnotationError(f"{where}: the label {label} is out of range, {allowed}")
    return number - first


def check_unique(samples: Iterable[Sample]) -> tuple[list[Sample], int]:
    """Return the samples without repetitions, and how many of those there were.

    Raises:
        AnnotationError: a video occurs twice with different labels.
    """
    seen: dict[str, Sample] = {}
    repeated = 0
    for sample in samples:
        first = seen.setdefault(sample.video_id, sample)
        repeated += first is not sample
        if (first.label, first.label_spans) != (sample.label, sample.label_spans):
            labels = f"the label {sample.label} here and the label {first.label} in {first.where}"
            raise AnnotationError(f"{sample.where}: the video {sample.video_id!r} has {labels}")
    return list(seen.values()), repeated
