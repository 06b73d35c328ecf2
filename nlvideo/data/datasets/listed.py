"""``list:FILE``: videos and labels in a text file, with the names of the classes in ``classes.txt`` beside it.

Two layouts, told apart by the first line. Plain lines are ``path label``; the label is the last word, so a path may
hold spaces. A csv file starts with a header that names at least the columns ``path`` and ``label``; quoted values may
hold commas and spaces. ``3,7`` is a video with two labels. Paths are relative to the file. Blank lines and lines that
start with ``#`` are skipped. A path may name a video file or a folder of frames.

More columns of a csv file, all optional: ``start_sec`` and ``end_sec`` cut a sample out of a longer video, ``fps`` is
the frame rate of a folder of frames, and ``label_spans`` says when the labels of a training video are active, as
``class start end`` in seconds: ``3 0.0 4.5;7 2.1 9.8``. A list with ``label_spans`` may hold videos without any label.
"""

import csv
import io
from typing import Any

import numpy as np
from tqdm import tqdm

from nlvideo.data.catalog import MetadataCatalog
from nlvideo.data.datasets.list_lines import Lines, read_csv_lines, read_plain_lines
from nlvideo.data.records import Labels, TableRecords, parse_spans
from nlvideo.data.string_block import StringBlock
from nlvideo.utils.file_io import PathManager, absolute_path, local_path

_NUMBERS = ("start_sec", "end_sec", "fps")
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
    if not PathManager.isfile(path):
        raise ValueError(f"{name}: there is no file {path}")
    records = _read_list(path)
    metadata = MetadataCatalog.get(name)
    metadata.classes = read_classes(f"{_folder_of(path)}/classes.txt")
    multi_label = records.labels.any_lists or records.spans is not None
    metadata.evaluator_type = "multilabel" if multi_label else "classification"
    return records


def read_classes(path: str) -> list[str]:
    """Return the class names in a file, one per line in the order of the labels; none where it does not exist."""
    if not PathManager.isfile(path):
        return []
    with PathManager.open(path, "r", encoding="utf-8-sig") as file:
        return [line.strip() for line in file.read().splitlines() if line.strip()]


def _read_list(path: str) -> TableRecords:
    text = _read_text(path)
    columns, begin, number = _read_header(text)
    table = _Table(path, columns)
    with tqdm(total=len(text), unit="B", unit_scale=True, desc="list", delay=5) as progress:
        while begin < len(text):
            end = _chunk_end(text, begin)
            number += table.add(text, begin, end, number)
            progress.update(end - begin)
            begin = end
    return table.to_records(text)


def _read_text(path: str) -> np.ndarray:
    """The bytes of a file: lines that all end with a newline."""
    text = np.fromfile(local_path(path), np.uint8)
    if len(text) and not (text == ord("\n")).any() and (text == ord("\r")).any():  # as old programs write them
        text[text == ord("\r")] = ord("\n")
    text = text[len(_MARK) :] if text[: len(_MARK)].tobytes() == _MARK else text
    return text if not len(text) or text[-1] == ord("\n") else np.append(text, np.uint8(ord("\n")))


def _read_header(text: np.ndarray) -> tuple[list[str] | None, int, int]:
    """The columns of a csv file, None for plain lines; and offset and number of the first line after the header."""
    begin, number = 0, 1
    while begin < len(text):
        end = _chunk_end(text, begin, at_least=1)
        line = text[begin:end].tobytes().decode(errors="replace").strip()
        if line and not line.startswith("#"):
            columns = _columns_of(line)
            return (columns, end, number + 1) if {"path", "label"} <= set(columns) else (None, begin, number)
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


class _Table:
    """The columns of a list, gathered chunk after chunk."""

    def __init__(self, path: str, columns: list[str] | None):
        self.path, self.columns = path, columns
        self.numbers = [key for key in _NUMBERS if columns and key in columns]
        self.has_spans = columns is not None and "label_spans" in columns
        self.extra = bytearray()  # paths that are not in the text as they are
        self.spans: list[str] = []
        self.chunks: list[tuple] = []

    def add(self, text: np.ndarray, begin: int, end: int, number: int) -> int:
        """Add the lines in ``text[begin:end]``, the first of which has this number; return how many there are."""
        chunk = text[begin:end]
        try:
            chunk.tobytes().decode()
        except UnicodeDecodeError as error:
            number += int((chunk[: error.start] == ord("\n")).sum())
            found = f"found the byte {chunk[error.start]:#04x}"
            raise ValueError(f"{self.path}:{number}: expected text in UTF-8, {found}") from None
        lines = self._read(chunk)
        keep, labels = lines.usual.copy(), {}
        for index in np.flatnonzero(~lines.usual).tolist():
            line = chunk[lines.begins[index] : lines.ends[index]].tobytes().decode().strip()
            if line and not line.startswith("#"):
                keep[index] = True
                labels[index] = self._add_unusual(lines, index, number + index, line, len(text) - begin)
        self._append(lines, keep, labels, begin)
        return len(keep)

    def _read(self, chunk: np.ndarray) -> Lines:
        if self.columns is None:
            return read_plain_lines(chunk)
        lines = read_csv_lines(chunk, self.columns, self.numbers)
        if self.has_spans:
            lines.usual[:] = False
        return lines

    def _add_unusual(self, lines: Lines, index: int, number: int, line: str, extra_begin: int) -> int | list[int]:
        """Put what a line says into the columns and return its labels."""
        row = _parse_line(self.path, number, line, self.columns)
        lines.path_begins[index] = extra_begin + len(self.extra)
        self.extra += row["video"].encode()
        lines.path_ends[index] = extra_begin + len(self.extra)
        for key in self.numbers:
            lines.numbers[key][index] = row.get(key, np.nan)
        if self.has_spans:
            self.spans.append(row["spans"])
        return row["label"]

    def _append(self, lines: Lines, keep: np.ndarray, labels: dict[int, int | list[int]], begin: int) -> None:
        kept = np.flatnonzero(keep)
        values: np.ndarray | Labels = lines.labels
        if any(isinstance(label, list) for label in labels.values()):
            values = Labels.from_values(labels.get(index, int(lines.labels[index])) for index in kept.tolist())
        else:
            values[list(labels)] = list(labels.values())
            values = Labels(values[kept])
        numbers = [lines.numbers[key][kept] for key in self.numbers]
        self.chunks.append((lines.path_begins[kept] + begin, lines.path_ends[kept] + begin, values, *numbers))

    def to_records(self, text: np.ndarray) -> TableRecords:
        """Join the columns."""
        empty = np.zeros(0, np.int64)
        columns = list(zip(*self.chunks)) or [[empty], [empty], [Labels(empty)], *([empty * 1.0] for _ in self.numbers)]
        begins, ends, labels, *numbers = columns
        if self.extra:
            text = np.concatenate([text, np.frombuffer(self.extra, np.uint8)])
        return TableRecords(
            _folder_of(self.path),
            StringBlock(text, np.concatenate(begins), np.concatenate(ends)),
            Labels.concatenate(labels),
            {key: np.concatenate(parts) for key, parts in zip(self.numbers, numbers)},
            StringBlock.from_strings(self.spans) if self.has_spans else None,
        )


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _parse_line(path: str, number: int, line: str, columns: list[str] | None) -> dict[str, Any]:
    if columns is None:
        words = line.rsplit(maxsplit=1)
        if len(words) != 2:
            raise _malformed(path, number, line, "expected 'path label', or a csv file with a header 'path,label'")
        return _to_row(path, number, line, words[0].strip('"'), words[1])
    try:
        values = next(csv.reader(io.StringIO(line), skipinitialspace=True))
    except csv.Error as error:
        raise _malformed(path, number, line, f"not a line of a csv file ({error})") from None
    if len(values) != len(columns):
        raise _malformed(path, number, line, f"expected {len(columns)} values: {','.join(columns)}")
    row = dict(zip(columns, (value.strip() for value in values)))
    numbers = {key: row[key] for key in _NUMBERS if row.get(key)}
    return _to_row(path, number, line, row["path"], row["label"], row.get("label_spans"), **numbers)


def _to_row(
    path: str, number: int, line: str, video: str, label: str, spans: str | None = None, **numbers: str
) -> dict[str, Any]:
    try:
        labels = [int(part) for part in label.split(",")] if label or spans is None else []
    except ValueError:
        raise _malformed(path, number, line, f"the label {label!r} is not an integer or a list like 3,7") from None
    if not video:
        raise _malformed(path, number, line, "the path is empty")
    if any(abs(value) >= 2**31 for value in labels):
        raise _malformed(path, number, line, f"the label {label} is not of 32 bits")
    try:
        seconds = {key: float(value) for key, value in numbers.items()}
    except ValueError:
        raise _malformed(path, number, line, "start_sec, end_sec and fps are numbers") from None
    if spans is None:
        return {"video": video, "label": labels if "," in label else labels[0], **seconds}
    try:
        parse_spans(spans)
    except ValueError:
        raise _malformed(path, number, line, f"label_spans {spans!r} are not like '3 0.0 4.5;7 2.1 9.8'") from None
    return {"video": video, "label": labels, "spans": spans, **seconds}


def _malformed(path: str, number: int, line: str, reason: str) -> ValueError:
    return ValueError(f"{path}:{number}: {reason}, got {line!r}")
