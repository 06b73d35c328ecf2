"""YAML files on `_BASE_` files."""

import os

import pytest

from nlvideo.config.yaml_files import read_yaml_chain


def write(folder, **files):
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_sections_merge_and_the_leaf_has_the_last_word(tmp_path):
    write(tmp_path, base="A: {X: 1, Y: [1, 2]}\nB: 1\n", leaf="_BASE_: base.yaml\nA: {Y: [3]}\n")
    assert read_yaml_chain(str(tmp_path / "leaf.yaml")) == {"A": {"X": 1, "Y": [3]}, "B": 1}


def test_bases_are_relative_to_the_file_that_names_them(tmp_path, monkeypatch):
    write(tmp_path / "bases", root="A: 1\n", middle="_BASE_: root.yaml\nB: 2\n")
    write(tmp_path / "leaves", leaf="_BASE_: ../bases/middle.yaml\nC: 3\n")
    monkeypatch.chdir(tmp_path / "leaves")
    assert read_yaml_chain("leaf.yaml") == {"A": 1, "B": 2, "C": 3}


def test_several_bases_later_over_earlier(tmp_path):
    write(tmp_path, one="A: 1\nB: 1\n", two="B: 2\n", leaf="_BASE_: [one.yaml, two.yaml]\n")
    assert read_yaml_chain(str(tmp_path / "leaf.yaml")) == {"A": 1, "B": 2}


def test_plugins_become_absolute_and_add_up(tmp_path):
    write(tmp_path / "a", base='PLUGINS: ["../one", colorsys]\n')
    write(tmp_path / "b" / "c", leaf='_BASE_: ../../a/base.yaml\nPLUGINS: ["../two", "../../one"]\n')
    got = read_yaml_chain(str(tmp_path / "b" / "c" / "leaf.yaml"))["PLUGINS"]
    root = tmp_path.resolve()
    assert got == [str(root / "one"), "colorsys", str(root / "b" / "two")]


def test_an_empty_file_is_an_empty_mapping(tmp_path):
    write(tmp_path, empty="# nothing\n")
    assert read_yaml_chain(str(tmp_path / "empty.yaml")) == {}


def test_a_missing_base_names_the_file_that_wants_it(tmp_path):
    write(tmp_path, leaf="_BASE_: gone.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"no config file .*gone.yaml \(named as _BASE_ in .*leaf.yaml\)"):
        read_yaml_chain(str(tmp_path / "leaf.yaml"))


def test_a_chain_that_closes_on_itself(tmp_path):
    write(tmp_path, a="_BASE_: b.yaml\n", b="_BASE_: a.yaml\n")
    with pytest.raises(ValueError, match="the chain closes on itself: .*a.yaml -> .*b.yaml -> .*a.yaml"):
        read_yaml_chain(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize("text", ["A: [1\n", "A: !!python/object/apply:os.getcwd []\n"])
def test_what_is_not_safe_yaml_names_the_file_in_one_line(tmp_path, text):
    write(tmp_path, bad=text)
    with pytest.raises(ValueError, match="bad.yaml: not safe YAML") as info:
        read_yaml_chain(str(tmp_path / "bad.yaml"))
    assert "\n" not in str(info.value)


def test_a_list_is_not_a_config(tmp_path):
    write(tmp_path, bad="- 1\n")
    with pytest.raises(ValueError, match="bad.yaml: expected a mapping of keys, got list"):
        read_yaml_chain(str(tmp_path / "bad.yaml"))


def test_a_key_that_stands_twice_is_an_error(tmp_path):
    write(tmp_path, base="A: 1\n", leaf="_BASE_: base.yaml\nSOLVER: {BASE_LR: 0.1}\nSOLVER: {MAX_ITER: 3}\n")
    with pytest.raises(ValueError, match="leaf.yaml: SOLVER stands twice, in lines 2 and 3$"):
        read_yaml_chain(str(tmp_path / "leaf.yaml"))


def test_a_base_that_is_a_pipe_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    write(tmp_path, leaf="_BASE_: pipe.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"pipe.yaml is no file \(named as _BASE_ in .*leaf.yaml\)"):
        read_yaml_chain(str(tmp_path / "leaf.yaml"))


def test_what_an_alias_shares_is_merged_apart(tmp_path):
    write(tmp_path, base="A: &a {X: 1}\nB: *a\n", leaf="_BASE_: base.yaml\nA: {X: 2}\n")
    assert read_yaml_chain(str(tmp_path / "leaf.yaml")) == {"A": {"X": 2}, "B": {"X": 1}}
