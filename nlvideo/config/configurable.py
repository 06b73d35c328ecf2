"""``@configurable``: one constructor that takes plain arguments or a config."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from nlvideo.config.node import CfgNode


def configurable(init: Callable | None = None, *, from_config: Callable | None = None) -> Callable:
    """Let a constructor or a function be called with a config in place of its arguments.

    On ``__init__``, the class offers ``from_config(cls, cfg, ...)``, which returns the arguments as a dict. A
    function names its own: ``@configurable(from_config=f)``. Called with a config first (or as ``cfg=``), the
    arguments that ``from_config`` does not take override what it returned; called without, nothing changes.

    Example:
        >>> class Head(nn.Module):
        ...     @configurable
        ...     def __init__(self, num_classes: int): ...
        ...     @classmethod
        ...     def from_config(cls, cfg): return {"num_classes": cfg.MODEL.HEAD.NUM_CLASSES}
        >>> Head(400), Head(cfg), Head(cfg, num_classes=2)

    Raises:
        TypeError: it decorates something else, or there is no usable ``from_config``.
    """
    if init is not None:
        if not inspect.isfunction(init) or init.__name__ != "__init__" or from_config is not None:
            raise TypeError("@configurable decorates __init__; a function needs @configurable(from_config=...)")
        return _configurable_init(init)
    if from_config is None:
        raise TypeError("@configurable on a function needs from_config=, a function that takes a cfg first")
    _check_from_config(from_config, "from_config")
    return functools.partial(_configurable_function, from_config)


def _configurable_init(init: Callable) -> Callable:
    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        """Call ``__init__`` with plain arguments."""
        if not _has_cfg(args, kwargs):
            init(self, *args, **kwargs)
            return
        owner = type(self)
        from_config = getattr(owner, "from_config", None)
        if not inspect.ismethod(from_config):
            raise TypeError(f"{owner.__name__} is called with a cfg but has no classmethod from_config(cls, cfg, ...)")
        _check_from_config(from_config, f"{owner.__name__}.from_config")
        init(self, **_explicit_arguments(from_config, args, kwargs))

    return wrapped


def _configurable_function(from_config: Callable, function: Callable) -> Callable:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        """Call the function with plain arguments."""
        if _has_cfg(args, kwargs):
            return function(**_explicit_arguments(from_config, args, kwargs))
        return function(*args, **kwargs)

    return wrapped


def _has_cfg(args: tuple, kwargs: dict[str, Any]) -> bool:
    return isinstance(args[0] if args else kwargs.get("cfg"), CfgNode)


def _check_from_config(from_config: Callable, name: str) -> None:
    parameters = list(inspect.signature(from_config).parameters)
    if not parameters or parameters[0] != "cfg":
        raise TypeError(f"{name} must take 'cfg' first, it takes {parameters}")


def _explicit_arguments(from_config: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(from_config).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return from_config(*args, **kwargs)
    names = {parameter.name for parameter in parameters}
    taken = {name: value for name, value in kwargs.items() if name in names}
    overrides = {name: value for name, value in kwargs.items() if name not in names}
    return from_config(*args, **taken) | overrides
