"""The columns of a list, gathered from its lines; see ``nlvideo.data.datasets.listed`` for what a list may hold."""

import csv
import math

import numpy as np

from nlvideo.data.records.list_lines import Lines, read_csv_lines, read_plain_lines
from nlvideo.data.records.records import Labels, TableRecords, parse_spans
from nlvideo.data.records.string_block import StringBlock
from nlvideo.utils.messages import did_you_mean

NUMBERS = ("start_sec", "end_sec", "fps")


class ListTable:
    """The columns of a list, chunk after chunk.

    Attributes:
        classes: names of the classes. Where no file names them and labels are names, those found, in order of the list.

    Args:
        path: of the list.
        columns: of a csv file; None: plain lines.
        classes: names of the classes that a file gives; empty where there is none.
        classes_file: that file.
    """

    def __init__(self, path: str, columns: list[str] | None, classes: list[str], classes_file: str):
        self.path, self.columns, self.classes_file = path, columns, classes_file
        self.classes = list(classes)
        self._numbers = [key for key in NUMBERS if columns and key in columns]
        self._has_spans = columns is not None and "label_spans" in columns
        self._named: bool | None = None  # not known before the first label
        self._index = {name: label for label, name in enumerate(classes)}
        self._extra = bytearray()  # paths that are not in the text as they are
        self._spans: list[str] = []
        self._chunks: list[tuple] = []

    def add(self, text: np.ndarray, begin: int, end: int, number: int) -> int:
        """Add the lines in ``text[begin:end]``, the first of which has this number; return how many there are.

        Raises:
            ValueError: a line cannot be understood.
        """
        chunk = text[begin:end]
        lines, usual_labels = self._read(chunk, number)
        keep, labels = lines.usual.copy(), {}
        for index in np.flatnonzero(~lines.usual).tolist():
            line = _text_of(chunk, lines.begins[index], lines.ends[index])
            if line and not line.startswith("#"):
                keep[index] = True
                labels[index] = self._add_unusual(lines, index, number + index, line, len(text) - begin)
        self._append(lines, keep, usual_labels, labels, begin)
        return len(keep)

    def _read(self, chunk: np.ndarray, number: int) -> tuple[Lines, np.ndarray]:
        """Return the lines, and the labels of the usual ones."""
        if self.columns is None:
            lines = read_plain_lines(chunk)
        else:
            lines = read_csv_lines(chunk, self.columns, self._numbers)
        if self._has_spans:
            lines.usual[:] = False
        usual, labels = np.flatnonzero(lines.usual), np.zeros(len(lines.usual), np.int64)
        texts = StringBlock(chunk, lines.label_begins[usual], lines.label_ends[usual])
        _, firsts, inverse = np.unique(texts.hashes(), return_index=True, return_inverse=True)
        found = np.zeros(len(firsts), np.int64)
        for place in np.argsort(firsts):  # in the order of the list
            index = int(usual[firsts[place]])
            line = _text_of(chunk, lines.begins[index], lines.ends[index])
            (found[place],) = self._labels_of(texts[firsts[place]], number + index, line)
        labels[usual] = found[inverse]
        return lines, labels

    def _add_unusual(self, lines: Lines, index: int, number: int, line: str, extra_begin: int) -> int | list[int]:
        """Put what a line says into the columns and return its labels."""
        row = self._split(number, line)
        if not row["path"]:
            raise self._malformed(number, line, "the path is empty")
        lines.path_begins[index] = extra_begin + len(self._extra)
        self._extra += row["path"].encode(errors="surrogateescape")
        lines.path_ends[index] = extra_begin + len(self._extra)
        for key in self._numbers:
            try:
                lines.numbers[key][index] = value = float(row[key]) if row[key] else math.nan
            except ValueError:
                value = math.inf
            if row[key] and not math.isfinite(value):
                raise self._malformed(number, line, "start_sec, end_sec and fps are numbers")
        labels = self._labels_of(row["label"], number, line) if row["label"] or not self._has_spans else []
        if not self._has_spans:
            return labels if len(labels) > 1 else labels[0]
        self._spans.append(";".join(self._span_of(part, number, line) for part in _parts(row["label_spans"])))
        return labels

    def _split(self, number: int, line: str) -> dict[str, str]:
        """Return what a line says, by the column."""
        if self.columns is None:
            words = line.rsplit(maxsplit=1)
            if len(words) != 2:
                reason = "expected 'path label', or a csv file with a header 'path,label'"
                raise self._malformed(number, line, reason)
            return {"path": words[0].strip('"'), "label": words[1]}
        try:
            values = next(csv.reader([line], skipinitialspace=True))
        except csv.Error as error:
            raise self._malformed(number, line, f"not a line of a csv file ({error})") from None
        if len(values) != len(self.columns):
            raise self._malformed(number, line, f"expected {len(self.columns)} values: {','.join(self.columns)}")
        row = dict(zip(self.columns, (value.strip() for value in values)))
        path = values[self.columns.index("path")]
        # In quotes the spaces around a name are its own.
        if '"{}"'.format(path.replace('"', '""')) in line:
            row["path"] = path
        return row

    def _labels_of(self, text: str, number: int, line: str) -> list[int]:
        """Return the labels in a text such as ``3``, ``3,7``, ``Kickflip`` or ``Kickflip,Ollie``."""
        if self._named is None:  # the first label decides for all
            self._named = any(map(str.isalpha, text))
        if self._named:
            parts = [text] if text in self._index else [part.strip() for part in text.split(",")]
            return [self._label_of(part, number, line) for part in parts]
        try:
            labels = [int(part) for part in text.split(",")]
        except ValueError:
            raise self._malformed(number, line, f"the label {text!r} is not an integer or a list like 3,7") from None
        if any(abs(label) >= 2**31 for label in labels):
            raise self._malformed(number, line, f"the label {text} is not of 32 bits")
        return labels

    def _label_of(self, name: str, number: int, line: str) -> int:
        if name not in self._index:
            if self.classes_file:
                hint = f": {text}" if (text := did_you_mean(name, self.classes)) else ""
                raise self._malformed(number, line, f"{self.classes_file} has no class {name!r}{hint}")
            if not any(map(str.isalpha, name)):
                reason = f"the label {name!r} is not a name, but the first label of the list is"
                raise self._malformed(number, line, reason)
            self._index[name] = len(self.classes)
            self.classes.append(name)
        return self._index[name]

    def _span_of(self, text: str, number: int, line: str) -> str:
        """Return ``class start end`` with the class as a number."""
        try:
            label, start_sec, end_sec = text.rsplit(maxsplit=2)
            if not (math.isfinite(float(start_sec)) and math.isfinite(float(end_sec))):
                raise ValueError
        except ValueError:
            reason = f"label_spans {text!r} are not like '3 0.0 4.5;7 2.1 9.8'"
            raise self._malformed(number, line, reason) from None
        label = self._label_of(label, number, line) if self._named else self._labels_of(label, number, line)[0]
        return f"{label} {start_sec} {end_sec}"

    def _malformed(self, number: int, line: str, reason: str) -> ValueError:
        return ValueError(f"{self.path}:{number}: {reason}, got {line!r}")

    def _append(
        self, lines: Lines, keep: np.ndarray, values: np.ndarray, labels: dict[int, int | list[int]], begin: int
    ) -> None:
        kept = np.flatnonzero(keep)
        if any(isinstance(label, list) for label in labels.values()):
            column = Labels.from_values(labels.get(index, int(values[index])) for index in kept.tolist())
        else:
            values[list(labels)] = list(labels.values())
            column = Labels(values[kept])
        numbers = [lines.numbers[key][kept] for key in self._numbers]
        self._chunks.append((lines.path_begins[kept] + begin, lines.path_ends[kept] + begin, column, *numbers))

    def to_records(self, text: np.ndarray, folder: str) -> TableRecords:
        """Join the columns; classes that no file names are put into the order of their names."""
        empty = np.zeros(0, np.int64)
        columns = list(zip(*self._chunks)) or [[empty]] * 2 + [[Labels(empty)]] + [[empty * 1.0]] * len(self._numbers)
        begins, ends, parts, *numbers = columns
        labels = Labels.concatenate(parts)
        if self._named and not self.classes_file:
            ordered = sorted(self.classes)
            place = {name: label for label, name in enumerate(ordered)}
            sorted_label = np.array([place[name] for name in self.classes], np.int64)
            labels.values[:] = sorted_label[labels.values]
            spans = [[(sorted_label[label], *times) for label, *times in parse_spans(row)] for row in self._spans]
            self._spans = [";".join(" ".join(map(str, span)) for span in row) for row in spans]
            self.classes = ordered
        if self._extra:
            text = np.concatenate([text, np.frombuffer(self._extra, np.uint8)])
        return TableRecords(
            folder,
            StringBlock(text, np.concatenate(begins), np.concatenate(ends)),
            labels,
            {key: np.concatenate(parts) for key, parts in zip(self._numbers, numbers)},
            StringBlock.from_strings(self._spans) if self._has_spans else None,
        )


def _parts(spans: str | None) -> list[str]:
    return [part.strip() for part in (spans or "").split(";") if part.strip()]


def _text_of(chunk: np.ndarray, begin: int, end: int) -> str:
    return chunk[begin:end].tobytes().decode(errors="surrogateescape").strip()
