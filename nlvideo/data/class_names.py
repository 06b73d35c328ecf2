"""The names of the classes that a model was trained on, wherever the data is by now."""

from collections.abc import Sequence
from pathlib import Path

from nlvideo.data.catalog import MetadataCatalog
from nlvideo.data.datasets.folder import folder_classes
from nlvideo.data.datasets.listed import classes_beside
from nlvideo.utils.files.file_io import absolute_path


def dataset_classes(names: Sequence[str]) -> list[str]:
    """Return the class names of the first dataset that names its classes; none where no dataset does.

    No video and no list of videos is read: what a dataset has noted in the ``MetadataCatalog`` counts, and for one that
    was not read yet the file of names beside ``list:FILE`` and the folders in ``folder:DIR``, if they are there.

    Args:
        names: datasets, e.g. those of DATASETS.TRAIN.
    """
    return next((found for found in map(_classes_of, names) if found), [])


def _classes_of(name: str) -> list[str]:
    noted = MetadataCatalog.get(name).classes
    kind, _, place = name.partition(":")
    if noted or kind not in ("list", "folder"):
        return noted
    path = absolute_path(place)
    return classes_beside(path)[0] if kind == "list" else folder_classes(Path(path))
