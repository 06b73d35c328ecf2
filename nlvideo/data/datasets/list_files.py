"""Lists for ``list:FILE``, written from records."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from nlvideo.data.catalog import MetadataCatalog, Record
from nlvideo.data.datasets.listed import classes_beside, classes_file_of, write_classes
from nlvideo.utils.files.file_io import absolute_path, is_remote, write_text


def format_list(records: Sequence[Record], folder: Path, comment: str = "") -> str:
    """Return the csv text of records, with a line of ``comment``, as ``list:FILE`` reads it from a file in ``folder``.

    Paths are relative where the videos lie in this folder.

    Raises:
        ValueError: a list cannot hold a record.
    """
    optional = [key for key in ("start_sec", "end_sec", "fps", "label_spans") if any(key in r for r in records)]
    text = io.StringIO()
    text.write(",".join(["path", "label", *optional]) + "\n")
    text.write(f"# {comment}\n" if comment else "")
    # Quotes around every text keep a path that starts with '#' from being a comment.
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    for record in records:
        path, label = record["file_name"], record["label"]
        if not is_remote(path) and Path(path).is_relative_to(folder):
            path = str(Path(path).relative_to(folder))
        if "\n" in path or "\r" in path:
            raise ValueError(f"a list cannot hold the name {path!r}, which has a line break in it: rename the file")
        if label == [] and "label_spans" not in record:
            raise ValueError(f"a list cannot hold {path!r}, which has no label")
        row = [path, ",".join(map(str, label)) if isinstance(label, list) else label]
        for key in optional:
            value = record.get(key, "")
            row.append(";".join(" ".join(map(str, span)) for span in value) if key == "label_spans" else value)
        writer.writerow(row)
    return text.getvalue()


def prepare_to_write_list(name: str, records: Sequence[Record], path: str) -> None:
    """Check, before long work, that ``write_list`` can write a list of the records of a dataset.

    Raises:
        ValueError: the file exists, its folder does not or holds other classes, or a list cannot hold the dataset.
    """
    out = Path(absolute_path(path))
    if name.startswith("wds:"):
        raise ValueError(f"{path}: a list names files, and {name} is made of shards")
    if out.exists():
        raise ValueError(f"{path}: the file exists already")
    if not out.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {out.parent}")
    check_classes(name, str(out))
    format_list(records, out.parent)


def check_classes(name: str, path: str) -> None:
    """Check that a list which ``write_list`` writes would be read with the classes of the dataset.

    Raises:
        ValueError: a file beside it names other classes, and would count.
    """
    # Names are read without the spaces around them.
    (there, file), classes = classes_beside(path), [label.strip() for label in MetadataCatalog.get(name).classes]
    # A file for all lists of the folder does not matter where the new list gets one of its own.
    if there and there != classes and (not classes or file == classes_file_of(path)):
        raise ValueError(f"{file} names other classes than {name}: use another folder")


def write_list(name: str, records: Sequence[Record], path: str, comment: str = "") -> None:
    """Write records of a dataset as ``format_list`` says, and ``NAME.classes.txt`` beside it if the classes have names.

    The file of names is left out where a ``classes.txt`` that is there says the same.

    Raises:
        ValueError: a list cannot hold a record.
        OSError: a file cannot be written.
    """
    out, classes = absolute_path(path), MetadataCatalog.get(name).classes
    write_text(out, format_list(records, Path(out).parent, comment))
    if classes and classes_beside(out)[0] != classes:
        write_classes(classes_file_of(out), classes)
