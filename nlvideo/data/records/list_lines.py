"""The lines of a list that have the usual form, read all at once with array operations.

Ten million lines take seconds this way. Whatever is unusual about a line (quotes within it, several labels, spaces
around values, a comment, a mistake) leaves it to the reader of single lines, which decides what it means; both give the
same for the lines that both can read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_SPACE, _TAB, _QUOTE, _HASH, _COMMA, _DOT, _RETURN, _NEWLINE = b' \t"#,.\r\n'
# Below 2 ** 31, and exact in floats together with a fraction of six digits.
_MAX_DIGITS, _MAX_FRACTION_DIGITS = 9, 6


@dataclass
class Lines:
    """Lines of a text, N of them.

    Attributes:
        begins, ends: int64 (N,), where each is in the text; a carriage return at its end does not count.
        usual: bool (N,), whether it could be read here. The columns below hold sense for these alone.
        path_begins, path_ends: int64 (N,), where its path is in the text.
        label_begins, label_ends: int64 (N,), where its label is in the text.
        numbers: float64 (N,) by column, NaN where the line has no value.
    """

    begins: np.ndarray
    ends: np.ndarray
    usual: np.ndarray
    path_begins: np.ndarray
    path_ends: np.ndarray
    label_begins: np.ndarray
    label_ends: np.ndarray
    numbers: dict[str, np.ndarray] = field(default_factory=dict)


def read_plain_lines(text: np.ndarray) -> Lines:
    """Read lines ``path label``.

    Args:
        text: uint8, whole lines, the last one with its newline.
    """
    begins, ends = _find_lines(text)
    spaces = np.flatnonzero((text == _SPACE) | (text == _TAB))
    label_begins = np.append(spaces, -1)[np.searchsorted(spaces, ends) - 1] + 1
    # What is no ASCII may be a space of another kind; several labels have commas between them.
    others = np.flatnonzero(
        ((text < _SPACE) & (text != _NEWLINE)) | (text >= 127) | (text == _COMMA) | (text == _QUOTE)
    )
    usual = (label_begins < ends) & (np.searchsorted(others, ends) == np.searchsorted(others, label_begins))
    usual &= _is_path(text, begins, label_begins - 1)
    return Lines(begins, ends, usual, begins, label_begins - 1, label_begins, ends)


def read_csv_lines(text: np.ndarray, columns: Sequence[str], numbers: Sequence[str]) -> Lines:
    """Read lines of a csv file; the first value may be in quotes, as the path of a list written by a program is.

    Args:
        text: uint8, whole lines, the last one with its newline.
        columns: those of the file; "path" and "label" are among them.
        numbers: names of the columns, where the file has them, that hold numbers or nothing.
    """
    begins, ends = _find_lines(text)
    commas, quotes = np.flatnonzero(text == _COMMA), np.flatnonzero(text == _QUOTE)
    num_quotes = np.searchsorted(quotes, ends) - np.searchsorted(quotes, begins)
    quoted = (num_quotes == 2) & (_at(text, begins) == _QUOTE)
    # Where the search for commas starts: after the closing quote.
    after = begins.copy()
    after[quoted] = quotes[np.searchsorted(quotes, begins[quoted]) + 1] + 1
    first = np.searchsorted(commas, after)
    start = _at(text, begins)
    usual = (start > _SPACE) & (start < 127) & (start != _HASH)
    usual &= ((num_quotes == 0) | quoted) & (np.searchsorted(commas, ends) - first == len(columns) - 1)
    usual &= ~quoted | (_at(text, after) == _COMMA)
    returns = np.flatnonzero(text == _RETURN)
    usual &= np.searchsorted(returns, ends) == np.searchsorted(returns, begins)

    def _bounds(column: str) -> tuple[np.ndarray, np.ndarray]:
        place = columns.index(column)
        padded = np.append(commas, np.zeros(len(columns), np.int64))
        begin = begins if place == 0 else padded[first + place - 1] + 1
        end = ends if place == len(columns) - 1 else padded[first + place]
        inside = quoted & (place == 0)
        begin, end = begin + inside, end - inside
        # Unusual lines have no such columns; nothing is read outside the text for them.
        return np.where(usual, begin, begins), np.where(usual, end, begins)

    path_begins, path_ends = _bounds("path")
    label_begins, label_ends = _bounds("label")
    # A label in quotes, as the first value may be, is left to the reader of single lines: it may hold commas.
    good = _is_path(text, path_begins, path_ends) & _is_path(text, label_begins, label_ends)
    good &= ~quoted | (columns[0] != "label")
    values = {}
    for column in numbers:
        if column in columns:
            values[column], readable = _decimals(text, *_bounds(column))
            good &= readable
    return Lines(begins, ends, usual & good, path_begins, path_ends, label_begins, label_ends, values)


def _find_lines(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    newlines = np.flatnonzero(text == _NEWLINE)
    begins = np.concatenate([[0], newlines[:-1] + 1])
    returned = (newlines > begins) & (_at(text, newlines - 1) == _RETURN)
    return begins, newlines - returned


def _at(text: np.ndarray, places: np.ndarray) -> np.ndarray:
    return text[np.clip(places, 0, len(text) - 1)]


def _is_path(text: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Whether intervals are not empty and begin and end with visible ASCII that means nothing but itself."""
    first, last = _at(text, begins), _at(text, ends - 1)
    is_path = (ends > begins) & (first != _HASH)
    for byte in (first, last):
        is_path &= (byte > _SPACE) & (byte < 127) & (byte != _QUOTE)
    return is_path


def _numbers_before(text: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read the digits that stand before ``ends``, nine at most; return the number and where its digits begin."""
    numbers, places = np.zeros(len(ends), np.int64), ends.copy()
    reading = np.ones(len(ends), bool)
    for power in range(_MAX_DIGITS):
        digits = _at(text, places - 1) - np.uint8(ord("0"))  # what is no digit wraps around to above 9
        reading &= (places > begins) & (digits <= 9)
        if not reading.any():
            break
        numbers += np.where(reading, digits, 0).astype(np.int64) * 10**power
        places -= reading
    return numbers, places


def _decimals(text: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read values such as ``12``, ``2.5`` or nothing; return them and which could be read."""
    last, places = _numbers_before(text, begins, ends)
    whole, whole_begins = _numbers_before(text, begins, places - 1)
    has_fraction = (places > begins) & (_at(text, places - 1) == _DOT)
    digits = ends - places
    # One division of two whole numbers is rounded once, as the conversion of the text would be.
    scale = 10.0 ** np.minimum(digits, _MAX_FRACTION_DIGITS)
    values = np.where(has_fraction, (whole * scale + last) / scale, last)
    readable = np.where(
        has_fraction,
        (whole_begins == begins) & (places - 1 > begins) & (0 < digits) & (digits <= _MAX_FRACTION_DIGITS),
        places == begins,
    )
    return np.where(begins == ends, np.nan, values), readable
