"""Lists for ``list:FILE``, written from records."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from nlvideo.data.catalog import MetadataCatalog, Record
from nlvideo.data.datasets.listed import read_classes
from nlvideo.utils.file_io import absolute_path, is_remote, write_text


def format_list(records: Sequence[Record], folder: Path) -> str:
    """Return the csv text of records, as ``list:FILE`` reads it from a file in ``folder``."""
    optional = [key for key in ("start_sec", "end_sec", "fps", "label_spans") if any(key in r for r in records)]
    text = io.StringIO()
    text.write(",".join(["path", "label", *optional]) + "\n")
    # Quotes around every text keep a path that starts with '#' from being a comment.
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    for record in records:
        label = record["label"]
        row = [
            _relative(record["file_name"], folder),
            ",".join(map(str, label)) if isinstance(label, list) else label,
        ]
        for key in optional:
            value = record.get(key, "")
            row.append(";".join(" ".join(map(str, span)) for span in value) if key == "label_spans" else value)
        writer.writerow(row)
    return text.getvalue()


def prepare_to_write_list(name: str, path: str) -> None:
    """Check, before long work, that ``write_list`` can write a list of the records of a dataset.

    Raises:
        ValueError: the file exists, its folder does not or holds other classes, or the dataset is made of shards.
    """
    out = Path(absolute_path(path))
    if name.startswith("wds:"):
        raise ValueError(f"{path}: a list names files, and {name} is made of shards")
    if out.exists():
        raise ValueError(f"{path}: the file exists already")
    if not out.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {out.parent}")
    check_classes(name, out.parent)


def check_classes(name: str, folder: Path) -> None:
    """Check that a list beside which ``classes.txt`` may lie already would have the classes of a dataset.

    Raises:
        ValueError: the file names other classes.
    """
    there, classes = read_classes(str(folder / "classes.txt")), MetadataCatalog.get(name).classes
    if there and there != classes:
        raise ValueError(f"{folder / 'classes.txt'} names other classes than {name}: use another folder")


def write_list(name: str, records: Sequence[Record], path: str, comment: str = "") -> None:
    """Write records of a dataset as a list, and ``classes.txt`` beside it where the classes have names.

    Args:
        name: the dataset.
        records: of it.
        path: the file; paths in it are relative where the videos lie in its folder.
        comment: first line, if any.

    Raises:
        OSError: a file cannot be written.
    """
    out = Path(absolute_path(path))
    text = (f"# {comment}\n" if comment else "") + format_list(records, out.parent)
    write_text(out, text)
    classes = "".join(f"{label}\n" for label in MetadataCatalog.get(name).classes)
    if classes and not (out.parent / "classes.txt").exists():
        write_text(out.parent / "classes.txt", classes)


def _relative(path: str, folder: Path) -> str:
    if is_remote(path) or not Path(path).is_relative_to(folder):
        return path
    return str(Path(path).relative_to(folder))
