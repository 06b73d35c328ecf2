"""Errors: one clear line that names what was asked for and what is close to it, and errors as other processes get them."""

import difflib
import pickle
from collections.abc import Iterable, Sequence


class LookupFailed(KeyError):
    """A name that does not exist. Unlike its base class it prints its message as written, without quotes."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def close_matches(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """Return up to ``count`` candidates that resemble ``name``, best first, whatever their case."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=count)]


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return ``"did you mean 'a' or 'b'?"``, or an empty string where nothing resembles ``name``."""
    matches = close_matches(name, candidates)
    return f"did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""


def some(names: Sequence[str], count: int = 4) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def one_of(what: str, given: object, allowed: Iterable[object]) -> ValueError:
    """Return the error for a value outside a list, ready to raise: ``X: got 'a', allowed: 'b', 'c'``."""
    return ValueError(f"{what}: got {given!r}, allowed: {', '.join(repr(value) for value in allowed)}")


#: mistakes in what the user gave, whose text is all that is needed; subclasses count
FORESEEN = (ValueError, KeyError, OSError, ImportError)
# Kinds of errors that can be made from a text alone; subclasses of theirs often cannot, such as UnicodeError's.
_FROM_TEXT = (LookupFailed, ValueError, OSError, ImportError, FloatingPointError, MemoryError, RuntimeError)


def portable(error: Exception) -> Exception:
    """Return an error that reaches another process as it is: the same, or its text in the nearest kind that pickles.

    An error whose class cannot be built from what it pickled would end the queue that carries it.
    """
    try:
        copy = pickle.loads(pickle.dumps(error))
        whole = type(copy) is type(error) and str(copy) == str(error)
    except Exception:
        whole = False
    if whole:
        return error
    kind = next((kind for kind in _FROM_TEXT if isinstance(error, kind)), RuntimeError)
    return kind(f"{type(error).__name__}: {error}")
