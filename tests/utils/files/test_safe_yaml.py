"""YAML of unknown origin: plain values or one line, and never without end."""

import pytest

from nlvideo.utils.files.safe_yaml import parse_yaml


def doubling(first: str, step: str) -> str:
    """A text whose values double with each of 40 lines."""
    lines = [f"k0: &k0 {first}"]
    lines += [f"k{i}: &k{i} " + step.format(f"*k{i - 1}") for i in range(1, 40)]
    return "\n".join(lines)


def test_plain_values_and_aliases() -> None:
    assert parse_yaml("A: {B: [1, 2.5, true, null, x]}") == {"A": {"B": [1, 2.5, True, None, "x"]}}
    assert parse_yaml("") is None
    shared = parse_yaml("A: &a [1]\nB: *a\nC: {<<: {D: 1}, D: 2}\n")
    assert shared == {"A": [1], "B": [1], "C": {"D": 2}} and shared["A"] is not shared["B"]
    merged = parse_yaml("x: &x {a: 0, b: 1}\nouter: {inner: &y {<<: *x, a: 1}}\nz: {<<: *y, a: 2}")
    assert merged["outer"]["inner"] == {"a": 1, "b": 1} and merged["z"] == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A: 1\nB: 2\nA: 3", "A stands twice, in lines 1 and 3"),
        ("A:\n  B: 1\n  B: 1", "B stands twice, in lines 2 and 3"),
        ("{A: 1, A: 2}", "A stands twice, in lines 1 and 1"),
        ("A: &a {B: *a}", "an alias that contains itself"),
        ("A: &a [*a]", "an alias that contains itself"),
        (doubling("[1, 1]", "[{0}, {0}]"), "more than 100000 values"),
        ("[" * 5000, "nested too deeply"),
        ("A: !!python/object/apply:os.getcwd []", "not safe YAML"),
        ("A: [1", "not safe YAML"),
        ("A: 2024-13-45", "month"),
        ("A: \x00", "not safe YAML"),
    ],
)
def test_all_else_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_merged_mappings_do_not_grow_without_end() -> None:
    # PyYAML 6.0.4 and later merges each key once, earlier versions once for each mapping that holds it.
    text = doubling("{a: 1}", "{{<<: [{0}, {0}]}}")
    try:
        values = parse_yaml(text)
    except ValueError as error:
        assert "more than 100000 values" in str(error)
    else:
        assert values == {f"k{i}": {"a": 1} for i in range(40)}
