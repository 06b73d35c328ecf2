"""Datasets by name: those of the catalog, ``list:FILE``, ``folder:DIR`` and ``wds:PATTERN``."""

from collections.abc import Sequence

from nlvideo.data.catalog import DatasetCatalog, Record
from nlvideo.data.datasets import beacon, charades, diving48, kinetics, something, ucf_hmdb  # noqa: F401  (they register)
from nlvideo.data.datasets.folder import load_folder
from nlvideo.data.datasets.listed import load_list
from nlvideo.data.datasets.shards import load_shards

DatasetCatalog.kinds.update(list=load_list, folder=load_folder, wds=load_shards)


def get_dataset(name: str) -> Sequence[Record]:
    """Return the records of a dataset; its metadata is in the ``MetadataCatalog`` afterwards.

    Args:
        name: a name of the ``DatasetCatalog``, ``list:FILE`` (a list of videos and labels), ``folder:DIR`` (one folder
            per class), ``wds:PATTERN`` (tar files in the layout of WebDataset), or ``KIND:...`` of a kind that a
            project has added to ``DatasetCatalog.kinds``.

    Raises:
        LookupFailed: there is no such dataset.
        ValueError: the list, the folder or a shard is not in order; one line that says where.
    """
    kind, is_place, _ = name.partition(":")
    load = DatasetCatalog.kinds.get(kind) if is_place else None
    return load(name) if load else DatasetCatalog.get(name)
