"""Checks before a run: one clear line each."""

import logging
import os
import threading
import time

import pytest

from nlvideo.data import checks, many_files
from nlvideo.data.catalog import MetadataCatalog
from nlvideo.data.checks import check_files, check_pair, check_records, fingerprint, log_dataset, warn_of_shared_videos
from nlvideo.data.datasets import get_dataset
from nlvideo.data.datasets.list_files import write_list
from nlvideo.data.records.records import SerializedRecords
from nlvideo.dataset_tools.shard_writing import write_shards


def make_records(labels, folder="/videos"):
    """Records with these labels."""
    return [{"file_name": f"{folder}/{i}.mp4", "label": label, "video_id": f"{i}"} for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    "labels, multi_label, message",
    [
        ([], False, "mine: the dataset is empty, allowed: at least one video"),
        ([0, 3], False, r"mine: 1 has the label 3, allowed: 0 to 2 \(MODEL.HEAD.NUM_CLASSES = 3\)"),
        ([-1], False, "mine: 0 has the label -1, allowed: 0 to 2"),
        ([[0, 1], [2, 5]], True, r"mine: 1 has the label 5, allowed: 0 to 2"),
        (
            [0, [0, 1]],
            False,
            r"mine: 1 has the labels \[0, 1\], MODEL.HEAD.LOSS 'softmax' allows one label; 'sigmoid' ",
        ),
        ([0, 1.0], False, "mine: a label is 1.0, allowed: an integer of 32 bits, or a list of them"),
        ([0, "run"], False, "mine: a label is 'run', allowed: an integer of 32 bits"),
        ([[0, 2**40]], True, r"mine: a label is \[0, 1099511627776\], allowed: an integer of 32 bits"),
        ([[], []], True, "mine: no video has a label, allowed: at least one"),
        (
            [0, 1, 2, 0, 1],
            False,
            "mine: 5 of 5 videos do not exist: /videos/0.mp4, /videos/1.mp4, /videos/2.mp4, /videos/3.mp4 and 1 more",
        ),
    ],
)
def test_errors(labels, multi_label, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_records("mine", make_records(labels), 3, multi_label)
    assert "\n" not in str(caught.value)


SPANS = [(0, 0.0, 1.0), (3, 1.0, 2.0)]


@pytest.mark.parametrize("kind", ["dicts", "serialized", "list", "shards"])
def test_spans_of_labels_have_classes_of_the_model(tmp_path, make_video, kind):
    paths = [make_video(tmp_path / f"{i}.mp4", num_frames=4) for i in range(3)]
    records = [{"file_name": path, "label": [0], "video_id": path, "label_spans": []} for path in paths]
    records[1]["label_spans"] = SPANS
    name = "mine"
    if kind == "list":
        name = f"list:{tmp_path}/a.csv"
        write_list("mine", records, f"{tmp_path}/a.csv")
    if kind == "shards":
        name = f"wds:{tmp_path}/a.tar"
        write_shards(records, [f"{tmp_path}/a.tar"], shuffle_seed=None)
    if kind != "dicts":
        records = get_dataset(name) if ":" in name else SerializedRecords(records)
    check_records(name, records, 4, True)
    for number in (3, 2):
        with pytest.raises(
            ValueError, match=f"1.mp4 has label_spans with the label 3, allowed: 0 to {number - 1}"
        ) as caught:
            check_records(name, records, number, True)
        assert "\n" not in str(caught.value)
    plain = [record | {"label": 0} for record in records]
    with pytest.raises(
        ValueError, match="has label_spans, whose clips have any number of labels, MODEL.HEAD.LOSS 'softmax'"
    ):
        check_records(name, plain, 4, False)


def test_more_names_than_classes():
    MetadataCatalog.get("five_names").classes = list("abcde")
    MetadataCatalog.get("five_names").classes_from = "/x/classes.txt"
    with pytest.raises(
        ValueError, match="five_names: 5 classes are named by /x/classes.txt, but MODEL.HEAD.NUM_CLASSES is 3"
    ):
        check_records("five_names", make_records([0]), 3, False)


def test_good_records_pass(tmp_path):
    records = make_records([0, 2, 1], tmp_path)
    for record in records:
        open(record["file_name"], "w").close()
    check_records("mine", records, 3, False)
    check_records("mine", [record | {"label": [0, 2]} for record in records], 3, True)
    (tmp_path / "1.mp4").unlink()
    with pytest.raises(ValueError, match=f"mine: 1 of 3 videos do not exist: {tmp_path}/1.mp4$"):
        check_files("mine", records)


@pytest.mark.parametrize(
    "trained, tested, labels, message",
    [
        ("ab", "ab", [0, 1], None),
        ("", "ab", [0, 1], None),
        ("ab", "", [1], None),
        ("abc", "ac", [0, 1], "mine: class 1 is 'c', but 'b' in theirs"),
        ("ab", "abc", [0, 1], "mine: class 2 is 'c', and theirs has no class 2$"),
        ("abc", "ab", [0, 1], "mine: there is no class 2, but class 2 in theirs is 'c'$"),
        ("ba", "ab", [0, 1], "mine: class 0 is 'a', but 'b' in theirs"),
        ("", "", [0, 2], "mine: 1 has the label 2, which no video of theirs has"),
        ("abc", "abc", [0, 2], r"mine: 1 has the label 2 \(c\), which no video of theirs has"),
    ],
)
def test_classes_of_a_test_are_those_of_training(monkeypatch, trained, tested, labels, message):
    monkeypatch.setattr(MetadataCatalog.get("theirs"), "classes", list(trained))
    monkeypatch.setattr(MetadataCatalog.get("mine"), "classes", list(tested))
    arguments = (["theirs"], make_records([0, 1, 1]), "mine", make_records(labels))
    if message is None:
        check_pair(*arguments, False)
        return
    with pytest.raises(ValueError, match=message) as caught:
        check_pair(*arguments, False)
    assert "\n" not in str(caught.value)


def test_rare_classes_may_occur_in_a_multilabel_test_alone():
    check_pair(["theirs"], make_records([[0, 1], []]), "mine", make_records([[2], []]), True)


def test_folders_of_frames_are_videos(tmp_path, make_frames):
    records = make_records([0, 0, 0], tmp_path)
    for record in records:
        make_frames(record["file_name"], num_frames=3)
    check_records("mine", records, 3, False)
    records[1] |= {"fps": 24.0, "start_sec": 1.0}
    check_files("mine", records)
    for key, value in (("end_sec", 2.0), ("label_spans", [])):
        with pytest.raises(ValueError, match=f"mine: 2 is a folder of frames with {key} but without fps, allowed: fr"):
            check_files("mine", [*records[:2], records[2] | {key: value}])


def test_fingerprint_depends_on_ids_labels_and_order_only():
    records = make_records([0, 1, 2])
    assert len(fingerprint(records)) == 8 and fingerprint(records) == fingerprint(make_records([0, 1, 2], "/elsewhere"))
    others = [make_records([0, 1, 1]), records[::-1], records[:2], [records[0] | {"video_id": "x"}, *records[1:]]]
    assert len({fingerprint(r) for r in [records, *others]}) == 5


def test_log_line(caplog):
    with caplog.at_level(logging.INFO):
        log_dataset("mine", make_records([0, 1, 1, [0, 1]]))
    assert "mine: 4 videos, 2 classes, 2 to 3 per class, fingerprint " in caplog.text


def test_fingerprint_does_not_depend_on_the_representation():
    records = [record | {"label": [record["label"]]} for record in make_records([0, 1, 2])] + make_records([1])
    assert fingerprint(records) == fingerprint(SerializedRecords(records))
    assert fingerprint(records) != fingerprint([record | {"label": 1} for record in records])


def test_of_many_files_some_are_looked_for(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(checks, "MAX_ALL_CHECKED", 20)
    monkeypatch.setattr(checks, "NUM_CHECKED", 7)
    records = make_records([0] * 21, tmp_path)
    for record in records[::3]:
        open(record["file_name"], "w").close()
    with caplog.at_level(logging.INFO):
        check_files("mine", records)
    assert "mine: looking for 7 of the 21 videos, every 3." in caplog.text
    (tmp_path / "6.mp4").unlink()
    with pytest.raises(ValueError, match=r"mine: 1 of 7 videos looked for \(there are 21\) do not exist: .*/6.mp4$"):
        check_files("mine", records)
    with pytest.raises(ValueError, match="mine: 14 of 20 videos do not exist"):
        check_files("mine", records[:20])


@pytest.mark.parametrize("slow_sec", [0, 1e9])
def test_slow_file_systems_are_asked_by_several_threads(tmp_path, monkeypatch, slow_sec):
    monkeypatch.setattr(many_files, "_SLOW_SEC", slow_sec)
    monkeypatch.setattr(many_files, "_CHUNK", 2)
    threads = set()
    exists = checks.file_exists

    def look(path):
        threads.add(threading.get_ident())
        time.sleep(0.01)
        return exists(path)

    monkeypatch.setattr(checks, "file_exists", look)
    records = make_records([0] * 40, tmp_path)
    for record in records[1:]:
        open(record["file_name"], "w").close()
    with pytest.raises(ValueError, match="mine: 1 of 40 videos do not exist: .*/0.mp4"):
        check_files("mine", records)
    assert len(threads) > 2 if slow_sec == 0 else len(threads) == 2


def test_pipes_are_no_videos(tmp_path):
    os.mkfifo(tmp_path / "0.mp4")
    with pytest.raises(ValueError, match=f"mine: 1 of 1 videos do not exist: {tmp_path}/0.mp4"):
        check_files("mine", make_records([0], tmp_path))


def test_shared_videos_are_said_once(tmp_path, caplog):
    train, test = (make_records([0, 0], tmp_path / name) for name in ("train", "test"))
    for number, record in enumerate([*train, *test]):
        os.makedirs(os.path.dirname(record["file_name"]), exist_ok=True)
        with open(record["file_name"], "w") as file:
            file.write(f"video {number}")
    for _ in range(2):
        warn_of_shared_videos(["a", "b"], train, "mine", test)
        assert not caplog.text
    for _ in range(2):
        warn_of_shared_videos(["a", "b"], train, "mine", [*test, train[1]])
    assert (
        caplog.text.count("mine: 1 of 3 videos are in the training data (a, b), too, whole or in part, such as /") == 1
    )
