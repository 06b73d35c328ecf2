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
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from nlvideo.data.catalog import MetadataCatalog, Record
from nlvideo.utils.file_io import PathManager


def load_list(name: str) -> list[Record]:
    """Return the records of ``list:FILE`` and note its classes in the ``MetadataCatalog``.

    ``video_id`` is the path as the list gives it; repeats get ``#2``, ``#3``, ... appended, so that ids are unique.

    Raises:
        ValueError: the file does not exist or has a line that cannot be understood (file, line number, line).
    """
    path = Path(name.removeprefix("list:")).expanduser().absolute()
    if not path.is_file():
        raise ValueError(f"{name}: there is no file {path}")
    with PathManager.open(str(path), "r", encoding="utf-8-sig") as file:
        lines = [(number, line.strip()) for number, line in enumerate(file.read().splitlines(), start=1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    columns = _columns_of(lines[0][1]) if lines else None
    rows = _read_csv(path, lines, columns) if columns else _read_plain(path, lines)
    records, seen = [], Counter()
    for row in rows:
        record = _to_record(path, **row)
        seen[record["video_id"]] += 1
        if seen[record["video_id"]] > 1:
            record["video_id"] += f"#{seen[record['video_id']]}"
        records.append(record)
    metadata = MetadataCatalog.get(name)
    metadata.classes = read_classes(path.parent / "classes.txt")
    multi_label = any(isinstance(record["label"], list) or "label_spans" in record for record in records)
    metadata.evaluator_type = "multilabel" if multi_label else "classification"
    return records


def read_classes(path: Path) -> list[str]:
    """Return the class names in a file, one per line in the order of the labels; none where it does not exist."""
    if not path.is_file():
        return []
    with PathManager.open(str(path), "r", encoding="utf-8-sig") as file:
        return [line.strip() for line in file.read().splitlines() if line.strip()]


def _columns_of(line: str) -> list[str] | None:
    columns = [column.strip().lower() for column in next(csv.reader([line]))]
    return columns if {"path", "label"} <= set(columns) else None


def _read_plain(path: Path, lines: list[tuple[int, str]]) -> Iterator[dict]:
    for number, line in lines:
        words = line.rsplit(maxsplit=1)
        if len(words) != 2:
            raise _malformed(path, number, line, "expected 'path label', or a csv file with a header 'path,label'")
        yield {"number": number, "line": line, "video": words[0].strip('"'), "label": words[1]}


def _read_csv(path: Path, lines: list[tuple[int, str]], columns: list[str]) -> Iterator[dict]:
    for number, line in lines[1:]:
        values = next(csv.reader(io.StringIO(line), skipinitialspace=True))
        if len(values) != len(columns):
            raise _malformed(path, number, line, f"expected {len(columns)} values: {','.join(columns)}")
        row = dict(zip(columns, (value.strip() for value in values)))
        times = {key: row[key] for key in ("start_sec", "end_sec", "fps") if row.get(key)}
        spans = {"spans": row["label_spans"]} if "label_spans" in row else {}
        yield {"number": number, "line": line, "video": row["path"], "label": row["label"], **spans, **times}


def _to_record(
    path: Path, number: int, line: str, video: str, label: str, spans: str | None = None, **times: str
) -> Record:
    try:
        labels = [int(part) for part in label.split(",")] if label or spans is None else []
    except ValueError:
        raise _malformed(path, number, line, f"the label {label!r} is not an integer or a list like 3,7") from None
    if not video:
        raise _malformed(path, number, line, "the path is empty")
    try:
        seconds = {key: float(value) for key, value in times.items()}
    except ValueError:
        raise _malformed(path, number, line, "start_sec, end_sec and fps are numbers") from None
    record = {"file_name": str(path.parent / video), "label": labels, "video_id": video, **seconds}
    if spans is None:
        record["label"] = labels if "," in label else labels[0]
        return record
    try:
        record["label_spans"] = parse_spans(spans)
    except ValueError:
        raise _malformed(path, number, line, f"label_spans {spans!r} are not like '3 0.0 4.5;7 2.1 9.8'") from None
    return record


def parse_spans(text: str) -> list[tuple[int, float, float]]:
    """Return the (class, start, end) in ``3 0.0 4.5;7 2.1 9.8``; seconds.

    Raises:
        ValueError: the text is not of that form.
    """
    spans = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        label, start_sec, end_sec = part.split()
        spans.append((int(label), float(start_sec), float(end_sec)))
    return spans


def _malformed(path: Path, number: int, line: str, reason: str) -> ValueError:
    return ValueError(f"{path}:{number}: {reason}, got {line!r}")
