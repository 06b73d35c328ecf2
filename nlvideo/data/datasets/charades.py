"""Charades (Sigurdsson et al., ECCV 2016): videos of about 30 s in which any of 157 actions occur at known times."""

from nlvideo.data.datasets.annotations import Sample, check_label, read_lines, read_table
from nlvideo.data.datasets.official import Files, OfficialFormat, single_file
from nlvideo.errors import AnnotationError

NUM_CLASSES = 157


def _read_charades(spec: OfficialFormat, split: str, files: Files) -> tuple[list[Sample], list[str]]:
    """Read a split: a csv file whose column ``actions`` is like ``c092 11.90 21.20;c147 0.00 12.60``, and the classes.

    A video's label is the list of all classes that occur in it, maybe empty. ``label_spans`` keep the times, from which
    a training clip gets the classes that are active in it; testing is of whole videos.
    """
    path, names = single_file(spec, files, split), single_file(spec, files, "classes")
    classes: list[str] = []
    for where, line in read_lines(names):
        code, _, name = line.partition(" ")
        if code != f"c{len(classes):03d}" or not name:
            raise AnnotationError(f"{where}: expected 'c{len(classes):03d} name', found {line!r:.80}")
        classes.append(name.strip())
    samples = []
    for where, row in read_table(path, ("id", "actions"), spec.title):
        spans = [_parse_action(text, where) for text in row["actions"].split(";") if text.strip()]
        samples.append(Sample(row["id"], sorted({label for label, *_ in spans}), where, spans))
    return samples, classes


def _parse_action(text: str, where: str) -> tuple[int, float, float]:
    try:
        code, start_sec, end_sec = text.split()
        span = float(start_sec), float(end_sec)
        if not code.startswith("c"):
            raise ValueError
    except ValueError:
        raise AnnotationError(f"{where}: expected an action like 'c092 11.90 21.20', found {text!r:.80}") from None
    return check_label(code[1:], NUM_CLASSES, where), *span


OfficialFormat(
    name="charades",
    title="Charades",
    num_classes=NUM_CLASSES,
    splits=("train", "val"),
    # The official test file is what is called the validation set, in the paper too: 1.8k videos (Sec. 5.2).
    files={"train": ("*v1_train*.csv",), "val": ("*v1_test*.csv", "*v1_val*.csv"), "classes": ("*v1_classes.txt",)},
    read=_read_charades,
    video_folders=("videos", "Charades_v1_480", "Charades_v1", "Charades_v1_rgb"),
    fps=24.0,  # of the published frames, Charades_v1_rgb
    multi_label=True,
).register()
