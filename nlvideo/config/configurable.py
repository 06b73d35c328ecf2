"""``@configurable``: one constructor that takes plain arguments or a config."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

from nlvideo.config.node import CfgNode


def configurable(init: Callable[..., None]) -> Callable[..., None]:
    """Let a constructor be called with a config in place of its arguments.

    The class offers ``from_config(cls, cfg, ...)``, which returns the arguments as a dict. A constructor that gets a
    config first (or as ``cfg=``) calls it: ``Head(num_classes=400)`` or ``Head(cfg)``. Other arguments go to
    ``from_config`` if it takes them. Else they override what it returned: ``Head(cfg, num_classes=2)``.

    A constructor raises in terms of its arguments: ``loss: got 'x', allowed: ...``. Where it was called with a config
    and one key has the name of the argument, the error names the key: ``MODEL.HEAD.LOSS: got 'x', allowed: ...``.

    Raises:
        TypeError: it decorates something else, or there is no usable ``from_config``.
    """
    if not inspect.isfunction(init) or init.__name__ != "__init__":
        raise TypeError("@configurable decorates __init__")

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        """Call ``__init__`` with plain arguments."""
        cfg = args[0] if args else kwargs.get("cfg")
        if not isinstance(cfg, CfgNode):
            init(self, *args, **kwargs)
            return
        arguments = _plain_arguments(type(self), args, kwargs)
        try:
            init(self, **arguments)
        except ValueError as error:
            raise _with_key(error, cfg) from None

    return wrapped


def _with_key(error: ValueError, cfg: CfgNode) -> ValueError:
    """Return the error of an argument with the key in place of its name, where one key has that name."""
    found = re.match(r"(\w+)(?=:| with )", str(error))
    keys = [key for key in cfg.keys_with_path() if found and key.split(".")[-1] == found[1].upper()]
    if not found or len(keys) != 1 or type(error) is not ValueError:
        return error
    return ValueError(f"{keys[0]}{str(error)[found.end() :]}").with_traceback(error.__traceback__)


def _plain_arguments(owner: type, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    from_config = getattr(owner, "from_config", None)
    if not inspect.ismethod(from_config):
        raise TypeError(f"{owner.__name__} is called with a cfg but has no classmethod from_config(cls, cfg, ...)")
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), "") != "cfg":
        raise TypeError(f"{owner.__name__}.from_config must take 'cfg' first, it takes {list(parameters)}")
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return from_config(*args, **kwargs)
    taken = {name: value for name, value in kwargs.items() if name in parameters}
    overrides = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**from_config(*args, **taken), **overrides}
