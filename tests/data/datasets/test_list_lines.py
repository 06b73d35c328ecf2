"""Lines of lists: quotes, spaces, numbers, line ends, and what other systems write."""

import numpy as np
import pytest

from nlvideo.data.datasets import get_dataset

PIECES = [
    "run", "sit,run", "a.mp4", "b c.mp4", " ", "\t", "3", "07", "1234567890", ",", '"', "#", "é", "\r", "x,1", "-1",
    "1.5", ".", "", "4.", ".5", "0.1", "123456789.123456", "1.1234567", "2147483647",
]  # fmt: skip


def read(name):
    """The records or the error of a list."""
    try:
        return list(get_dataset(name))
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("label", ["12", "stand-up"])
@pytest.mark.parametrize("header", ["", "path,label", "label,path", "path,label,start_sec", "note,label,end_sec,path"])
def test_a_line_means_the_same_whatever_comes_after_it(tmp_path, header, label):
    rng = np.random.default_rng(len(header))
    path, readable = tmp_path / "list.csv", 0
    good = {"path": "v/x y.mp4", "label": label, "start_sec": "0.25", "end_sec": "", "note": "fine"}
    columns = header.split(",") if header else ["path", "label"]
    usual = (",".join if header else " ".join)([good[column] for column in columns])
    (tmp_path / "classes.txt").write_text("stand-up\nrun\nsit\n3\n07\n1.5\n" if label == "stand-up" else "")
    for _ in range(150):
        values = [good[column] for column in columns]
        values[rng.integers(len(values))] = "".join(rng.choice(PIECES, rng.integers(1, 4)))
        line = (",".join if header else " ".join)(values)
        found = []
        for lines in ([usual, line], [usual, line, usual]):
            path.write_bytes("\n".join([header, *lines, ""]).encode())
            found.append(read(f"list:{path}"))
        last, among = found
        if isinstance(last, str):
            assert among == last, line
        else:
            assert among[:-1] == last and among[-1] | {"video_id": ""} == last[0] | {"video_id": ""}, line
            readable += len(last) == 2
    assert readable > 5, "hardly any list could be read"


@pytest.mark.parametrize("path, expected", [("a.mp4", "a.mp4"), ('"a, b.mp4"', "a, b.mp4"), ('"a""b"', 'a"b'),
                                            ('" c"', " c"), ("d ", "d"), ('"#e"', "#e")])  # fmt: skip
@pytest.mark.parametrize("label", ["5", '"5"', " 5"])
def test_quotes_and_spaces_around_values(tmp_path, path, expected, label):
    file = tmp_path / "list.csv"
    file.write_text(f"path,label,fps\n{path},{label},12.5\n")
    (record,) = read(f"list:{file}")
    assert (record["video_id"], record["label"], record["fps"]) == (expected, 5, 12.5)


@pytest.mark.parametrize("line", ['"b.mp4,1', 'b.mp4,"1', '"b.mp4",1,"'])
def test_a_quote_ends_in_its_line(tmp_path, line):
    file = tmp_path / "list.csv"
    for after in ("", "\nc.mp4,1", '\n"c.mp4",1', "\n\n# comment\n"):
        file.write_text(f"path,label\na.mp4,0\n{line}{after}")
        with pytest.raises(ValueError) as caught:
            get_dataset(f"list:{file}")
        assert str(caught.value) == f"{file}:3: a quote is not closed, got {line!r}"


def test_a_value_that_csv_does_not_read_is_named(tmp_path):
    file = tmp_path / "list.csv"
    file.write_text(f"path,label\na.mp4,0\n{'b' * 140_000},1\n")
    with pytest.raises(ValueError, match=r"list.csv:3: not a line of a csv file \(field larger than field limit"):
        get_dataset(f"list:{file}")


def test_numbers_are_those_of_python(tmp_path):
    rng = np.random.default_rng(0)
    texts = [f"{rng.integers(10**9) / 10 ** rng.integers(7):.{places}f}" for places in range(1, 7) for _ in range(200)]
    (tmp_path / "list.csv").write_text("path,label,start_sec\n" + "".join(f"a.mp4,1,{text}\n" for text in texts))
    assert [record["start_sec"] for record in get_dataset(f"list:{tmp_path}/list.csv")] == list(map(float, texts))


def test_mistakes_far_down_have_the_number_of_their_line(tmp_path):
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
