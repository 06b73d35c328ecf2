"""Annotation files that are damaged or of another dataset: one line that says what, where and what was expected."""

import pytest

from nlvideo.data.datasets import get_dataset
from nlvideo.data.datasets.annotations import read_json, read_lines, read_table
from nlvideo.data.datasets.kinetics_names import kinetics400_classes
from nlvideo.data.datasets.official import find_annotations, get_format, read_split
from nlvideo.errors import AnnotationError


@pytest.fixture()
def official(make_official):
    """``made, read = official(name)``: a dataset, and ``read(split)`` of what its files say when it is called."""

    def make(name):
        made, spec = make_official(name), get_format(name)
        return made, lambda split: read_split(
            spec, split, find_annotations(spec, [made.annotations]), made.root / "videos"
        )

    return make


@pytest.fixture()
def error_of(official):
    """``error_of(name, split, file, text)`` puts ``text`` in place of a file and returns the message of the error."""

    def run(name, split, file, change):
        made, read = official(name)
        path = made.annotations / file
        path.write_text(change(path.read_text()) if callable(change) else change)
        with pytest.raises(AnnotationError) as caught:
            read(split)
        message = str(caught.value)
        assert "\n" not in message and len(message) < 600
        return message.replace(f"{made.annotations}/", "")

    return run


KINETICS = "label,youtube_id,time_start,time_end,split\n"
TRAIN, VAL = "kinetics_train.csv", "kinetics_validate.csv"
SSV1 = "something-something-v1-{}.csv".format
SSV2 = "something-something-v2-{}.json".format
CHARADES = "Charades_v1_{}".format


@pytest.mark.parametrize(
    "name, split, file, change, message",
    [
        # Kinetics
        ("kinetics400", "val", VAL, "youtube_id,time_start,time_end,split\nx,0,10,val\n",
         f"{VAL}:1: expected the columns label,youtube_id,time_start,time_end of Kinetics-400, found youtube_id,"),
        ("kinetics400", "val", VAL, "", f"{VAL}:1: expected the columns label,youtube_id,"),
        ("kinetics400", "val", VAL, KINETICS + "act 1,x,0,10,val\nact 2,y\n",
         f"{VAL}:3: expected 5 values, found 2: ['act 2', 'y']"),
        ("kinetics400", "val", VAL, KINETICS + "act 1,x,0,10,val\njuggling fire,y,0,10,val\n",
         f"{VAL}:3: the class 'juggling fire' is not among the 400 of {TRAIN}"),
        ("kinetics400", "train", TRAIN, KINETICS + "act 1,x,0,soon,train\n",
         f"{TRAIN}:2: time_start and time_end are numbers, found '0' and 'soon'"),
        ("kinetics400", "train", TRAIN, KINETICS + "act 1,x,0,10,train\nact 2,y,0,10,train\n",
         "kinetics400: Kinetics-400 has 400 classes, 2 are named in "),
        ("kinetics400", "train", TRAIN, lambda text: text + "act 7,-train_00000,0,10,train,0\n",
         f"{TRAIN}:402: the video '-train_00000_000000_000010' has the label 366 here and the label 0 in "),
        # Something-Something
        ("ssv1", "train", SSV1("train"), lambda text: text + "12,Turning something upside down\n",
         f"{SSV1('train')}:7: expected 'id;template' of Something-Something v1, found '12,Turning something"),
        ("ssv1", "val", SSV1("validation"), "5;Turning nothing\n",
         f"{SSV1('validation')}:1: the class 'Turning nothing' is not among the 174 of {SSV1('labels')}"),
        ("ssv1", "val", SSV1("labels"), "Turning something upside down\nB\n",
         f"{SSV1('validation')}:2: the class 'Doing [x], 24 of something' is not among the 2 of"),
        ("ssv2", "train", SSV2("train"), "[1, 2", f"{SSV2('train')}:1: expected JSON of Something-Something v2: "),
        ("ssv2", "train", SSV2("train"), '{"database": {}}',
         f"{SSV2('train')}: expected a list of Something-Something v2, found {{'database'"),
        ("ssv2", "train", SSV2("train"), '[{"vid_name": "a", "label": 3}]',
         f"{SSV2('train')}: entry 1: expected the keys id,template of Something-Something v2, found the keys vid"),
        ("ssv2", "val", SSV2("validation"), '[{"id": "1", "template": "Juggling [fire]"}]',
         f"{SSV2('validation')}: entry 1: the class 'Juggling fire' is not among the 174 of {SSV2('labels')}"),
        ("ssv2", "val", SSV2("labels"), '{"A": "0", "B": "0"}',
         f"{SSV2('labels')}: expected the labels 0 to 1, each once"),
        ("ssv2", "val", SSV2("labels"), '{"A": "0", "B": "x"}',
         f"{SSV2('labels')}: 'B': the label 'x' is not an integer"),
        ("ssv2", "val", SSV2("labels"), "[]",
         f"{SSV2('labels')}: expected an object of Something-Something v2, found ["),
        # UCF101
        ("ucf101_split1", "train", "trainlist01.txt", "Class000/v_a.avi 1\nClass001/v_b.avi\n",
         "trainlist01.txt:2: expected 'Class/video.avi label' of UCF101, found 'Class001/v_b.avi'"),
        ("ucf101_split1", "test", "testlist01.txt", "Class000/v_a.avi 1\n",
         "testlist01.txt:1: expected 'Class/video.avi' of UCF101, found 'Class000/v_a.avi 1'"),
        ("ucf101_split1", "train", "trainlist01.txt", "Class000/v_a.avi 2\n",
         "trainlist01.txt:1: the label is 2, but classInd.txt has 1 Class000"),
        ("ucf101_split1", "train", "trainlist01.txt", "Class000/v_a.avi 0\n",
         "trainlist01.txt:1: the label 0 is out of range, allowed: 1 to 101"),
        ("ucf101_split1", "test", "testlist01.txt", "Juggling/v_a.avi\n",
         "testlist01.txt:1: the class 'Juggling' is not among the 101 of classInd.txt"),
        ("ucf101_split1", "test", "classInd.txt", "1 Class000\n3 Class001\n",
         "classInd.txt:2: expected '2 Class', found '3"),
        # HMDB51
        ("hmdb51_split2", "train", "sit_03_test_split2.txt", "a.avi 1\nb.avi 3\n",
         "sit_03_test_split2.txt:2: expected 'video.avi 0', 1 or 2 of HMDB51, found 'b.avi 3'"),
        # Charades
        ("charades", "val", CHARADES("test.csv"), KINETICS,
         "Charades_v1_test.csv:1: expected the columns id,actions of Charades, found label,youtube_id,"),
        ("charades", "val", CHARADES("test.csv"), "id,actions\nA,c001 1.0\n",
         "Charades_v1_test.csv:2: expected an action like 'c092 11.90 21.20', found 'c001 1.0'"),
        ("charades", "val", CHARADES("test.csv"), "id,actions\nA,c157 1 2\n",
         "Charades_v1_test.csv:2: the label 157 is out of range, allowed: 0 to 156"),
        ("charades", "val", CHARADES("test.csv"), "id,actions\nA,c001 1 2\nA,c002 1 2\n",
         "Charades_v1_test.csv:3: the video 'A' has the label [2] here and the label [1] in Charades_v1_test.csv:2"),
        ("charades", "val", CHARADES("classes.txt"), "c000 Holding\nc002 Putting\n",
         "Charades_v1_classes.txt:2: expected 'c001 name', found 'c002 Putting'"),
        # Diving48
        ("diving48", "train", "Diving48_V2_train.json", '[{"vid_name": "a", "label": 48}]',
         "Diving48_V2_train.json: entry 1: the label 48 is out of range, allowed: 0 to 47"),
        ("diving48", "train", "Diving48_vocab.json", "[[1]]",
         "Diving48_vocab.json: entry 1: expected a list of words, found [1]"),
        ("diving48", "train", "Diving48_vocab.json", '[["Back"]]',
         "diving48: Diving48 has 48 classes, 1 are named in "),
    ],
)  # fmt: skip
def test_mistakes_in_files(error_of, name, split, file, change, message):
    assert error_of(name, split, file, change).startswith(message)


def test_repeated_entries_count_once(official):
    made, read = official("kinetics400")
    path = made.annotations / TRAIN
    path.write_text(path.read_text() + "\n".join(path.read_text().splitlines()[1:3]) + "\n")
    found = read("train")
    assert len(found.records) == 400 and found.repeated == 2


def test_files_are_told_apart_by_name(make_official, tmp_path):
    made, spec = make_official("ucf101_split1"), get_format("ucf101_split1")
    (made.annotations / "trainlist02.txt").write_text("of another split\n")
    files = find_annotations(spec, [made.annotations])
    assert {role: [path.name for path in paths] for role, paths in files.items()} == {
        "train": ["trainlist01.txt"], "test": ["testlist01.txt"], "classes": ["classInd.txt"],
    }  # fmt: skip
    with pytest.raises(AnnotationError, match="02.txt: expected a file of UCF101 with a name like trainlist01"):
        find_annotations(spec, [made.annotations / "trainlist02.txt"])
    with pytest.raises(ValueError, match=f"ucf101_split1: there is no file or folder {tmp_path}/nothing"):
        find_annotations(spec, [tmp_path / "nothing"])


def test_a_role_needs_exactly_one_file(official):
    made, read = official("diving48")
    made.write("Diving48_train.json", "[]")
    with pytest.raises(AnnotationError, match=r"diving48: expected one annotation file \*train\*.json \(train\)"):
        read("train")
    for name in ("Diving48_train.json", "Diving48_V2_train.json"):
        (made.annotations / name).unlink()
    with pytest.raises(AnnotationError, match=r"\(train\), found none beside Diving48_V2_test.json, D"):
        read("train")


def test_the_authors_lists_of_kinetics(make_official, monkeypatch, tmp_path):
    monkeypatch.setenv("NLVIDEO_DATASETS", str(tmp_path))
    made = make_official("kinetics600")
    expected = get_dataset("kinetics600_val")
    (made.annotations / VAL).unlink()
    lines = [f"/private/path of/{path} {label}" for _, label, path in made.videos["val"]]
    # Shuffled epochs one after the other, as the authors' training lists have them.
    made.write("vallist.txt", "\n".join(lines + lines[::-1]) + "\n")
    with pytest.raises(AnnotationError, match=r"classes.txt or classids.json \(classes\), found none beside"):
        get_dataset("kinetics600_val")
    made.write("classids.json", {f'"{name}"' if " " in name else name: i for i, name in enumerate(made.classes)})
    assert get_dataset("kinetics600_val") == expected
    made.write("vallist.txt", "/a/b.mp4 1\n/a/c.mp4\n")
    with pytest.raises(AnnotationError, match="vallist.txt:2: expected 'path label', found '/a/c.mp4'"):
        get_dataset("kinetics600_val")
    made.write("classids.json", {"a": 0, "b": 2})
    with pytest.raises(AnnotationError, match="classids.json: expected the ids 0 to 1, each once"):
        get_dataset("kinetics600_val")


def test_a_class_of_kinetics_is_there_once(official):
    made, read = official("kinetics400")
    made.write("classes.txt", "\n".join([*made.classes[:-1], made.classes[0]]))
    with pytest.raises(ValueError, match=f"classes.txt: the class '{made.classes[0]}' is there twice"):
        read("val")


def test_the_names_of_kinetics_400_are_known(make_official, official):
    """A list needs no file of names, and a part of the dataset has the labels of the whole."""
    names = list(kinetics400_classes())
    assert (len(names), names[0], names[-1]) == (400, "abseiling", "zumba") and names == sorted(names)
    assert "passing American football (not in game)" in names and "massaging person's head" in names
    made, read = official("kinetics400")
    made.write(VAL, KINETICS + '"air drumming",x,0,10,val\nzumba,y,0,10,val\n')
    for name in ("x", "y"):
        (made.root / f"videos/{name}_000000_000010.mp4").touch()
    with pytest.raises(AnnotationError, match=f"the class 'air drumming' is not among the 400 of {TRAIN}"):
        read("val")
    (made.annotations / TRAIN).unlink()
    found = read("val")
    assert [record["label"] for record in found.records] == [1, 399] and found.classes == names
    (made.annotations / VAL).rename(made.annotations / TRAIN)
    assert read("train").classes == names
    made.write("vallist.txt", "/a/x_000000_000010.mp4 1\n")
    assert [record["label"] for record in read("val").records] == [1] and read("val").classes == names
    made.write("classes.txt", "\n".join(made.classes))
    assert read("val").classes == made.classes


def test_validation_alone_names_its_classes(official):
    made, read = official("kinetics600")
    (made.annotations / TRAIN).unlink()
    with pytest.raises(AnnotationError, match="Kinetics-600 has 600 classes, 60 are named in"):
        read("val")
    made.write("classes.txt", "\n".join(made.classes))
    assert [record["label"] for record in read("val").records] == [label for _, label, _ in made.videos["val"]]


def test_rows_over_several_lines_keep_their_number(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\ufeffid, text\n1,"two\nlines"\n\n2,x\n', encoding="utf-8")
    assert list(read_table(path, ["id", "text"], "X")) == [
        (f"{path}:3", {"id": "1", "text": "two\nlines"}), (f"{path}:5", {"id": "2", "text": "x"}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "read", [read_lines, lambda path: list(read_table(path, ["id"], "X")), lambda path: read_json(path, list, "X")]
)
def test_binary_files(tmp_path, read):
    path = tmp_path / "a.csv"
    path.write_bytes(b"id\n\xff\xfe\x00\n" * 30)
    with pytest.raises(AnnotationError, match=f"{path}.*(text|csv file of X)"):
        read(path)
