"""Lists made from official files are read by ``list:`` as the catalog reads the official files."""

import os

import pytest

from nlvideo.data.catalog import MetadataCatalog
from nlvideo.data.datasets import get_dataset
from nlvideo.data.datasets.official import FORMATS
from nlvideo.dataset_tools.prepare import count_table, format_list, prepare_dataset
from nlvideo.errors import AnnotationError


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_lists_hold_what_the_catalog_holds(make_official, tmp_path, monkeypatch, name):
    monkeypatch.setenv("NLVIDEO_DATASETS", str(tmp_path))
    made, out = make_official(name), tmp_path / "lists/of it"
    prepared = prepare_dataset(name, made.root / "videos", [made.annotations], out)
    assert prepared.too_many_missing == [] and prepared.shared == []
    assert {path.name for path in prepared.files} == {"train.csv", "val.csv", "classes.txt"} == set(os.listdir(out))
    for split, title in zip(FORMATS[name].splits, ("train", "val")):
        expected, listed = get_dataset(f"{name}_{split}"), get_dataset(f"list:{out}/{title}.csv")
        assert [r | {"video_id": ""} for r in listed] == [r | {"video_id": ""} for r in expected]
        metadata = MetadataCatalog.get(f"list:{out}/{title}.csv")
        assert metadata.classes == made.classes
        assert metadata.evaluator_type == MetadataCatalog.get(f"{name}_{split}").evaluator_type


def test_headers_and_paths(make_official):
    made = make_official("charades")
    prepare_dataset("charades", made.root / "videos", [made.annotations], made.root)
    assert (made.root / "val.csv").read_text().splitlines() == [
        "path,label,label_spans",
        '"videos/YSKX3.mp4","92,147","92 11.9 21.2;147 0.0 12.6;92 22.0 23.5"',
        '"videos/ZZZZZ.mp4","",""',
    ]
    made = make_official("diving48")
    prepare_dataset("diving48", made.root / "videos", [made.annotations], made.root / "lists")
    lines = (made.root / "lists/train.csv").read_text().splitlines()
    assert lines[:2] == ["path,label", f'"{made.root}/videos/_8Vytrain_00000.mp4",0']
    assert (made.root / "lists/classes.txt").read_text().splitlines() == made.classes


def test_files_may_lie_anywhere_and_one_split_is_enough(make_official, tmp_path):
    made = make_official("ssv2")
    files = [made.annotations / f"something-something-v2-{name}.json" for name in ("labels", "validation")]
    prepared = prepare_dataset("ssv2", made.root / "videos", files, tmp_path / "out")
    assert list(prepared.splits) == ["val"] and sorted(os.listdir(tmp_path / "out")) == ["classes.txt", "val.csv"]
    with pytest.raises(AnnotationError, match="ssv2: expected an annotation file of Something-Something v2"):
        prepare_dataset("ssv2", made.root / "videos", files[:1], tmp_path / "out")
    with pytest.raises(ValueError, match=f"ssv2: there is no folder {tmp_path}/nowhere"):
        prepare_dataset("ssv2", tmp_path / "nowhere", files, tmp_path / "out")


def test_missing_videos_are_listed(make_official, tmp_path):
    made, out = make_official("kinetics400"), tmp_path / "out"
    arguments = ("kinetics400", made.root / "videos", [made.annotations], out)
    gone = made.videos["val"][:4]
    for _, _, path in gone:
        (made.root / "videos" / path).unlink()
    prepared = prepare_dataset(*arguments)
    assert prepared.splits["val"].missing == [video_id for video_id, *_ in gone] and not prepared.too_many_missing
    assert (out / "missing.txt").read_text() == "".join(f"val {video_id}\n" for video_id, *_ in gone)
    assert len(get_dataset(f"list:{out}/val.csv")) == 36 and len(get_dataset(f"list:{out}/train.csv")) == 400
    # One more, and no list is made.
    (made.root / "videos" / made.videos["val"][4][2]).unlink()
    for path in out.iterdir():
        path.unlink()
    prepared = prepare_dataset(*arguments)
    assert prepared.too_many_missing == ["val"] and prepared.files == [out / "missing.txt"]
    assert os.listdir(out) == ["missing.txt"]
    assert prepare_dataset(*arguments, max_missing=0.5).too_many_missing == []
    made.touch_videos()
    prepare_dataset(*arguments)
    assert sorted(os.listdir(out)) == ["classes.txt", "train.csv", "val.csv"]


def test_videos_in_both_splits_are_reported(make_official, tmp_path):
    made = make_official("diving48")
    made.write("Diving48_V2_test.json", [{"vid_name": "_8Vytrain_00001", "label": 9}])
    prepared = prepare_dataset("diving48", made.root / "videos", [made.annotations], tmp_path / "out")
    assert prepared.shared == ["_8Vytrain_00001"]


def test_counts_of_classes(make_official, tmp_path):
    made = make_official("charades")
    table = count_table(prepare_dataset("charades", made.root / "videos", [made.annotations], tmp_path / "out").splits)
    assert len(table) == 157 and table[92] == {"label": 92, "class": "Doing thing 92", "train": 1, "val": 1}
    assert sum(row["train"] for row in table) == 2


def test_every_record_survives_its_list(tmp_path):
    records = [
        {"file_name": f'{tmp_path}/#1, "a" b.mp4', "label": 3, "start_sec": 1.5, "end_sec": 4.0},
        {"file_name": "/elsewhere/v", "label": 0, "fps": 29.97, "end_sec": 2.25},
    ]
    (tmp_path / "a.csv").write_text(format_list(records, tmp_path))
    listed = list(get_dataset(f"list:{tmp_path}/a.csv"))
    assert [record.pop("video_id") for record in listed] == ['#1, "a" b.mp4', "/elsewhere/v"]
    assert listed == records
