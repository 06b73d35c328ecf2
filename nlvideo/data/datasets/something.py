"""Something-Something (Goyal et al., 2017), version 1 (folders of frames) and version 2 (WebM videos)."""

from nlvideo.data.datasets.annotations import Sample, check_label, class_index, read_entries, read_json, read_lines
from nlvideo.data.datasets.official import Files, OfficialFormat, single_file
from nlvideo.errors import AnnotationError

NUM_CLASSES = 174


def _read_ssv1(spec: OfficialFormat, split: str, files: Files) -> tuple[list[Sample], list[str]]:
    """Read a split of version 1: lines ``id;template``, and the templates in the order of their labels."""
    path, names = single_file(spec, files, split), single_file(spec, files, "labels")
    classes = [line for _, line in read_lines(names)]
    labels = {name: label for label, name in enumerate(classes)}
    samples = []
    for where, line in read_lines(path):
        video_id, semicolon, template = line.partition(";")
        if not semicolon or not video_id.isdigit():
            raise AnnotationError(f"{where}: expected 'id;template' of {spec.title}, found {line!r:.80}")
        samples.append(Sample(video_id, class_index(template.strip(), labels, where, names.name), where))
    return samples, classes


def _read_ssv2(spec: OfficialFormat, split: str, files: Files) -> tuple[list[Sample], list[str]]:
    """Read a split of version 2: JSON entries with ``id`` and ``template``, and an object of templates and labels."""
    path, names = single_file(spec, files, split), single_file(spec, files, "labels")
    labels = {
        name: check_label(label, NUM_CLASSES, f"{names}: {name!r}")
        for name, label in read_json(names, dict, spec.title).items()
    }
    if sorted(labels.values()) != list(range(len(labels))):
        raise AnnotationError(f"{names}: expected the labels 0 to {len(labels) - 1}, each once")
    samples = []
    for where, entry in read_entries(path, ("id", "template"), spec.title):
        # In the splits, not among the labels, the placeholders of a template stand in brackets.
        template = str(entry["template"]).replace("[", "").replace("]", "")
        samples.append(Sample(str(entry["id"]), class_index(template, labels, where, names.name), where))
    return samples, sorted(labels, key=labels.__getitem__)


OfficialFormat(
    name="ssv1",
    title="Something-Something v1",
    num_classes=NUM_CLASSES,
    splits=("train", "val"),
    files={"train": ("*train*.csv",), "val": ("*validation*.csv", "*val.csv"), "labels": ("*labels*.csv",)},
    read=_read_ssv1,
    video_folders=("videos", "20bn-something-something-v1"),
    fps=12.0,  # of the published frames
).register()
OfficialFormat(
    name="ssv2",
    title="Something-Something v2",
    num_classes=NUM_CLASSES,
    splits=("train", "val"),
    files={"train": ("*train*.json",), "val": ("*validation*.json", "*val.json"), "labels": ("*labels*.json",)},
    read=_read_ssv2,
    video_folders=("videos", "20bn-something-something-v2"),
).register()
