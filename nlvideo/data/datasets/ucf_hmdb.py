"""UCF101 (Soomro et al., 2012) and HMDB51 (Kuehne et al., 2011): three official splits each, as text files."""

from pathlib import PurePosixPath
from typing import Any

from nlvideo.data.datasets.annotations import Sample, check_label, class_index, read_lines
from nlvideo.data.datasets.official import Files, OfficialFormat, single_file
from nlvideo.errors import AnnotationError

_USES = {"0": None, "1": "train", "2": "test"}


def _read_ucf101(spec: OfficialFormat, split: str, files: Files) -> tuple[list[Sample], list[str]]:
    """Read a split: lines ``Class/video.avi label`` for training, without the label for test; labels count from 1."""
    path, index = single_file(spec, files, split), single_file(spec, files, "classes")
    labels: dict[str, int] = {}
    for where, line in read_lines(index):
        words = line.split()
        if len(words) != 2 or words[0] != str(len(labels) + 1):
            raise AnnotationError(f"{where}: expected '{len(labels) + 1} Class', found {line!r:.80}")
        labels[words[1]] = len(labels)
    samples = []
    for where, line in read_lines(path):
        words = line.split()
        video = PurePosixPath(words[0])
        if len(words) != (2 if split == "train" else 1) or len(video.parts) != 2:
            form = "Class/video.avi label" if split == "train" else "Class/video.avi"
            raise AnnotationError(f"{where}: expected '{form}' of {spec.title}, found {line!r:.80}")
        label = class_index(video.parts[0], labels, where, index.name)
        if len(words) == 2 and check_label(words[1], len(labels), where, first=1) != label:
            line = f"{label + 1} {video.parts[0]}"
            raise AnnotationError(f"{where}: the label is {words[1]}, but {index.name} has {line}")
        samples.append(Sample(video.stem, label, where))
    return samples, list(labels)


def _read_hmdb51(spec: OfficialFormat, split: str, files: Files) -> tuple[list[Sample], list[str]]:
    """Read a split: one file for each class, with lines ``video.avi use``; 1 is training, 2 test, 0 neither.

    Classes are labelled in alphabetical order.
    """
    (pattern,) = spec.files[split]
    # By the name of the class: as files, "climb_stairs_..." comes before "climb_...".
    named = sorted((path.name[: -len(pattern.lstrip("*"))], path) for path in files[split])
    samples = []
    for label, (name, path) in enumerate(named):
        for where, line in read_lines(path):
            words = line.rsplit(maxsplit=1)
            if len(words) != 2 or words[1] not in _USES:
                raise AnnotationError(f"{where}: expected 'video.avi 0', 1 or 2 of {spec.title}, found {line!r:.80}")
            if _USES[words[1]] == split:
                # With its class: other sources name their videos more freely than this dataset does.
                samples.append(Sample(f"{name}/{PurePosixPath(words[0]).stem}", label, where))
    return samples, [name for name, _ in named]


def _register_splits(folder: str, files: dict[str, str], **known: Any) -> None:
    """Register the three splits; their number goes where a name in ``files`` has braces."""
    for number in (1, 2, 3):
        numbered: dict[str, tuple[str, ...]] = {role: (name.format(number),) for role, name in files.items()}
        name, splits = f"{folder}_split{number}", ("train", "test")
        OfficialFormat(name=name, splits=splits, files=numbered, folder=folder, **known).register()


_register_splits(
    "ucf101",
    {"train": "trainlist{:02d}.txt", "test": "testlist{:02d}.txt", "classes": "classind.txt"},
    title="UCF101", num_classes=101, read=_read_ucf101, video_folders=("videos", "UCF-101"),
)  # fmt: skip
_register_splits(
    "hmdb51", dict.fromkeys(("train", "test"), "*_test_split{}.txt"), title="HMDB51", num_classes=51, read=_read_hmdb51
)
