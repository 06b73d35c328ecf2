"""``list:FILE``: videos and labels in a text file, with the names of the classes in a file beside it.

Two layouts, told apart by the first line. Plain lines are ``path label``; the label is the last word, so a path may
hold spaces. A csv file starts with a header that names at least the columns ``path`` and ``label``; quoted values may
hold commas and spaces. ``3,7`` is a video with two labels. Paths are relative to the file. Blank lines and lines that
start with ``#`` are skipped. A path may name a video file or a folder of frames.

``train.classes.txt`` names the classes of ``train.csv``, one per line in the order of the labels; without it
``classes.txt`` does, for every list in its folder. Labels may be names, in all lines or in none: those of that file, or
where there is none the names in the list, in alphabetical order.

More columns of a csv file, all optional: ``start_sec`` and ``end_sec`` cut a sample out of a longer video, ``fps`` is
the frame rate of a folder of frames, and ``label_spans`` says when the labels of a training video are active, as
``class start end`` in seconds: ``3 0.0 4.5;7 2.1 9.8``. A list with ``label_spans`` may hold videos without any label.
"""

import csv
import os

import numpy as np

from nlvideo.data.catalog import MetadataCatalog
from nlvideo.data.records.list_table import NUMBERS, ListTable
from nlvideo.data.records.records import TableRecords
from nlvideo.utils.console import progress_bar
from nlvideo.utils.files.file_io import absolute_path, fetch_file

_COLUMNS = ("path", "label", *NUMBERS, "label_spans")
_CHUNK_BYTES = 1 << 24
_MARK = b"\xef\xbb\xbf"


def load_list(name: str) -> TableRecords:
    """Return the records of ``list:FILE`` and note its classes in the ``MetadataCatalog``.

    ``video_id`` is the path as the list gives it; repeats get ``#2``, ``#3``, ... appended, so that ids are unique.
    The text of the file is kept as it is, and a record is made of its part of it when asked for.

    Raises:
        ValueError: the file does not exist or has a line that cannot be understood (file, line number, line).
    """
    path = absolute_path(name.removeprefix("list:"))
    local = fetch_file(path)
    if local is None:
        raise ValueError(f"{name}: there is no file {path}")
    text = _read_text(path, local)
    columns, begin, number = _read_header(path, text)
    classes, classes_file = classes_beside(path)
    table = ListTable(path, columns, classes, classes_file)
    with progress_bar(total=len(text), unit="B", unit_scale=True, desc="list", delay=5) as progress:
        while begin < len(text):
            end = _chunk_end(text, begin)
            number += table.add(text, begin, end, number)
            progress.update(end - begin)
            begin = end
    records = table.to_records(text, _folder_of(path))
    metadata = MetadataCatalog.get(name)
    metadata.classes, metadata.classes_from = table.classes, classes_file or "the labels of the list"
    multi_label = records.labels.any_lists or records.spans is not None
    metadata.evaluator_type = "multilabel" if multi_label else "classification"
    return records


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


def classes_beside(path: str) -> tuple[list[str], str]:
    """Return the class names for a list and the file that has them; ``[], ""`` where there is none.

    Args:
        path: of the list, which need not exist.
    """
    for file in (classes_file_of(path), f"{_folder_of(path)}/classes.txt"):
        if names := read_classes(file):
            return names, file
    return [], ""


def classes_file_of(path: str) -> str:
    """Return the file of class names that is for one list alone: ``train.classes.txt`` for ``train.csv``."""
    return f"{os.path.splitext(path)[0]}.classes.txt"


def _read_text(path: str, local: str) -> np.ndarray:
    """The bytes of a file: lines that all end with a newline."""
    text = np.fromfile(local, np.uint8)
    if (text[:4096] == 0).any():
        raise ValueError(f"{path}: expected text in UTF-8, found bytes 0")
    if len(text) and not (text == ord("\n")).any() and (text == ord("\r")).any():  # as old programs write them
        text[text == ord("\r")] = ord("\n")
    text = text[len(_MARK) :] if text[: len(_MARK)].tobytes() == _MARK else text
    return text if not len(text) or text[-1] == ord("\n") else np.append(text, np.uint8(ord("\n")))


def _read_header(path: str, text: np.ndarray) -> tuple[list[str] | None, int, int]:
    """The columns of a csv file, None for plain lines; and offset and number of the first line after the header."""
    begin, number = 0, 1
    while begin < len(text):
        end = _chunk_end(text, begin, at_least=1)
        line = text[begin:end].tobytes().decode(errors="replace").strip()
        if line and not line.startswith("#"):
            columns = _columns_of(line)
            if not {"path", "label"} <= set(columns):
                return None, begin, number
            if twice := [column for column in _COLUMNS if columns.count(column) > 1]:
                raise ValueError(f"{path}:{number}: the column {twice[0]!r} is there twice, got {line!r}")
            return columns, end, number + 1
        begin, number = end, number + 1
    return None, begin, number


def _columns_of(line: str) -> list[str]:
    try:
        return [column.strip().lower() for column in next(csv.reader([line]))]
    except csv.Error:
        return []


def _chunk_end(text: np.ndarray, begin: int, at_least: int = _CHUNK_BYTES) -> int:
    """Where the line ends that holds the byte ``at_least`` bytes after ``begin``."""
    place = min(begin + at_least - 1, len(text) - 1)
    while True:
        newlines = np.flatnonzero(text[place : place + 4096] == ord("\n"))
        if len(newlines):
            return place + int(newlines[0]) + 1
        place += 4096


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0] or "/"
