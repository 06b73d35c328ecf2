"""Lists of videos: both layouts, and a clear line for every mistake."""

import csv
import os

import pytest

from nlvideo.data.catalog import MetadataCatalog
from nlvideo.data.datasets import get_dataset
from nlvideo.data.datasets.list_files import prepare_to_write_list, write_list
from nlvideo.utils.files.file_io import join_path


def write(folder, text, name="train.csv"):
    """Write a list and return its dataset name."""
    (folder / name).write_text(text)
    return f"list:{folder / name}"


def test_plain_lines(tmp_path):
    name = write(tmp_path, "# videos\nrun/a.mp4 0\n\nwalk/my video.mp4\t1\n  /abs/b.mp4 1\n")
    assert get_dataset(name) == [
        {"file_name": str(tmp_path / "run/a.mp4"), "label": 0, "video_id": "run/a.mp4"},
        {"file_name": str(tmp_path / "walk/my video.mp4"), "label": 1, "video_id": "walk/my video.mp4"},
        {"file_name": "/abs/b.mp4", "label": 1, "video_id": "/abs/b.mp4"},
    ]


def test_csv_with_header_quotes_and_extra_columns(tmp_path):
    name = write(tmp_path, 'label,path,start_sec,end_sec,note\n3,"my, video.mp4",1.5,4,x\n"3,7",b.mp4,,,"y z"\n')
    assert get_dataset(name) == [
        {
            "file_name": f"{tmp_path}/my, video.mp4",
            "label": 3,
            "video_id": "my, video.mp4",
            "start_sec": 1.5,
            "end_sec": 4,
        },
        {"file_name": f"{tmp_path}/b.mp4", "label": [3, 7], "video_id": "b.mp4"},
    ]


def test_several_labels_make_a_multilabel_dataset(tmp_path):
    single, several = write(tmp_path, "a.mp4 3\n", "one.txt"), write(tmp_path, "a.mp4 3,7\nb.mp4 3\n")
    assert [record["label"] for record in get_dataset(several)] == [[3, 7], 3]
    get_dataset(single)
    assert MetadataCatalog.get(several).evaluator_type == "multilabel"
    assert MetadataCatalog.get(single).evaluator_type == "classification"


def test_spans_of_labels_and_videos_without_any(tmp_path):
    name = write(tmp_path, 'path,label,label_spans,fps\na,"3,7",3 0 4.5; 7 2.1 9.8,24\nb,,,24\nc.mp4,3,3 1 2,\n')
    assert get_dataset(name) == [
        {
            "file_name": f"{tmp_path}/a",
            "label": [3, 7],
            "video_id": "a",
            "fps": 24.0,
            "label_spans": [(3, 0.0, 4.5), (7, 2.1, 9.8)],
        },
        {"file_name": f"{tmp_path}/b", "label": [], "video_id": "b", "fps": 24.0, "label_spans": []},
        {"file_name": f"{tmp_path}/c.mp4", "label": [3], "video_id": "c.mp4", "label_spans": [(3, 1.0, 2.0)]},
    ]
    assert MetadataCatalog.get(name).evaluator_type == "multilabel"


def test_class_names_come_from_the_file_beside_it(tmp_path):
    name = write(tmp_path, "a.mp4 0\n")
    get_dataset(name)
    assert MetadataCatalog.get(name).classes == []
    (tmp_path / "classes.txt").write_text("stand up\nsit down\n\n")
    get_dataset(name)
    assert MetadataCatalog.get(name).classes == ["stand up", "sit down"]


def test_repeated_videos_get_ids_of_their_own(tmp_path):
    name = write(tmp_path, "a.mp4 0\nb.mp4 0\na.mp4 1\na.mp4 0\n")
    assert [record["video_id"] for record in get_dataset(name)] == ["a.mp4", "b.mp4", "a.mp4#2", "a.mp4#3"]


@pytest.mark.parametrize(
    "text, line, reason",
    [
        ("a.mp4 0\nb.mp4\n", 2, "expected 'path label', or a csv file with a header 'path,label', got 'b.mp4'"),
        ("a.mp4 1\na.mp4 zero\n", 2, "the label 'zero' is not an integer or a list like 3,7, got 'a.mp4 zero'"),
        ("# c\n\na.mp4 1.5\n", 3, "the label '1.5' is not an integer"),
        ("a.mp4 3,\n", 1, "the label '3,' is not an integer"),
        ("path,label\na.mp4,0\nb.mp4\n", 3, "expected 2 values: path,label, got 'b.mp4'"),
        ("path,label\n,0\n", 2, "the path is empty"),
        ("path,label,start_sec\na.mp4,0,soon\n", 2, "start_sec, end_sec and fps are numbers"),
        ("path,label,fps\na,0,24\nb,0,many\n", 3, "start_sec, end_sec and fps are numbers"),
        ("path,label,fps\na,0,24\nb,0,-5\n", 3, "fps is a number above 0, or empty"),
        ("path,label,label_spans\na,0,0 1 2; 3 5.0 1.5\n", 2, "label_spans '3 5.0 1.5' are not like"),
        ("path,label,label_spans\na,0,0 1.0\n", 2, "label_spans '0 1.0' are not like '3 0.0 4.5;7 2.1 9.8'"),
        ("path,label\na,\n", 2, "the label '' is not an integer"),
        ("a.mp4,0\n", 1, "expected 'path label', or a csv"),
        ('# c\npath,label,label\n"a.mp4",0,1\n"b""c.mp4",0,1\n', 2, "the column 'label' is there twice"),
        ("path,label,start_sec\na.mp4,0,inf\n", 2, "start_sec, end_sec and fps are numbers"),
        ("path,label,label_spans\na,0,0 1.0 nan\n", 2, "label_spans '0 1.0 nan' are not like"),
        ("path label\na.mp4 0\n", 2, "the label '0' is not a name, but the first label of the list is"),
        ("a.mp4 run\nb.mp4 run,7\n", 2, "the label '7' is not a name"),
        ("path,label,label_spans\na,run,run 0 1\nb,run,7 0 1\n", 3, "the label '7' is not a name"),
    ],
)
def test_malformed_lines_name_file_line_and_text(tmp_path, text, line, reason):
    with pytest.raises(ValueError) as caught:
        get_dataset(write(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path / 'train.csv'}:{line}: {reason}")
    assert "\n" not in str(caught.value)


def test_missing_and_empty_lists(tmp_path):
    with pytest.raises(ValueError, match=f"there is no file {tmp_path}/nothing.csv"):
        get_dataset(f"list:{tmp_path}/nothing.csv")
    assert get_dataset(write(tmp_path, "\n# nothing\n")) == []


def test_real_lists(test_data):
    records = get_dataset(f"list:{test_data}/thermal/val.csv")
    assert len(records) == 840 and {record["label"] for record in records} == set(range(7))
    assert MetadataCatalog.get(f"list:{test_data}/thermal/val.csv").classes[:2] == ["fall", "lie"]


PLAIN = "a.mp4 Ollie\nb.mp4 Kickflip\n\nc.mp4 Ollie\n# d.mp4 none\n"
TABLE = 'path,label\n"a.mp4", Ollie\nb.mp4,Kickflip\nc.mp4,"Ollie"\n'


@pytest.mark.parametrize("text", [PLAIN, TABLE, "label,path\nOllie,a.mp4\nKickflip,b.mp4\n Ollie,c.mp4\n"])
def test_labels_may_be_names(tmp_path, text):
    name = write(tmp_path, text)
    assert [(record["video_id"], record["label"]) for record in get_dataset(name)] == [
        ("a.mp4", 1), ("b.mp4", 0), ("c.mp4", 1)
    ]  # fmt: skip
    assert MetadataCatalog.get(name).classes == ["Kickflip", "Ollie"], "those of the list, in alphabetical order"
    (tmp_path / "classes.txt").write_text("Ollie\nNollie\nKickflip\n")
    assert [record["label"] for record in get_dataset(name)] == [0, 2, 0]
    assert MetadataCatalog.get(name).classes == ["Ollie", "Nollie", "Kickflip"]
    (tmp_path / "classes.txt").write_text("Nollie\nKickflips\n")
    with pytest.raises(ValueError, match=r"train.csv:\d: .*/classes.txt has no class '\w+': did you mean '\w+'\?, got"):
        get_dataset(name)


def test_several_names_and_names_with_commas(tmp_path):
    text = 'path,label,label_spans\na,"sit, stand up",stand up 0 4.5; sit 2 9\nb,,\nc,stand up,\n'
    name = write(tmp_path, text)
    a, b, c = get_dataset(name)
    assert (a["label"], b["label"], c["label"]) == ([0, 1], [], [1])
    assert a["label_spans"] == [(1, 0.0, 4.5), (0, 2.0, 9.0)] and b["label_spans"] == []
    assert MetadataCatalog.get(name).evaluator_type == "multilabel"
    (tmp_path / "train.classes.txt").write_text("sit, stand up\nstand up\nsit\n360\n")
    assert [record["label"] for record in get_dataset(name)] == [[0], [], [1]], "a name of the file counts whole"
    assert get_dataset(name)[0]["label_spans"] == [(1, 0.0, 4.5), (2, 2.0, 9.0)]
    name = write(tmp_path, "path,label\na,sit\nb,360\n")
    assert [record["label"] for record in get_dataset(name)] == [2, 3], "a name of digits that the file has"


def test_names_found_late_have_their_place_in_the_alphabet(tmp_path):
    labels = [f"class {'zyxwv'[i * 7 % 5]}" for i in range(200)]
    name = write(tmp_path, "path,label\n" + "".join(f"{i}.mp4,{label}\n" for i, label in enumerate(labels)))
    records = get_dataset(name)
    names = MetadataCatalog.get(name).classes
    assert names == sorted(set(labels)) and [names[record["label"]] for record in records] == labels


def test_a_list_may_have_class_names_of_its_own(tmp_path):
    names = [write(tmp_path, "a.mp4 0\n", file) for file in ("train.csv", "other.csv")]
    (tmp_path / "classes.txt").write_text("run\n")
    (tmp_path / "other.classes.txt").write_text("jump\n")
    for name, label, file in zip(names, ("run", "jump"), ("classes.txt", "other.classes.txt")):
        get_dataset(name)
        metadata = MetadataCatalog.get(name)
        assert metadata.classes == [label] and metadata.classes_from == f"{tmp_path}/{file}"
    (tmp_path / "classes.txt").write_text("run\nsit\nrun\n")
    with pytest.raises(ValueError, match="/classes.txt: the class 'run' is there twice"):
        get_dataset(names[0])


@pytest.mark.parametrize("pipe", ["train.csv", "classes.txt", "train.classes.txt"])
def test_pipes_are_not_waited_for(tmp_path, pipe):
    write(tmp_path, "a.mp4 0\n", "train.csv" if pipe != "train.csv" else "x.csv")
    os.mkfifo(tmp_path / pipe)
    with pytest.raises(ValueError, match=f"{tmp_path}/{pipe}: expected a file, found a pipe or a device"):
        get_dataset(f"list:{tmp_path}/train.csv")


def test_what_a_tool_writes_can_be_read(tmp_path):
    paths = [" lead/x.mp4", "trail .mp4 ", "# note.mp4", 'b"c, d.mp4', os.fsdecode(b"caf\xe9.mp4"), "/else/ y.mp4"]
    MetadataCatalog.get("mine").classes = ["sit", " stand\u2028up"]
    records = [
        {"file_name": join_path(str(tmp_path), path), "label": i % 2, "video_id": path} for i, path in enumerate(paths)
    ]
    prepare_to_write_list("mine", records, f"{tmp_path}/good.csv")
    write_list("mine", records, f"{tmp_path}/good.csv", comment="a comment")
    assert get_dataset(f"list:{tmp_path}/good.csv") == records
    assert MetadataCatalog.get(f"list:{tmp_path}/good.csv").classes == ["sit", "stand\u2028up"]
    (tmp_path / "good.csv").rename(tmp_path / "first.csv")
    prepare_to_write_list("mine", records, f"{tmp_path}/good.csv")
    with open(tmp_path / "first.csv", errors="surrogateescape") as file:
        rows = [row for row in csv.DictReader(file) if not row["path"].startswith("# a comment")]
    assert [row["path"] for row in rows] == paths, "other readers read it"
    for record, message in (
        (
            {"file_name": f"{tmp_path}/new\nline.mp4", "label": 0},
            r"a list cannot hold the name 'new\\nline.mp4', which has a",
        ),
        ({"file_name": f"{tmp_path}/a.mp4", "label": []}, "a list cannot hold 'a.mp4', which has no label"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare_to_write_list("mine", [*records, record], f"{tmp_path}/bad.csv")
