"""``list:FILE``: videos and labels in a text file, with the names of the classes in a file beside it; see docs/data.md.

The first line tells which of two layouts a file has. Plain lines are ``path label``; the label is the last word, so a
path may hold spaces. A csv file starts with a header that names at least the columns ``path`` and ``label``. Blank
lines and lines that start with ``#`` are skipped.

Other columns of a csv file are the optional keys of a record, see nlvideo/data/catalog.py. ``label_spans`` are like
``3 0.0 4.5;7 2.1 9.8``, and a list that has them may hold videos without any label. Any column may be the one that
DATASETS.SPLIT.GROUP names.

Lines are read one by one, with Python's ``csv``. benchmarks/records.md says why Arrow, which is faster, is not used.
"""

import csv
import math
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

import numpy as np

from nlvideo.data.catalog import MetadataCatalog
from nlvideo.data.records.records import Labels, StringBlock, TableRecords, parse_spans
from nlvideo.utils.console import progress_bar
from nlvideo.utils.files.file_io import absolute_path, fetch_file, write_text
from nlvideo.utils.messages import did_you_mean

CLASSES_FILE = "classes.txt"
_NUMBERS = ("start_sec", "end_sec", "fps")
_COLUMNS = ("path", "label", *_NUMBERS, "label_spans")


def load_list(name: str) -> TableRecords:
    """Return the records of ``list:FILE`` and note its classes in the ``MetadataCatalog``.

    ``video_id`` is the path as the list gives it. Repeats get ``#2``, ``#3``, ... appended, so that ids are unique.

    Raises:
        ValueError: the file does not exist or has a line that cannot be understood (file, line number, line).
    """
    path = absolute_path(name.removeprefix("list:"))
    local = fetch_file(path)
    if local is None:
        raise ValueError(f"{name}: there is no file {path}")
    reader = _ListReader(path)
    records = reader.read(local)
    metadata = MetadataCatalog.get(name)
    metadata.classes, metadata.classes_from = reader.classes, reader.classes_file or "the labels of the list"
    multi_label = records.labels.any_lists or records.spans is not None
    metadata.evaluator_type = "multilabel" if multi_label else "classification"
    return records


def list_column(name: str, column: str) -> list[str]:
    """Return any column of the csv file of ``list:FILE`` as text, such as one that says who is in each video.

    Raises:
        ValueError: there is no such column, or the file is faulty; see ``load_list``.
    """
    path = absolute_path(name.removeprefix("list:"))
    reader = _ListReader(path, column)
    reader.read(fetch_file(path) or path)
    return reader.kept


def read_classes(path: str) -> list[str]:
    """Return the class names in a file, one per line in the order of the labels; none where it does not exist.

    Raises:
        ValueError: it is no file, or a name is there twice.
    """
    local = fetch_file(path)
    if local is None:
        return []
    with open(local, encoding="utf-8-sig", errors="surrogateescape") as file:
        names = [line.strip() for line in file if line.strip()]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: the class {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return names


def write_classes(path: str | os.PathLike, classes: Iterable[str]) -> None:
    """Write the names of classes as ``read_classes`` reads them; ``OSError`` where that fails."""
    write_text(path, "".join(f"{name}\n" for name in classes))


def classes_beside(path: str) -> tuple[list[str], str]:
    """Return the class names for a list, which need not exist, and the file that has them; ``[], ""`` without one."""
    for file in (classes_file_of(path), f"{_folder_of(path)}/{CLASSES_FILE}"):
        if names := read_classes(file):
            return names, file
    return [], ""


def classes_file_of(path: str) -> str:
    """Return the file of class names that is for one list alone: ``train.classes.txt`` for ``train.csv``."""
    return f"{os.path.splitext(path)[0]}.{CLASSES_FILE}"


class _ListReader:
    """Reads a list into columns.

    Args:
        path: of the list.
        keep: a column whose texts are kept as they are; "": none.

    Attributes:
        classes: names of the classes; where no file names them and labels are names, those found.
        classes_file: the file that names them; empty where there is none.
        kept: the texts of the column ``keep``.
    """

    def __init__(self, path: str, keep: str = ""):
        self.path, self._keep = path, keep.strip().lower()
        self.kept: list[str] = []
        self.classes, self.classes_file = classes_beside(path)
        self._index = {name: label for label, name in enumerate(self.classes)}
        self._named: bool | None = None  # not known before the first label
        self._number, self._line, self._is_row = 0, "", True
        # The labels of each line are kept as the place of their text among the different ones.
        self._places: dict[str, int] = {}
        self._distinct: list[int | list[int]] = []
        self._labels = array("q")
        self._numbers: dict[str, array] = {}
        self._spans: list[str] | None = None

    def read(self, local: str) -> TableRecords:
        """Read the file; classes that no file names are put into the order of their names.

        Raises:
            ValueError: a line cannot be understood.
        """
        with open(local, encoding="utf-8-sig", errors="surrogateescape") as file:
            if "\0" in file.read(4096):
                raise ValueError(f"{self.path}: expected text in UTF-8, found bytes 0")
            file.seek(0)
            lines = self._lines(progress_bar(file, unit=" lines", desc="list", delay=5))
            first = list(islice(lines, 1))
            if columns := self._header_in(first[0] if first else ""):
                rows: Iterator[Sequence[str]] = csv.reader(lines, skipinitialspace=True)
            else:
                columns, rows = ["path", "label"], map(self._split, chain(first, lines))
            try:
                videos = StringBlock.from_strings(self._paths(columns, rows))
            except csv.Error as error:
                raise self._malformed(f"not a line of a csv file ({error})") from None
        if self._named and not self.classes_file:
            self._sort_classes()
        places = np.array(self._labels, np.int64)
        if any(isinstance(labels, list) for labels in self._distinct):
            labels = Labels.from_values(self._distinct[place] for place in places.tolist())
        else:
            labels = Labels(np.array(self._distinct, np.int64)[places])
        numbers = {key: np.array(column) for key, column in self._numbers.items()}
        spans = None if self._spans is None else StringBlock.from_strings(self._spans)
        return TableRecords(_folder_of(self.path), videos, labels, numbers, spans)

    def _lines(self, file: Iterable[str]) -> Iterator[str]:
        """Yield the lines that say something, and note each for messages."""
        for self._number, line in enumerate(file, start=1):
            line = line.strip()
            if line and line[0] != "#":
                self._line, self._is_row = line, False
                yield line
                if not self._is_row:  # csv asks for the next line of a value with a line break
                    raise self._malformed("a quote is not closed")

    def _header_in(self, line: str) -> list[str]:
        """Return the columns that the first line names; none where the file has plain lines."""
        self._is_row = True
        try:
            columns = [column.strip().lower() for column in next(csv.reader([line]), [])]
        except csv.Error:
            return []
        if not {"path", "label"} <= set(columns):
            return []
        if twice := [column for column in _COLUMNS if columns.count(column) > 1]:
            raise self._malformed(f"the column {twice[0]!r} is there twice")
        return columns

    def _split(self, line: str) -> Sequence[str]:
        words = line.rsplit(maxsplit=1)
        if len(words) != 2:
            raise self._malformed("expected 'path label', or a csv file with a header 'path,label'")
        return words[0].strip('"'), words[1]

    def _paths(self, columns: list[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
        """Yield the path of each row, and gather its other values."""
        path_place, label_place = columns.index("path"), columns.index("label")
        self._numbers = {key: array("d") for key in _NUMBERS if key in columns}
        self._spans = [] if "label_spans" in columns else None
        if self._keep and self._keep not in columns:
            raise ValueError(f"got {self._keep!r}, allowed are the columns of {self.path}: {', '.join(columns)}")
        for row in rows:
            self._is_row = True
            if len(row) != len(columns):
                raise self._malformed(f"expected {len(columns)} values: {','.join(columns)}")
            path, text = row[path_place], row[label_place]
            # In quotes, the spaces around a name belong to it.
            if path != path.strip() and '"{}"'.format(path.replace('"', '""')) not in self._line:
                path = path.strip()
            if not path:
                raise self._malformed("the path is empty")
            if (place := self._places.get(text)) is None:
                place = self._places[text] = len(self._distinct)
                # With spans, a video may have no label of its own.
                has_spans, text = self._spans is not None, text.strip()
                labels = self._label_list(text) if text or not has_spans else []
                self._distinct.append(labels if has_spans or len(labels) > 1 else labels[0])
            self._labels.append(place)
            for key, column in self._numbers.items():
                column.append(self._number_in(row[columns.index(key)].strip()))
                if key == "fps" and column[-1] < 0:
                    raise self._malformed("fps is a number above 0, or empty")
            if self._spans is not None:
                self._spans.append(self._spans_in(row[columns.index("label_spans")]))
            if self._keep:
                self.kept.append(row[columns.index(self._keep)].strip())
            yield path

    def _number_in(self, text: str) -> float:
        try:
            value = float(text) if text else math.nan
        except ValueError:
            value = math.inf
        if text and not math.isfinite(value):
            raise self._malformed("start_sec, end_sec and fps are numbers")
        return value

    def _label_list(self, text: str) -> list[int]:
        """Return the labels in a text such as ``3``, ``3,7``, ``Kickflip`` or ``Kickflip,Ollie``."""
        if self._named is None:  # the first label decides for all
            self._named = any(map(str.isalpha, text))
        if self._named:
            return [self._class_of(part.strip()) for part in ([text] if text in self._index else text.split(","))]
        try:
            labels = [int(part) for part in text.split(",")]
        except ValueError:
            raise self._malformed(f"the label {text!r} is not an integer or a list like 3,7") from None
        if any(abs(label) >= 2**31 for label in labels):
            raise self._malformed(f"the label {text} is not of 32 bits")
        return labels

    def _class_of(self, name: str) -> int:
        if name not in self._index:
            if self.classes_file:
                hint = f": {text}" if (text := did_you_mean(name, self.classes)) else ""
                raise self._malformed(f"{self.classes_file} has no class {name!r}{hint}")
            if not any(map(str.isalpha, name)):
                raise self._malformed(f"the label {name!r} is not a name, but the first label of the list is")
            self._index[name] = len(self.classes)
            self.classes.append(name)
        return self._index[name]

    def _spans_in(self, text: str) -> str:
        """Return ``label_spans`` with the classes as numbers."""
        spans = []
        for part in filter(None, map(str.strip, text.split(";"))):
            try:
                name, start_sec, end_sec = part.rsplit(maxsplit=2)
                if not -math.inf < float(start_sec) <= float(end_sec) < math.inf:
                    raise ValueError
            except ValueError:
                raise self._malformed(
                    f"label_spans {part!r} are not like '3 0.0 4.5;7 2.1 9.8' (class, start, end)"
                ) from None
            label = self._class_of(name) if self._named else self._label_list(name)[0]
            spans.append(f"{label} {start_sec} {end_sec}")
        return ";".join(spans)

    def _sort_classes(self) -> None:
        """Give the classes that were found the labels that their alphabetical order gives."""
        ordered = sorted(self.classes)
        label_of = [ordered.index(name) for name in self.classes]
        self.classes = ordered
        self._distinct = [
            [label_of[label] for label in labels] if isinstance(labels, list) else label_of[labels]
            for labels in self._distinct
        ]
        if self._spans is not None:
            rows = map(parse_spans, self._spans)
            self._spans = [";".join(f"{label_of[label]} {start} {end}" for label, start, end in row) for row in rows]

    def _malformed(self, reason: str) -> ValueError:
        return ValueError(f"{self.path}:{self._number}: {reason}, got {self._line!r}")


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0] or "/"
