"""A name -> object table for each exchangeable slot of the architecture."""

import functools
from collections.abc import Iterator
from typing import Any

from nlvideo.errors import LookupFailed
from nlvideo.utils.messages import did_you_mean
from nlvideo.utils.plugins import loaded_plugins


class Registry:
    """The objects that may fill one slot, by name.

    ``doc`` says how they are called and what they return; it becomes the ``__doc__`` of the instance.

    Example:
        >>> SHAPE = Registry("SHAPE", "Called as ``shape(size)``.")
        >>> @SHAPE.register()
        ... class Square: ...
        >>> SHAPE.get("Square")
    """

    def __init__(self, name: str, doc: str):
        self.name = name
        self.__doc__ = doc
        self._objects: dict[str, Any] = {}

    def register(self, obj: Any = None, *, name: str | None = None) -> Any:
        """Add an object under ``name``, by default its ``__name__``; usable as a call and as a decorator.

        Returns:
            The object itself, or the decorator if no object was given.

        Raises:
            LookupFailed: the name is taken.
        """
        if obj is None:
            return functools.partial(self.register, name=name)
        key = name or obj.__name__
        if key in self._objects:
            raise LookupFailed(f"{self.name} {key!r} is already registered, by {_origin(self._objects[key])}")
        self._objects[key] = obj
        return obj

    def get(self, name: str, key: str = "") -> Any:
        """Return the object registered under ``name``. Errors begin with ``key``, the key of the config that has it.

        Raises:
            LookupFailed: there is none; the message lists the close matches, the names and the plugins loaded.
        """
        if name in self._objects:
            return self._objects[name]
        hint = did_you_mean(str(name), self._objects) or "no name is close."
        where = f"{key}: " if key else ""
        raise LookupFailed(
            f"{where}unknown {self.name} {name!r}: {hint} Registered: {', '.join(sorted(self._objects)) or 'none'}."
            f" Plugins loaded: {', '.join(loaded_plugins()) or 'none'}"
        )

    def __contains__(self, name: str) -> bool:
        return name in self._objects

    def __iter__(self) -> Iterator[str]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)

    def __repr__(self) -> str:
        return f"Registry({self.name}: {', '.join(self._objects)})"


def _origin(obj: Any) -> str:
    return f"{getattr(obj, '__module__', '?')}.{getattr(obj, '__qualname__', type(obj).__name__)}"
