"""Datasets by name: those of the catalog, ``list:FILE`` and ``folder:DIR``."""

from collections.abc import Sequence

from nlvideo.data.catalog import DatasetCatalog, Record
from nlvideo.data.datasets import (  # noqa: F401  (each registers its splits)
    beacon, charades, diving48, kinetics, something, ucf_hmdb,
)
from nlvideo.data.datasets.folder import load_folder
from nlvideo.data.datasets.listed import load_list


def get_dataset(name: str) -> Sequence[Record]:
    """Return the records of a dataset; its metadata is in the ``MetadataCatalog`` afterwards.

    Args:
        name: a name of the ``DatasetCatalog``, ``list:FILE`` (a list of videos and labels) or ``folder:DIR`` (one
            folder per class).

    Raises:
        LookupFailed: there is no such dataset.
        ValueError: the list or the folder is not in order; one line that says where.
    """
    if name.startswith("list:"):
        return load_list(name)
    if name.startswith("folder:"):
        return load_folder(name)
    return DatasetCatalog.get(name)
