"""Lines read all at once say what lines read one by one say, and leave what is unusual alone."""

import itertools

import numpy as np
import pytest

from nlvideo.data.datasets import get_dataset, listed
from nlvideo.data.records.list_lines import read_csv_lines, read_plain_lines
from nlvideo.data.records.records import list_table

PIECES = ["run", "sit,run", "a.mp4", "b c.mp4", " ", "\t", "3", "07", "1234567890", ",", '"', "#", "é", "\r", "x,1", "-1", "1.5", ".",
          "", "4.", ".5", "0.1", "123456789.123456", "1.1234567", "2147483647"]  # fmt: skip


def read_slowly(monkeypatch, name):
    """The records or the error of a list all of whose lines are read one by one."""

    def none_usual(chunk, *arguments):
        lines = read_csv_lines(chunk, *arguments) if len(arguments) > 1 else read_plain_lines(chunk, *arguments)
        lines.usual[:] = False
        return lines

    with monkeypatch.context() as patch:
        patch.setattr(list_table, "read_plain_lines", none_usual)
        patch.setattr(list_table, "read_csv_lines", none_usual)
        return read(name)


def read(name):
    """The records or the error of a list."""
    try:
        return list(get_dataset(name))
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("label", ["12", "stand-up"])
@pytest.mark.parametrize("header", ["", "path,label", "label,path", "path,label,start_sec", "note,label,end_sec,path"])
def test_both_ways_agree_on_random_lines(tmp_path, monkeypatch, header, label):
    rng = np.random.default_rng(len(header))
    path, usual = tmp_path / "list.csv", 0
    good = {"path": "v/x y.mp4", "label": label, "start_sec": "0.25", "end_sec": "", "note": "fine"}
    columns = header.split(",") if header else ["path", "label"]
    for _ in range(150):
        values = [good[column] for column in columns]
        values[rng.integers(len(values))] = "".join(rng.choice(PIECES, rng.integers(1, 4)))
        lines = [(",".join(row) if header else " ".join(row)) for row in (values, [good[column] for column in columns])]
        path.write_bytes("\n".join([header, *lines]).encode())
        found, slowly = read(f"list:{path}"), read_slowly(monkeypatch, f"list:{path}")
        # Of two mistakes either may be found first.
        assert found == slowly or (isinstance(found, str) and isinstance(slowly, str)), lines
        usual += isinstance(found, list)
    assert usual > 5, "hardly any list could be read"


VALUES = list(itertools.product(["a.mp4", '"a, b.mp4"', '"a""b"', '" c"'], ["5", '"5"', " 5"]))


@pytest.mark.parametrize("values", VALUES)
def test_both_ways_agree_on_quotes(tmp_path, monkeypatch, values):
    path = tmp_path / "list.csv"
    path.write_text("path,label,fps\n" + ",".join([*values, "12.5"]) + "\n")
    found = read(f"list:{path}")
    assert found == read_slowly(monkeypatch, f"list:{path}") and found[0]["fps"] == 12.5


def test_usual_lines_are_not_read_one_by_one():
    text = b"a/b c.mp4 0\nd\xc3\xa9.mp4\tKickflip\r\n# c 1\n\nx.mp4 3,4\n"
    plain = read_plain_lines(np.frombuffer(text, np.uint8))
    assert plain.usual.tolist() == [True, True, False, False, False]
    assert [text[b:e] for b, e in zip(plain.label_begins[:2], plain.label_ends[:2])] == [b"0", b"Kickflip"]
    text = b'"a, b.mp4",7,1.5,,x\nc.mp4,8,,2,y\n"d.mp4",9,"",3,z\n'
    columns = ["path", "label", "start_sec", "end_sec", "note"]
    table = read_csv_lines(np.frombuffer(text, np.uint8), columns, ["start_sec", "end_sec"])
    assert table.usual.tolist() == [True, True, False] and text[table.label_begins[1] : table.label_ends[1]] == b"8"
    assert np.array_equal(table.numbers["start_sec"][:2], [1.5, np.nan], equal_nan=True)
    assert text[table.path_begins[0] : table.path_ends[0]] == b"a, b.mp4"


def test_numbers_are_those_of_python(tmp_path):
    rng = np.random.default_rng(0)
    texts = [f"{rng.integers(10**9) / 10 ** rng.integers(7):.{places}f}" for places in range(1, 7) for _ in range(200)]
    (tmp_path / "list.csv").write_text("path,label,start_sec\n" + "".join(f"a.mp4,1,{text}\n" for text in texts))
    assert [record["start_sec"] for record in get_dataset(f"list:{tmp_path}/list.csv")] == list(map(float, texts))


def test_chunks_and_line_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(listed, "_CHUNK_BYTES", 50)
    lines = [f"{'long/' * (i % 7)}{i}.mp4 {i}" + (",9" if i % 10 == 3 else "") for i in range(100)]
    (tmp_path / "list.txt").write_text("# first\n" + "\n".join(lines))
    records = get_dataset(f"list:{tmp_path}/list.txt")
    assert [record["video_id"] for record in records] == [line.split(" ")[0] for line in lines]
    assert [record["label"] for record in records] == [[i, 9] if i % 10 == 3 else i for i in range(100)]
    (tmp_path / "list.txt").write_text("# first\n" + "\n".join(lines) + "\nwrong\n")
    with pytest.raises(ValueError, match="list.txt:102: expected 'path label'"):
        get_dataset(f"list:{tmp_path}/list.txt")


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"\xef\xbb\xbfa.mp4 0\r\nb.mp4 1\r\n", ["a.mp4", "b.mp4"]),
        (b"a.mp4 0\rb.mp4 1\r", ["a.mp4", "b.mp4"]),
        (b"a.mp4 0", ["a.mp4"]),
        (b"a.mp4 0\nb\xff.mp4 1\n", ["a.mp4", "b\udcff.mp4"]),
        (b'a.mp4 0\n"\xff x.mp4" 1\n', ["a.mp4", "\udcff x.mp4"]),
        ("a.mp4 0\n".encode("utf-16"), "list.csv: expected text in UTF-8, found bytes 0"),
        (b"a.mp4 99999999999\n", "list.csv:1: the label 99999999999 is not of 32 bits"),
    ],
)
def test_what_other_systems_write(tmp_path, data, expected):
    (tmp_path / "list.csv").write_bytes(data)
    found = read(f"list:{tmp_path}/list.csv")
    assert [r["video_id"] for r in found] == expected if isinstance(expected, list) else expected in found
