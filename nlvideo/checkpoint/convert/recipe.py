"""Configs that other frameworks put into their files: whatever changes the network is read, or refused by its name."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nlvideo.utils.messages import one_of

#: a setting that is read elsewhere, that names and shapes of the weights show, or that changes no scores
ANY = object()

Known = Mapping[str, Any]


def known(settings: str, **others: Any) -> dict[str, Any]:
    """Return a table for `check_recipe`.

    Args:
        settings: names of those that are `ANY`, with spaces between them.
        others: setting -> the list of values that our network has a counterpart for, or the table of its own settings.
    """
    return dict.fromkeys(settings.split(), ANY) | others


def check_recipe(where: str, given: object, table: Known) -> None:
    """Refuse a setting that our network cannot express, and one that is not in the table.

    A setting that is not in the table but off (False, None, 0 or empty) is taken to be of another version, and unused.

    Args:
        where: the framework and the section, for the error.
        given: the section as the file has it.
        table: from `known`.

    Raises:
        ValueError: naming the setting, what it is, and what is allowed.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: got {given!r}, expected a section of settings")
    for key, value in given.items():
        name, allowed = f"{where}.{key}", table.get(key)
        if isinstance(allowed, Mapping):
            check_recipe(name, value, allowed)
        elif allowed is None and value:
            raise ValueError(f"{name}: {value!r} in the config of the file is not understood: its network is unknown")
        elif allowed not in (None, ANY) and value not in allowed:
            raise one_of(f"{name} in the config of the file", value, allowed)


@contextmanager
def reading_recipe(source: str) -> Iterator[None]:
    """Make settings of another kind than expected, such as a text for a list, a ValueError while a config is read."""
    try:
        yield
    except (TypeError, AttributeError, LookupError) as error:
        reason = f"of another kind than expected ({type(error).__name__}: {error})"
        raise ValueError(f"{source}: a setting of the config in the file is {reason}") from error
