"""Datasets by name: a function that returns the records, and what is known about them.

A record is ``{"file_name": absolute path, "label": int or list of int, "video_id": str}``. The path is a video file or
a folder of frames. Optional keys:

- ``start_sec``, ``end_sec``: the sample is this part of the video;
- ``fps``: frames per second of a folder of frames, needed if the record has any seconds;
- ``label_spans``: list of (class, start, end), seconds from the start of the file, of a video whose labels change. A
  training clip then has the labels that are active in it, possibly none; at test the video has those of ``label``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from nlvideo.errors import LookupFailed
from nlvideo.utils.messages import did_you_mean

Record = dict[str, Any]

# Where the video of a sample is: the file, the part of it and the rate of a folder of frames.
_SOURCE_KEYS = ("file_name", "start_sec", "end_sec", "fps")


def source_of(record: Mapping[str, Any]) -> Record:
    """Return where the video of a record is: its "file_name" and, if it has them, "start_sec", "end_sec" and "fps"."""
    return {key: record[key] for key in _SOURCE_KEYS if record.get(key) is not None}


def label_target(label: int | list[int], num_classes: int | None) -> int | list[int] | torch.Tensor:
    """Return a label as models take it: float32 (num_classes,) with ones at the labels.

    ``num_classes`` is None if each video has one label (MODEL.HEAD.LOSS "softmax"): then it is the label itself.
    """
    if num_classes is None:
        return label
    target = torch.zeros(num_classes)
    target[label] = 1
    return target


@dataclass
class Metadata:
    """What is known about a dataset beyond its records."""

    classes: list[str] = field(default_factory=list)  #: names in the order of the labels; empty if they have none
    classes_from: str = ""  #: what names the classes, such as a file; empty: the dataset itself
    evaluator_type: str = "classification"  #: for one label; "multilabel": for any number


class _DatasetCatalog:
    """A table of names and functions that return sequences of records, such as lists."""

    def __init__(self) -> None:
        self._functions: dict[str, Callable[[], Sequence[Record]]] = {}
        #: the word before the colon of a name such as ``list:FILE`` -> a function of the whole name
        self.kinds: dict[str, Callable[[str], Sequence[Record]]] = {}

    def register(self, name: str, func: Callable[[], Sequence[Record]]) -> None:
        """Add a dataset. ``func`` is called without arguments, at every ``get``.

        Raises:
            LookupFailed: the name is taken.
        """
        if name in self._functions:
            raise LookupFailed(f"dataset {name!r} is already registered")
        self._functions[name] = func

    def get(self, name: str) -> Sequence[Record]:
        """Return the records of a dataset.

        Raises:
            LookupFailed: no dataset has this name; the message lists what is close and what there is.
        """
        if name not in self._functions:
            hint = did_you_mean(name, self._functions) or "no name is close."
            own = "Your own videos need no registration: 'list:FILE' or 'folder:DIR'"
            there = ", ".join(sorted(self)) or "none"
            raise LookupFailed(f"unknown dataset {name!r}: {hint} Registered: {there}. {own}")
        return self._functions[name]()

    def __contains__(self, name: str) -> bool:
        return name in self._functions

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)


class _MetadataCatalog:
    """A table of names and ``Metadata``; ``get`` adds an empty entry if there is none."""

    def __init__(self) -> None:
        self._metadata: dict[str, Metadata] = {}

    def get(self, name: str) -> Metadata:
        """Return the metadata of a dataset, to read or to fill in by assignment."""
        return self._metadata.setdefault(name, Metadata())


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
