"""Diving48 (Li et al., ECCV 2018): dives told apart by takeoff, somersaults, twists and position."""

from nlvideo.data.datasets.annotations import Sample, check_label, read_entries, read_json
from nlvideo.data.datasets.official import Files, OfficialFormat, single_file
from nlvideo.errors import AnnotationError

NUM_CLASSES = 48


def _read_diving48(spec: OfficialFormat, split: str, files: Files) -> tuple[list[Sample], list[str]]:
    """Read a split: JSON entries with ``vid_name`` and ``label``, and the vocabulary, four words for each class.

    The videos are cut to the dive, which is all that ``start_frame`` and ``end_frame`` say.
    """
    path, vocabulary = single_file(spec, files, split), single_file(spec, files, "vocab")
    classes = []
    for number, words in enumerate(read_json(vocabulary, list, spec.title), start=1):
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise AnnotationError(f"{vocabulary}: entry {number}: expected a list of words, found {words!r:.80}")
        classes.append(" ".join(words))
    entries = read_entries(path, ("vid_name", "label"), spec.title)
    samples = [
        Sample(str(entry["vid_name"]), check_label(entry["label"], NUM_CLASSES, where), where)
        for where, entry in entries
    ]
    return samples, classes


OfficialFormat(
    name="diving48",
    title="Diving48",
    num_classes=NUM_CLASSES,
    splits=("train", "test"),
    files={"train": ("*train*.json",), "test": ("*test*.json",), "vocab": ("*vocab*.json",)},
    read=_read_diving48,
    video_folders=("videos", "rgb"),
).register()
