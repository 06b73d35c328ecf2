"""Checks before a run: one clear line each."""

import logging
import threading
import time

import pytest

from nlvideo.data import checks
from nlvideo.data.catalog import MetadataCatalog
from nlvideo.data.checks import check_files, check_pair, check_records, fingerprint, log_dataset
from nlvideo.data.records import SerializedRecords


def make_records(labels, folder="/videos"):
    """Records with these labels."""
    return [{"file_name": f"{folder}/{i}.mp4", "label": label, "video_id": f"{i}"} for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    "labels, multi_label, message",
    [
        ([], False, "mine: the dataset is empty, allowed: at least one video"),
        ([0, 3], False, r"mine: 1 has the label 3, allowed: 0 to 2 \(MODEL.HEAD.NUM_CLASSES = 3\)"),
        ([-1], False, "mine: 0 has the label -1, allowed: 0 to 2"),
        ([[0, 1], [2, 5]], True, r"mine: 1 has the label \[2, 5\], allowed: 0 to 2"),
        ([0, [0, 1]], False, r"mine: 1 has the labels \[0, 1\], MODEL.HEAD.LOSS 'softmax' allows one; 'sigmoid' "),
        ([0, 1, 2, 0, 1], False, "mine: 5 of 5 videos do not exist: /videos/0.mp4, /videos/1.mp4, /videos/2.mp4, ..."),
    ],
)
def test_errors(labels, multi_label, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_records("mine", make_records(labels), 3, multi_label)
    assert "\n" not in str(caught.value)


def test_more_names_than_classes():
    MetadataCatalog.get("five_names").classes = list("abcde")
    MetadataCatalog.get("five_names").classes_from = "/x/classes.txt"
    with pytest.raises(ValueError, match="five_names: 5 classes are named by /x/classes.txt, MODEL.HEAD.NUM_CLASSES = 3"):
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
        ("ab", "abc", [0, 1], "mine: class 2 is 'c', but None in theirs"),
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
    others = [make_records([0, 1, 1]), records[::-1], records[:2], [records[0] | {"video_id": "x"}] + records[1:]]
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
    monkeypatch.setattr(checks, "_SLOW_SEC", slow_sec)
    monkeypatch.setattr(checks, "_CHUNK", 2)
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
