"""Parts of messages: what was given, what is allowed, and what is close to it."""

import difflib
from collections.abc import Collection, Iterable, Sequence


def close_matches(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """Return up to ``count`` candidates that resemble ``name``, best first, whatever their case."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=count)]


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return ``"did you mean 'a' or 'b'?"``, or an empty string if nothing resembles ``name``."""
    matches = close_matches(name, candidates)
    return f"did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""


def some(names: Sequence[str], count: int = 4) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def one_of(what: str, given: object, allowed: Iterable[object]) -> ValueError:
    """Return the error for a value that is none of the allowed ones: ``X: got 'a', allowed: 'b', 'c'``."""
    return ValueError(f"{what}: got {given!r}, allowed: {', '.join(repr(value) for value in allowed)}")


def check_one_of(what: str, given: object, allowed: Collection[object]) -> None:
    """Raise the error of ``one_of`` where the value is none of the allowed ones."""
    if given not in allowed:
        raise one_of(what, given, allowed)
