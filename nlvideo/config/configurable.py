"""``@configurable``: one constructor that takes plain arguments or a config. And what the keys NAME and ARGS build."""

import functools
import inspect
import re
from collections.abc import Callable, Collection
from typing import Any

from nlvideo.config.node import CfgNode, coerce
from nlvideo.utils.messages import did_you_mean
from nlvideo.utils.registry import Registry


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


def build_registered(
    registry: Registry, cfg: CfgNode, section: str, *inputs: Any, reserved: Collection[str] = (), **options: Any
) -> Any:
    """Call what a registry has under ``SECTION.NAME`` with the config, `inputs`, `options` and ``SECTION.ARGS``.

    Args:
        registry: holds classes and functions that are called ``make(cfg, *inputs, **options, **args)``.
        cfg: the whole config.
        section: path of the section with the keys NAME and ARGS, such as "MODEL.BACKBONE".
        inputs: what the parts before this one give.
        reserved: arguments that ARGS may not hold. Those that ``from_config`` gives are reserved in any case.
        options: further arguments of the call.

    Raises:
        KeyError: the name is not registered.
        ValueError: an argument in ARGS that the object does not take, that has a key of its own, or whose value is
            wrong; and what the object itself raises.
    """
    node, key = cfg.value_at(section), f"{section}.ARGS"
    make = registry.get(node.NAME, f"{section}.NAME")
    args = dict(node.ARGS)
    if not args:
        return make(cfg, *inputs, **options)
    arguments = constructor_arguments(make)
    taken = {*reserved, *options}
    if hasattr(make, "from_config"):
        known = inspect.signature(make.from_config).parameters
        passed = {name: value for name, value in options.items() if name in known}
        taken.update(known, make.from_config(cfg, *inputs, **passed))
    else:
        taken.update(list(arguments)[: 1 + len(inputs)])
    allowed = {name: parameter.default for name, parameter in arguments.items() if name not in taken}
    for name, value in args.items():
        if name not in allowed:
            hint = did_you_mean(name, allowed)
            hint = f"{hint} " if hint else ""
            raise ValueError(
                f"{key}: {node.NAME} has no argument {name!r} of its own. {hint}"
                f"Allowed: {', '.join(map(repr, allowed)) or 'none'}"
            )
        if allowed[name] is not inspect.Parameter.empty:
            args[name] = coerce(value, allowed[name], f"{key}: {name}")
    try:
        return make(cfg, *inputs, **options, **args)
    except ValueError as error:
        if re.split(r"\W", str(error))[0] in args:
            raise ValueError(f"{key}: {error}") from None
        raise


def constructor_arguments(make: Any) -> dict[str, inspect.Parameter]:
    """The arguments of a constructor, with those of its base classes where it passes ``**`` on.

    Args:
        make: a class, or a function that makes something.
    """
    found: dict[str, inspect.Parameter] = {}
    for owner in inspect.getmro(make) if isinstance(make, type) else [make]:
        if isinstance(owner, type) and "__init__" not in vars(owner):
            continue
        parameters = inspect.signature(owner).parameters
        found = {**parameters, **found}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return {name: parameter for name, parameter in found.items() if parameter.kind is not parameter.VAR_KEYWORD}
