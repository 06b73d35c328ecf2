"""Every official format: what is written in it is read again, from the catalog and through lists."""

import logging
import os
import shutil

import pytest

from nlvideo.data.catalog import DatasetCatalog, MetadataCatalog
from nlvideo.data.datasets import get_dataset
from nlvideo.data.datasets.official import FORMATS, find_named_videos, get_format


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("NLVIDEO_DATASETS", str(tmp_path))
    return tmp_path


def as_tuples(records, folder):
    """Records as the fixture states them."""
    return [(r["video_id"], r["label"], os.path.relpath(r["file_name"], folder)) for r in records]


def test_names_of_the_catalog():
    names = {f"kinetics{n}_{s}" for n in (400, 600, 700) for s in ("train", "val")}
    names |= {f"{d}_{s}" for d in ("ssv1", "ssv2", "charades") for s in ("train", "val")} | {"diving48_train"}
    names |= {f"{d}_split{n}_{s}" for d in ("ucf101", "hmdb51") for n in (1, 2, 3) for s in ("train", "test")}
    assert names | {"diving48_test"} == {f"{spec.name}_{s}" for spec in FORMATS.values() for s in spec.splits}
    assert names <= set(DatasetCatalog)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_is_read(make_official, name):
    made, spec = make_official(name), get_format(name)
    for path in list(made.annotations.iterdir()):
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07 of macOS\xff")
    assert spec.num_classes == len(made.classes)
    for split in spec.splits:
        dataset = f"{name}_{split}"
        records = get_dataset(dataset)
        assert as_tuples(records, made.root / "videos") == made.videos[split]
        assert all(os.path.isabs(record["file_name"]) for record in records)
        assert MetadataCatalog.get(dataset).classes == made.classes
        expected = "multilabel" if name == "charades" else "classification"
        assert MetadataCatalog.get(dataset).evaluator_type == expected


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_missing_root_is_one_line(root, name):
    spec = get_format(name)
    for split in spec.splits:
        with pytest.raises(ValueError) as caught:
            get_dataset(f"{name}_{split}")
        message, folder = str(caught.value), root / name.partition("_")[0]
        assert message.startswith(f"{name}_{split}: there is no folder {folder}; {spec.title} is looked for in ")
        assert "annotations/" in message and "videos/" in message and "datasets/README.md" in message
        assert "$NLVIDEO_DATASETS" in message and "tools/prepare_dataset.py" in message and "\n" not in message


def test_a_root_without_videos_or_without_annotations(make_official, root):
    made = make_official("ssv2")
    made.annotations.rename(root / "elsewhere")
    with pytest.raises(ValueError, match=f"ssv2_val: there is no folder {made.annotations}; "):
        get_dataset("ssv2_val")
    (made.root / "videos").rename(made.root / "films")
    with pytest.raises(ValueError, match=f"ssv2_val: there is no folder {made.root}/videos; "):
        get_dataset("ssv2_val")
    # The name that the authors gave the folder will do, too.
    (made.root / "films").rename(made.root / "20bn-something-something-v2")
    (root / "elsewhere").rename(made.annotations)
    assert len(get_dataset("ssv2_val")) == 6


def test_without_the_variable_the_root_is_the_folder_datasets(make_official, root, monkeypatch):
    make_official("diving48")
    (root / "cwd").mkdir()
    shutil.move(root / "diving48", root / "cwd/datasets/diving48")
    monkeypatch.delenv("NLVIDEO_DATASETS")
    monkeypatch.chdir(root / "cwd")
    assert get_dataset("diving48_test")[0]["file_name"] == f"{root}/cwd/datasets/diving48/videos/_8Vytest_00000.mp4"


def test_missing_videos_are_left_out_and_logged_up_to_a_fraction(make_official, caplog):
    made = make_official("kinetics400")
    for _, _, path in made.videos["train"][:40]:
        (made.root / "videos" / path).unlink()
    with caplog.at_level(logging.WARNING):
        records = get_dataset("kinetics400_train")
    assert as_tuples(records, made.root / "videos") == made.videos["train"][40:]
    assert MetadataCatalog.get("kinetics400_train").classes == made.classes
    first = ", ".join(video_id for video_id, *_ in made.videos["train"][:4])
    expected = f"kinetics400_train: 40 of 400 videos (10.0%) are not in {made.root}/videos: {first} and 36 more"
    assert expected in caplog.text and "tools/prepare_dataset.py lists them all" in caplog.text
    (made.root / "videos" / made.videos["train"][40][2]).unlink()
    with pytest.raises(ValueError, match=r"kinetics400_train: 41 of 400 videos \(10.2%\) .*; allowed: 10%$"):
        get_dataset("kinetics400_train")


def test_other_datasets_are_complete_or_an_error(make_official):
    made = make_official("charades")
    (made.root / "videos/46GP8.mp4").unlink()
    with pytest.raises(ValueError, match=r"charades_train: 1 of 2 videos \(50.0%\) are not in .*: 46GP8; allowed: 0%"):
        get_dataset("charades_train")
    assert len(get_dataset("charades_val")) == 2


def test_charades_keeps_the_times_of_actions(make_official):
    made = make_official("charades")
    first, second = get_dataset("charades_train")
    assert first["label_spans"] == [(92, 11.9, 21.2), (147, 0.0, 12.6), (92, 22.0, 23.5)] and "fps" not in first
    assert second["label"] == [] and second["label_spans"] == []
    # As frames, whose rate is known.
    shutil.rmtree(made.root / "videos")
    for video_id in ("46GP8", "N11GT"):
        (made.root / "Charades_v1_rgb" / video_id).mkdir(parents=True)
    records = get_dataset("charades_train")
    assert [record["fps"] for record in records] == [24.0, 24.0]
    assert records[0]["file_name"] == str(made.root / "Charades_v1_rgb/46GP8")


def test_frames_of_something_something_have_a_rate(make_official):
    make_official("ssv1")
    assert {record["fps"] for record in get_dataset("ssv1_train")} == {12.0}


def test_videos_are_found_by_name_and_folders_of_frames_are_not_entered(tmp_path, make_frames, monkeypatch):
    make_frames(tmp_path / "v/class a/7", num_frames=2)
    for path in ("1.mp4", "1.txt", "2.WEBM", "class a/3.avi", "x/y/z/4.mp4", "x/y/z/w/5.mp4", "class b/3.mkv", "6.jpg"):
        (tmp_path / "v" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "v" / path).touch()
    scanned, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(os.path.basename(path)) or scandir(path))
    found = find_named_videos(tmp_path / "v", {*"1234567", "class b/3", "class b/4"})
    relative = {name: os.path.relpath(path, tmp_path / "v") for name, path in found.items()}
    assert relative == {
        "1": "1.mp4", "2": "2.WEBM", "3": "class a/3.avi", "class b/3": "class b/3.mkv", "4": "x/y/z/4.mp4",
        "7": "class a/7",
    }  # fmt: skip
    assert "7" not in scanned and "w" not in scanned


def test_unknown_format_lists_near_ones():
    with pytest.raises(KeyError, match="unknown dataset 'kinetics40': did you mean 'kinetics400'"):
        get_format("kinetics40")
