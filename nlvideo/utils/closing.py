"""``Closing``: what a ``with`` block closes."""

from types import TracebackType
from typing import TypeVar

Own = TypeVar("Own", bound="Closing")


class Closing:
    """A context manager that closes itself at the end of its block; a base class."""

    def close(self) -> None:
        """Give up what is open; here nothing is."""

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
