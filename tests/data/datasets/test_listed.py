"""Lists of videos: both layouts, and a clear line for every mistake."""

import pytest

from nlvideo.data.catalog import MetadataCatalog
from nlvideo.data.datasets import get_dataset


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
        {"file_name": f"{tmp_path}/my, video.mp4", "label": 3, "video_id": "my, video.mp4",
         "start_sec": 1.5, "end_sec": 4},
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
        {"file_name": f"{tmp_path}/a", "label": [3, 7], "video_id": "a", "fps": 24.0,
         "label_spans": [(3, 0.0, 4.5), (7, 2.1, 9.8)]},
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
        ("a.mp4 zero\n", 1, "the label 'zero' is not an integer or a list like 3,7, got 'a.mp4 zero'"),
        ("# c\n\na.mp4 1.5\n", 3, "the label '1.5' is not an integer"),
        ("a.mp4 3,\n", 1, "the label '3,' is not an integer"),
        ("path,label\na.mp4,0\nb.mp4\n", 3, "expected 2 values: path,label, got 'b.mp4'"),
        ("path,label\n,0\n", 2, "the path is empty"),
        ("path,label,start_sec\na.mp4,0,soon\n", 2, "start_sec, end_sec and fps are numbers"),
        ("path,label,fps\na,0,24\nb,0,many\n", 3, "start_sec, end_sec and fps are numbers"),
        ("path,label,label_spans\na,0,0 1.0\n", 2, "label_spans '0 1.0' are not like '3 0.0 4.5;7 2.1 9.8'"),
        ("path,label\na,\n", 2, "the label '' is not an integer"),
        ("a.mp4,0\n", 1, "expected 'path label', or a csv"),
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
