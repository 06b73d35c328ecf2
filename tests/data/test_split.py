"""DATASETS.SPLIT: which videos are kept for validation, and the lists that say so."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nlvideo.data import DatasetCatalog, MetadataCatalog
from nlvideo.data.datasets import get_dataset
from nlvideo.data.datasets.listed import list_column
from nlvideo.data.split import choose_validation, split_datasets


def records_of(**counts):
    """``records_of(a=3)``: three videos of class 0; the labels are in the order of the names."""
    names = [(label, f"{name}/{i}.mp4") for label, (name, count) in enumerate(counts.items()) for i in range(count)]
    return [{"file_name": f"/videos/{name}", "label": label, "video_id": name} for label, name in names]


def chosen(records, *arguments):
    """The ids of the videos for validation, and the notes."""
    is_val, notes = choose_validation(records, *arguments)
    return {record["video_id"] for record, val in zip(records, is_val, strict=True) if val}, notes


@pytest.mark.parametrize("fraction, expected", [
    (0.2, {"a": 10, "b": 2, "c": 1, "d": 1}), (0.5, {"a": 25, "b": 5, "c": 2, "d": 1}),
    (0.01, {"a": 1, "b": 1, "c": 1, "d": 1}), (0.99, {"a": 49, "b": 9, "c": 2, "d": 1}),
])  # fmt: skip
def test_the_fraction_of_each_class_and_one_on_each_side(fraction, expected):
    found, notes = chosen(records_of(a=50, b=10, c=3, d=2), fraction, 0)
    assert Counter(name[0] for name in found) == expected and notes == []


def test_by_seed_and_not_by_order():
    records = records_of(a=30, b=20)
    found = chosen(records, 0.3, 7)[0]
    assert chosen(np.random.default_rng(0).permutation(np.array(records, object)).tolist(), 0.3, 7)[0] == found
    moved = [record | {"file_name": "/elsewhere/" + record["video_id"]} for record in records]
    assert chosen(moved, 0.3, 7)[0] == found
    assert len({frozenset(chosen(records, 0.3, seed)[0]) for seed in range(10)}) == 10
    # A video that is added moves few others.
    assert len(chosen(records_of(a=31, b=20), 0.3, 7)[0] ^ found) <= 2
    # Every video has the same chance.
    counts = Counter(name for seed in range(400) for name in chosen(records, 0.3, seed)[0])
    assert len(counts) == 50 and min(counts.values()) > 70 and max(counts.values()) < 170


def test_groups_are_never_on_both_sides():
    records = records_of(a=40, b=40)
    groups = [f"person{i % 40 // 4}" for i in range(80)]  # ten people, four videos of each class
    for seed in range(20):
        is_val, notes = choose_validation(records, 0.2, seed, groups)
        people = {group for group, val in zip(groups, is_val) if val}
        assert len(people) == 2 and people.isdisjoint(group for group, val in zip(groups, is_val) if not val)
        assert is_val.sum() == 16 and notes == []
    # Without a group, a video stands for itself.
    found, _ = chosen(records, 0.2, 0, ["one"] * 8 + [""] * 72)
    assert len(found) == 16 and len(found & {f"a/{i}.mp4" for i in range(8)}) in (0, 8)


def test_the_parts_of_a_file_stay_together():
    parts = [
        record | {"video_id": f"{record['video_id']}#{i}", "start_sec": float(i), "end_sec": i + 1.0}
        for record in records_of(a=10, b=10)
        for i in range(3)
    ]
    is_val, notes = choose_validation(parts, 0.3, 0)
    sides = [{part["file_name"] for part, val in zip(parts, is_val) if val == side} for side in (True, False)]
    assert sides[0].isdisjoint(sides[1]) and is_val.sum() == 18 and notes == []


def test_a_file_with_parts_of_several_groups_joins_them():
    parts = [
        {"file_name": "/v/a.mp4", "label": i % 2, "video_id": f"a#{i}"} for i in range(3)
    ] + records_of(a=10, b=10)  # fmt: skip
    groups = ["ann", "bob", "", "ann", "bob", *[f"p{i}" for i in range(18)]]
    for seed in range(20):
        is_val, _ = choose_validation(parts, 0.3, seed, groups)
        assert len(set(is_val[:5].tolist())) == 1 and is_val.any()


def test_groups_that_make_the_fraction_impossible():
    records = records_of(walk=10, run=12, sit=6, rare=1)
    groups = ["p"] * 5 + ["q"] * 5 + [f"r{i}" for i in range(12)] + ["s"] * 6 + [""]
    found, notes = chosen(records, 0.2, 0, groups, ["walk", "run", "sit", "rare"])
    assert Counter(name.split("/")[0] for name in found) == {"walk": 5, "run": 2}
    assert notes == [
        "1 of 4 classes have one video each, which is for training: rare",
        "1 of 4 classes have all their videos in one group or file, which is for training: sit",
        "1 of 4 classes have another share in validation than 0.2, because groups, files and several"
        " labels stay together: walk (5 of 10)",
    ]
    with pytest.raises(ValueError, match="DATASETS.SPLIT: got 1 groups, none of which can leave training"):
        choose_validation(records_of(a=4, b=4), 0.2, 0, ["p"] * 8)


def test_several_labels():
    rng = np.random.default_rng(0)
    records = [record | {"label": sorted(set(rng.integers(0, 6, 3).tolist()))} for record in records_of(a=200)]
    records += [{"file_name": "/videos/x.mp4", "label": [0, 6], "video_id": "x"}]  # the only one of class 6
    records += [{"file_name": "/videos/y.mp4", "label": [], "label_spans": [(0, 0.0, 1.0)], "video_id": "y"}]
    found, notes = chosen(records, 0.25, 0)
    total, val = (Counter(c for r in some for c in r["label"]) for some in (
        records, [r for r in records if r["video_id"] in found]
    ))  # fmt: skip
    assert all(0.2 < val[c] / total[c] < 0.3 for c in range(6)) and val[6] == 0
    assert notes[0] == "1 of 7 classes have one video each, which is for training: 6"


def make_folder(root: Path, **counts: int) -> str:
    """``folder:ROOT`` of files without content."""
    for record in records_of(**counts):
        path = root / record["video_id"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return f"folder:{root}"


def sides_of(lists):
    """The records of the training and the validation list."""
    return [list(get_dataset(name)) for name in lists]


def test_the_lists_hold_the_records(tmp_path, caplog):
    name = make_folder(tmp_path / "videos", **{"Ab, c": 5, "7": 10})
    with caplog.at_level(logging.INFO):
        lists = split_datasets([name], 0.2, 3, "", tmp_path / "run")
    assert lists == (f"list:{tmp_path}/run/split/train.csv", f"list:{tmp_path}/run/split/val.csv")
    assert "12 in" in caplog.text and "3 in" in caplog.text and "FRACTION 0.2, SEED 3" in caplog.text
    train, val = sides_of(lists)
    everything = {record["file_name"]: record["label"] for record in get_dataset(name)}
    assert {r["file_name"]: r["label"] for r in (*train, *val)} == everything and len(train) == 12 and len(val) == 3
    assert all(Path(record["file_name"]).is_absolute() for record in (*train, *val))
    for made in lists:
        assert MetadataCatalog.get(made).classes == ["7", "Ab, c"]
    text = (tmp_path / "run/split/val.csv").read_text()
    assert text.startswith("path,label\n") and (tmp_path / "run/split/classes.txt").read_text() == "7\nAb, c\n"
    # The same again; another split gets a folder of its own, and nothing is lost.
    assert split_datasets([name], 0.2, 3, "", tmp_path / "run") == lists
    other = split_datasets([name], 0.2, 4, "", tmp_path / "run")
    assert other[0] == f"list:{tmp_path}/run/split_2/train.csv" and (tmp_path / "run/split/val.csv").read_text() == text


def test_a_csv_with_groups_seconds_and_spans(tmp_path):
    rows = [f'{i}.mp4,"{i % 2},2",p{i // 4},{i}.5,,{i % 2} 0.0 4.5;2 1.0 3.0' for i in range(24)]
    (tmp_path / "all.csv").write_text("path,label,Person,start_sec,end_sec,label_spans\n" + "\n".join(rows) + "\n")
    name = f"list:{tmp_path}/all.csv"
    assert list_column(name, "person") == [f"p{i // 4}" for i in range(24)]
    lists = split_datasets([name], 0.3, 0, "Person", tmp_path / "run")
    original = {record["file_name"]: record for record in get_dataset(name)}
    train, val = sides_of(lists)
    assert len(val) == 8 and len(train) == 16
    for record in (*train, *val):
        assert record | {"video_id": ""} == original[record["file_name"]] | {"video_id": ""}
    people = [{int(Path(record["file_name"]).stem) // 4 for record in side} for side in (train, val)]
    assert people[0].isdisjoint(people[1])


def test_two_datasets_and_one_of_a_catalog(tmp_path):
    folder = make_folder(tmp_path / "videos", a=5, b=5)
    records = [record | {"who": record["video_id"][-5]} for record in records_of(a=10, b=10)]
    DatasetCatalog.register("split_of_mine", lambda: records)
    MetadataCatalog.get("split_of_mine").classes = ["a", "b"]
    train, val = sides_of(split_datasets([folder, "split_of_mine"], 0.2, 0, "", tmp_path / "run"))
    assert Counter(record["label"] for record in val) == {0: 3, 1: 3} and len(train) == 24
    train, val = sides_of(split_datasets(["split_of_mine"], 0.2, 0, "who", tmp_path / "run"))
    assert len(val) == 4 and {r["file_name"][-5] for r in val}.isdisjoint(r["file_name"][-5] for r in train)


@pytest.mark.parametrize("name, group, message", [
    ("wds:shards/a.tar", "", "DATASETS.SPLIT.FRACTION: got 0.2 for wds:shards/a.tar, allowed for shards: 0"),
    ("folder:{}/no", "", "DATASETS.TRAIN: folder:{}/no: there is no folder {}/no"),
    ("folder:{}/videos", "who", "DATASETS.SPLIT.GROUP: got 'who', but the records of folder:{}/videos"),
    ("list:{}/a.csv", "who", "DATASETS.SPLIT.GROUP: got 'who', allowed are the columns of {}/a.csv: path, label, per"),
])  # fmt: skip
def test_errors_are_one_line(tmp_path, name, group, message):
    make_folder(tmp_path / "videos", a=2, b=2)
    (tmp_path / "a.csv").write_text("path,label,person\nvideos/a/0.mp4,0,x\n")
    with pytest.raises((ValueError, KeyError)) as caught:
        split_datasets([name.format(tmp_path)], 0.2, 0, group, tmp_path / "run")
    assert str(caught.value).startswith(message.format(*[tmp_path] * 2)) and "\n" not in str(caught.value)
